"""Counts instructions, and ends a slice before the one that is too many.

Unicorn's own count ends a slice by an exit request. Not every translator looks for one at every instruction, and the state that
it leaves is what has reached memory so far: a Thumb guest loses its IT block, an x86 guest its flags, a delay slot counts once
or not at all. So the count is kept by a few instructions of ours, which translated code calls at the head of each instruction
of the guest. They leave the slice as an exception of that instruction would: QEMU then makes the CPU's state whole, by a table
of what it knew when it translated.

Where an instruction that lets interrupts through ends no block, the same code looks in front of each instruction whether an
interrupt that is pending is held back no longer, and ends the slice: when else it would be seen depends on where slices end.

An exception between two instructions counts for one: a guest whose handler cannot be fetched executes nothing any more, and its
slice must end all the same.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

from emu.engine.handle import Handle
from emu.engine.layout import CoreLayout
from emu.engine.repairs.execute import leave_with_executed
from emu.engine.stubs import executable

UC_HOOK_CODE = 4
NO_LIMIT = (1 << 64) - 1
EXCEPTION_INDEX = slice(19, 23)
COUNT = bytes.fromhex(
    "488b01"  # mov rax, [rcx]              void hook(uc, address, size, cells)
    "483b4108"  # cmp rax, [rcx + 8]
    "7304"  # jae end
    "48ff01"  # inc qword [rcx]
    "c3"  # ret
    "488b7910"  # end: mov rdi, [rcx + 16]
    "c787 00000000 01000100"  # mov dword [rdi + exception_index], EXCP_HLT
    "488b3424"  # mov rsi, [rsp]            where in the translated code
    "ff6118"  # jmp [rcx + 24]
)
LOOK = bytes.fromhex(
    "83792800 7419"  # cmp dword [rcx + 40], 0; je count     nothing is pending
    "488b4130 8b00"  # mov rax, [rcx + 48]; mov eax, [rax]
    "854138 740e"  # test [rcx + 56], eax; je count        interrupts are off
    "488b4140 8b00"  # mov rax, [rcx + 64]; mov eax, [rax]
    "23413c"  # and eax, [rcx + 60]
    "3b4148 720d"  # cmp eax, [rcx + 72]; jb end             the priority is low enough
)  # count: what is above
# What `exception` does, for exceptions that never get to Python; jb then means that the slice goes on.
COUNT_EXCEPTION = bytes.fromhex(
    "48b8 0000000000000000"  # movabs rax, &cells
    "488b08"  # mov rcx, [rax]
    "483b4820"  # cmp rcx, [rax + 32]
    "7506"  # jne begun
    "48ffc1 488908"  # inc rcx; mov [rax], rcx
    "48894820"  # begun: mov [rax + 32], rcx
    "483b4808"  # cmp rcx, [rax + 8]
)


@cache
def _hook(exception_index: int, *, looks: bool) -> int:
    code = bytearray(COUNT)
    code[EXCEPTION_INDEX] = exception_index.to_bytes(4, "little")
    return executable(LOOK * looks + bytes(code))


@dataclass(frozen=True, slots=True)
class Gate:
    """What lets interrupts through: a bit of one 32-bit field of env, and that a part of another is below a limit."""

    enable: tuple[str, int]  # field and mask
    priority: tuple[str, int]
    below: int


class _Cells(ctypes.Structure):
    _fields_ = [
        ("done", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("cpu", ctypes.c_uint64),
        ("leave", ctypes.c_uint64),
        ("at_exception", ctypes.c_uint64),  # what `done` was at the last one
        ("pending", ctypes.c_uint64),
        ("enable", ctypes.c_uint64),
        ("enable_mask", ctypes.c_uint32),
        ("priority_mask", ctypes.c_uint32),
        ("priority", ctypes.c_uint64),
        ("below", ctypes.c_uint32),
    ]


class InstructionCounter:
    """The count of one engine's slice. `end` is for any thread, all else for the vCPU's."""

    def __init__(self, handle: Handle, core: CoreLayout) -> None:
        leave, layout = handle.address_of("cpu_loop_exit_restore"), handle.layout
        if layout.executed_field is not None:
            leave = leave_with_executed(layout.suffix, layout.env_in_cpu + layout.env[layout.executed_field][0], leave)
        self._cells = _Cells(cpu=handle.cpu, leave=leave, limit=NO_LIMIT)
        self._core, self._handle = core, handle
        self._function = _hook(core.cpu_exception_index, looks=False)
        self._hook: int | None = None
        self.data = ctypes.addressof(self._cells)  # for COUNT_EXCEPTION

    @property
    def on(self) -> bool:
        """Whether translated code calls the counter."""
        return self._hook is not None

    def switch(self) -> None:
        """Have it call the counter, or no more. Between slices."""
        if self._hook is None:
            self._hook = self._handle.add_hook(UC_HOOK_CODE, self._function, data=self.data)
        else:
            self._handle.remove_hook(self._hook)
            self._hook = None
        self._handle.flush_code()

    def look_at(self, gate: Gate) -> None:
        """End slices where an interrupt that is `pending` gets through `gate`. Before the first slice."""
        address, env = self._handle.env, self._handle.layout.env
        self._cells.enable = address + env[gate.enable[0]][0]
        self._cells.priority = address + env[gate.priority[0]][0]
        self._cells.enable_mask, self._cells.priority_mask, self._cells.below = gate.enable[1], gate.priority[1], gate.below
        self._function = _hook(self._core.cpu_exception_index, looks=True)

    def set_pending(self, level: bool) -> None:
        """The level of the interrupt line."""
        self._cells.pending = level

    def begin(self, limit: int) -> None:
        """Start from nothing, to end after `limit` instructions."""
        self._cells.done = self._cells.at_exception = 0
        self._cells.limit = limit

    def end(self) -> None:
        """Have the slice end before the next instruction."""
        self._cells.limit = 0

    def exception(self) -> bool:
        """Note an exception; whether the slice is to end with it."""
        cells = self._cells
        if cells.done == cells.at_exception:
            cells.done += 1
        cells.at_exception = cells.done
        return bool(cells.done >= cells.limit)

    @property
    def done(self) -> int:
        """Instructions begun: in a callback the current one is among them, after the slice all of them are complete."""
        return int(self._cells.done)
