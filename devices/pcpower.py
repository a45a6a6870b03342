"""How a PC without ACPI tables is switched off and reset.

0x064   W 0xfe: reset, the keyboard controller's pulse on output bit 0 (there is no keyboard: reads are all ones)
0xcf9   R/W reset control of the 82371SB (2.5.4): bit 1 chooses a hard reset, bit 2 rising does it
0x604   W 16 bits with SLP_EN (bit 13): power-off, where QEMU's boards have PM1a_CNT (ACPI 6.5, 4.8.3.2.1)
0x501   W: power-off with exit code 2 * value + 1, as QEMU's isa-debug-exit
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.device import Device
from migration.vmstate import State, VMState, u8

log = logging.getLogger(__name__)

PULSE_RESET = 0xFE
SLP_EN = 1 << 13
SYS_RST, RST_CPU = 0x02, 0x04


class Port(IntEnum):
    """Where the registers are."""

    KEYBOARD = 0x064
    DEBUG_EXIT = 0x501
    PM1A_CNT = 0x604
    RESET_CONTROL = 0xCF9


@dataclass(slots=True, kw_only=True)
class PcPowerState(State):
    """The reset control register."""

    VMSTATE: ClassVar[VMState] = VMState("pc-power", version=1, minimum=1)
    reset_control: int = u8(max=SYS_RST | RST_CPU)


class PcPower(Device[PcPowerState]):
    """Calls back on the vCPU thread, inside the guest's store: a callback may only note what is to be done."""

    STATE = PcPowerState

    def __init__(self, name: str, *, on_power_off: Callable[[int], None], on_reset: Callable[[], None]) -> None:
        """`on_power_off` gets the guest's exit code."""
        self._on_power_off = on_power_off
        self._on_reset = on_reset
        super().__init__(name)

    def read(self, port: int, size: int) -> int:
        """The reset control register is all that can be read."""
        return self.state.reset_control if port == Port.RESET_CONTROL else (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """End or restart the machine, if the value says so."""
        if port == Port.RESET_CONTROL:
            rises = value & ~self.state.reset_control & RST_CPU
            self.state.reset_control = value & (SYS_RST | RST_CPU)
            if rises:
                self._on_reset()
        elif port == Port.KEYBOARD and value & 0xFF == PULSE_RESET:
            self._on_reset()
        elif port == Port.PM1A_CNT and value & SLP_EN:
            self._on_power_off(0)
        elif port == Port.DEBUG_EXIT:
            self._on_power_off((value << 1 | 1) & 0xFF)
        else:
            log.info("%s: guest wrote %d bytes of %#x to port %#x", self.name, size, value, port)
