"""The pc of an exception, and waits that would spin: answers to a question that the library asks.

Before it does anything about an exception Unicorn asks `uc_struct.stop_interrupt` whether that ends the slice. It is where the
pc of the exception is last known on an ISA that loses it afterwards, and where a wait that would spin can be made to end the
slice. The question comes at the begin of a slice too, once the library has made the next pc the one behind the pc; but a slice
may begin in a delay slot.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.engine.handle import EXCP_HALTED, EXCP_HLT, Handle

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

_StopInterrupt = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)


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
        if self._advance is None or self._spins or self._waiting is not None or layout.enters_traps:
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
