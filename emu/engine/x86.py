"""What the engine calls on an x86 alone: port accesses, instructions that Unicorn leaves to a hook, exceptions.

IN, OUT --> machine code: may this privilege do it? --> read or write of `map_ports`
an exception --> machine code: QEMU's own entry into the guest's handler
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from emu.engine.core import UC_HOOK_INTR, Engine
from emu.engine.stubs import address_of, executable
from emu.engine.x86native import X86Native
from emu.engine.x86syscall import system_call

UC_HOOK_INSN = 2

_PortRead = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
_PortWrite = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)
_Instruction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class X86Hooks:
    """The hooks of one x86 CPU; to be kept as long as it lives."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._saved_pc = ctypes.c_uint64()  # the machine code's
        offset = {name: engine.layout.env[name][0] for name in ("pc", "hflags", "eflags")}
        checks = [engine.address_of(f"helper_check_io{size}") for size in "bwl"]
        self._native = X86Native(
            engine.cpu,
            engine.env,
            offset["pc"],
            offset["hflags"],
            offset["eflags"],
            engine.address_of("x86_cpu_do_interrupt"),
            engine.counter.data,
            address_of("cpu_exit"),
            (checks[0], checks[1], checks[2]),
            ctypes.addressof(self._saved_pc),
        )

    def map_ports(self, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        """Send port accesses to `read(port, size)` and `write(port, size, value)`, as `Engine.map_mmio` does.

        `size` is 1, 2 or 4. What the guest's privilege does not allow is #GP and never gets here. Set once.
        """
        on_read, on_write = self._engine.accessors(read, write)
        for instruction, callback in (("in", _PortRead(on_read)), ("out", _PortWrite(on_write))):
            checked = executable(self._native.checked_port(self._engine.keep(callback)))
            self._stand_for(instruction, checked)

    def on_instruction(self, instruction: str, handler: Callable[[], None]) -> None:
        """Call `handler()` instead of executing an instruction of those in the layout table, with the pc at it.

        Unicorn moves the pc by the instruction's length afterwards.
        """

        self._stand_for(instruction, self._entry(handler))

    def on_system_call(self, handler: Callable[[], None]) -> None:
        """Do what SYSCALL does in 64-bit code, and call `handler()` for it in other code, with the pc at it."""
        engine = self._engine
        read_eflags = engine.address_of("helper_read_eflags")
        code = system_call(engine.env, engine.layout.env, read_eflags, self._entry(handler))
        self._stand_for("syscall", executable(code))

    def _entry(self, handler: Callable[[], None]) -> int:
        def on_hook(_uc: int, _data: int) -> int:
            try:
                handler()
            except BaseException as exc:
                self._engine.fail(exc)
            return 1

        return self._engine.keep(_Instruction(on_hook))

    def _stand_for(self, instruction: str, entry: int) -> None:
        self._engine.add_hook(UC_HOOK_INSN, entry, instruction=self._engine.layout.instructions[instruction])

    def deliver_exceptions(self) -> None:
        """Have QEMU's own code enter the guest's handler at every exception, instead of `Engine.on_exception`. Set once."""
        self._engine.answer_stop_interrupt(executable(self._native.save_pc()))
        self._engine.add_hook(UC_HOOK_INTR, executable(self._native.enter_handler()))
