"""A stop, the pc of an exception, waits that would spin: answers to a question that the library asks.

Before it does anything about an exception Unicorn asks `uc_struct.stop_interrupt` whether that ends the slice. None does, for
the guest gets them all, but it is where

- a stop asked for by another thread becomes one: `uc_emu_stop` would set `uc_struct.stop_request` at once, which SYSCALL, RDTSC
  and their like take, in the middle of a block, for a reason not to call the hook that stands for them. So that thread just
  has the CPU leave its chain of blocks, which the library does by an exception of its own, EXCP_INTERRUPT;
- the pc of an exception is last known, on an ISA that loses it afterwards;
- a wait that would spin can be made to end the slice;
- m68k's BKPT, which QEMU has for its debugger alone, can be made the exception that it is: the library would stop its CPU and
  spin, deaf to every stop.

The question comes at the begin of a slice too, once the library has made the next pc the one behind the pc; but a slice may
begin in a delay slot.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.engine.handle import Handle
from emu.engine.layout import EXCP_DEBUG, EXCP_HALTED, EXCP_HLT
from emu.engine.stubs import executable, jump_to

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

GOES_ON = bytes.fromhex("31c0 c3")  # xor eax, eax; ret
IS_STOP = bytes.fromhex(
    "81fe 00000100"  # cmp esi, EXCP_INTERRUPT       bool stop_interrupt(uc, number)
    "740c"  # je behind the jump to the answer
)
STOPS = bytes.fromhex("c687 00000000 01")  # mov byte [rdi + stop_request], 1

_StopInterrupt = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)


def stop_or(answer: int | None, stop_request: int) -> int:
    """The address of a function that answers the question for a stop, and else by the function at `answer`, if any.

    `stop_request` is the offset of that field.
    """
    stops = bytearray(STOPS)
    stops[2:6] = stop_request.to_bytes(4, "little")
    otherwise = jump_to(executable(GOES_ON) if answer is None else answer)
    return executable(IS_STOP + otherwise + bytes(stops) + GOES_ON)


class StopQuestion:
    """Knows the pc of the exception under way. On the vCPU thread."""

    def __init__(self, handle: Handle, exception_index: ctypes.c_int32, answer: Callable[[CFuncPtr], None]) -> None:
        """`answer` has the library ask a callback; called only where the ISA needs it."""
        layout = handle.layout
        self._pc = handle.field("pc")
        self._npc = handle.field("npc") if "npc" in layout.env else None
        self._advance = layout.pc_advance
        self._waiting = handle.field(layout.wait_field) if layout.wait_field else None
        self._wait_bit, self._spins = layout.wait_bit, layout.wait_spins
        self._handle = handle
        self._exception_index = exception_index
        self._exception_pc = self._exception_npc = 0
        self._first_npc: int | None = None
        self.resumed: Callable[[], None] | None = None  # called where guest code begins to run, after a trap too
        self._breakpoint = layout.breakpoint
        watched = self._waiting is not None or self._breakpoint is not None
        if self._advance is None or self._spins or watched or layout.enters_traps:
            answer(_StopInterrupt(self._asked))

    def slice_begins(self) -> None:
        """Note what the library is about to change."""
        if self._waiting is not None:
            self._waiting.value &= ~self._wait_bit
        if self._npc is not None:
            self._first_npc = self._npc.value

    def restore_pc(self) -> None:
        """In the exception hook: put the pc at the instruction that caused the exception."""
        self._pc.value = self._exception_pc if self._advance is None else self._pc.value - self._advance
        if self._npc is not None:
            self._npc.value = self._exception_npc

    def _asked(self, _uc: int, number: int) -> bool:
        self._exception_pc = self._pc.value
        if self._spins and number == EXCP_HALTED:
            self._exception_index.value = EXCP_HLT
        if self._breakpoint is not None and number == EXCP_DEBUG:
            self._exception_index.value = self._breakpoint
        if self._waiting is not None and number < 0 and self._waiting.value & self._wait_bit:
            self._handle.halted = True
            self._exception_index.value = EXCP_HLT
        if self._npc is not None:
            if self._first_npc is not None:
                self._npc.value, self._first_npc = self._first_npc, None
            self._exception_npc = self._npc.value
        if self.resumed is not None and number < 0:
            self.resumed()
        return False
