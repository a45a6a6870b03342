"""System control unit of a TC1797: the register by which a guest waits (TC1797 User's Manual, 3.5).

    0x5b0  PMCSR   bits 1..0 REQSLP: 1 requests idle mode; bits 10..8 PMST: the mode, which is run (1) whenever a guest reads it

Missing: sleep mode, which is idle mode here, and every other register: clocks, resets, watchdog. They read 0 and keep nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.device import Device
from migration.vmstate import State, VMState

log = logging.getLogger(__name__)

REQSLP, REQUEST_IDLE, REQUEST_SLEEP = 0x3, 1, 2
PMST_RUN = 1 << 8


class Reg(IntEnum):
    """Register offsets."""

    PMCSR = 0x5B0


@dataclass(slots=True, kw_only=True)
class Tc1797ScuState(State):
    """That a CPU is idle is its own state."""

    VMSTATE: ClassVar[VMState] = VMState("tc1797-scu", version=1, minimum=1)


class Tc1797Scu(Device[Tc1797ScuState]):
    """Calls back on the vCPU thread, inside the guest's store."""

    STATE = Tc1797ScuState

    def __init__(self, name: str, *, on_idle: Callable[[], None]) -> None:
        """`on_idle` has the CPU wait for an interrupt."""
        self._on_idle = on_idle
        super().__init__(name)

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002 - the bus's signature
        """The CPU that reads is running."""
        return PMST_RUN if offset == Reg.PMCSR else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Wait, if that is what is requested."""
        if offset == Reg.PMCSR and value & REQSLP in (REQUEST_IDLE, REQUEST_SLEEP):
            self._on_idle()
        else:
            log.info("%s: guest wrote %d bytes of %#x at %#x", self.name, size, value, offset)
