"""Goldfish interrupt controller: 32 level-triggered inputs on one line (QEMU hw/intc/goldfish_pic.c; Linux irq-goldfish-pic.c).

    0x00 STATUS   R: how many enabled inputs are high       0x04 PENDING  R: which, a bit each
    0x08 DISABLE_ALL  W: disable every input
    0x0c DISABLE  W: disable the inputs whose bit is set    0x10 ENABLE   W: enable them

Accesses of 4 bytes; others read 0 and take nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, u32

log = logging.getLogger(__name__)

INPUTS = 32


class Reg(IntEnum):
    """Register offsets."""

    STATUS = 0x00
    PENDING = 0x04
    DISABLE_ALL = 0x08
    DISABLE = 0x0C
    ENABLE = 0x10


@dataclass(slots=True, kw_only=True)
class GoldfishPicState(State):
    """A bit for each input."""

    VMSTATE: ClassVar[VMState] = VMState("goldfish-pic", version=1, minimum=1)
    levels: int = u32()
    enabled: int = u32()


class GoldfishPic(Device[GoldfishPicState]):
    """The controller; `output` is the line to the CPU."""

    STATE = GoldfishPicState

    def __init__(self, name: str, output: IrqLine) -> None:
        self._output = output
        super().__init__(name)

    def line(self, number: int) -> IrqLine:
        """Input `number`; ValueError when there is no such input."""
        if not 0 <= number < INPUTS:
            raise ValueError(f"interrupt {number} of {self.name}, there are {INPUTS}")
        return IrqLine(lambda level: self._set(number, level))

    def after_load(self) -> None:
        """Show the CPU what there is."""
        self._update()

    def read(self, offset: int, size: int) -> int:
        """Load a register; reserved and write-only ones read 0."""
        active = self.state.levels & self.state.enabled
        if size != 4:
            log.info("%s: guest read %d bytes at %#x, registers have 4", self.name, size, offset)
            return 0
        if offset == Reg.STATUS:
            return active.bit_count()
        return active if offset == Reg.PENDING else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; reserved and read-only ones take nothing."""
        if size != 4:
            log.info("%s: guest wrote %d bytes at %#x, registers have 4", self.name, size, offset)
        elif offset == Reg.DISABLE_ALL:
            self.state.enabled = 0
        elif offset == Reg.DISABLE:
            self.state.enabled &= ~value
        elif offset == Reg.ENABLE:
            self.state.enabled |= value
        self._update()

    def _set(self, number: int, level: bool) -> None:
        bit = 1 << number
        self.state.levels = self.state.levels | bit if level else self.state.levels & ~bit
        self._update()

    def _update(self) -> None:
        self._output.set(bool(self.state.levels & self.state.enabled))
