"""Tells of the exceptions and interrupts that a CPU takes, for logs.

Exceptions pass by Python anyhow. An interrupt is taken inside the library, by a function of the CPU's class, which is led
through a callback here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from emu.engine.layout import Field, IsaLayout

ExecInterrupt = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class Trap:
    """An exception or interrupt that the CPU takes."""

    kind: str
    number: int
    meaning: str  # empty when the layout table does not say
    pc: int  # of the instruction that causes it, or that comes after the interrupt


class TrapTrace:
    """Calls `tracer` at every exception before it is handled, and behind every interrupt where the ISA can tell it."""

    def __init__(
        self,
        layout: IsaLayout,
        field: Callable[[str], Field],
        exec_interrupt: int,
        tracer: Callable[[Trap], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """`exec_interrupt` is the address of CPUClass's pointer to that function; `fail` takes what `tracer` raises."""
        self._layout = layout
        self._field = field
        self._pc = field("pc")
        self._tracer = tracer
        self._fail = fail
        if layout.interrupt_number is not None:
            slot = ctypes.c_void_p.from_address(exec_interrupt)
            self._take = ctypes.PYFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)(slot.value or 0)
            self._callback = ExecInterrupt(self._exec_interrupt)  # the library points to it
            slot.value = ctypes.cast(self._callback, ctypes.c_void_p).value

    def exception(self, number: int) -> None:
        """An exception is about to be handled."""
        self._tracer(Trap("exception", number, self._layout.exceptions.get(number, ""), self._pc.value))

    def _exec_interrupt(self, cpu: int, request: int) -> bool:
        pc = self._pc.value
        taken = bool(self._take(cpu, request))
        try:
            if taken and self._layout.interrupt_number is not None:
                number = self._layout.interrupt_number(self._field)
                self._tracer(Trap("interrupt", number, self._layout.interrupts.get(number, ""), pc))
        except BaseException as exc:
            self._fail(exc)
        return taken
