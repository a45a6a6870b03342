"""SiFive test finisher: how a guest ends its machine (QEMU hw/misc/sifive_test.c; Linux syscon-poweroff, syscon-reboot).

One write-only register at offset 0: bits 15..0 say how, bits 31..16 are the exit code of a failure.
Missing: nothing. Other values, offsets and widths do nothing; every register reads 0.
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


class Reg(IntEnum):
    """Register offsets."""

    FINISHER = 0x0


class Finish(IntEnum):
    """How the machine ends."""

    FAIL = 0x3333
    PASS = 0x5555
    RESET = 0x7777


@dataclass(slots=True, kw_only=True)
class SysconState(State):
    """The register keeps nothing."""

    VMSTATE: ClassVar[VMState] = VMState("sifive-test", version=1, minimum=1)


class Syscon(Device[SysconState]):
    """Calls back on the vCPU thread, inside the guest's store: a callback may only note what is to be done."""

    STATE = SysconState

    def __init__(self, name: str, *, on_power_off: Callable[[int], None], on_reset: Callable[[], None]) -> None:
        """`on_power_off` gets the guest's exit code, 0 for PASS."""
        self._on_power_off = on_power_off
        self._on_reset = on_reset
        super().__init__(name)

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002 - the bus's signature
        """Nothing can be read."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End the machine, if the value says so; 16- and 32-bit stores count."""
        how, code = value & 0xFFFF, value >> 16 & 0xFFFF
        if offset != Reg.FINISHER or size not in (2, 4):
            log.info("%s: guest wrote %d bytes at %#x, only 2 or 4 at 0 do anything", self.name, size, offset)
        elif how == Finish.PASS:
            self._on_power_off(0)
        elif how == Finish.FAIL:
            self._on_power_off(code)
        elif how == Finish.RESET:
            self._on_reset()
        else:
            log.info("%s: guest wrote unknown value %#x", self.name, value)
