"""The PC's pair of interrupt controllers (Intel 8259A data sheet, 1988; edge/level registers of the 82371SB, 2.5.3).

    0x20, 0x21   master: lines 0..7, of which 2 is the slave's output      0x4d0   level-triggered lines 3..7
    0xa0, 0xa1   slave: lines 8..15                                        0x4d1   level-triggered lines 9..12, 14, 15

    even port: W ICW1, OCW2, OCW3; R IRR, ISR or a poll          odd port: W ICW2..4, OCW1 (mask); R mask

The CPU's acknowledge cycle is `acknowledge`. Missing: single mode, 8080 vectors, level triggering of all lines by ICW1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, structs, u8

MASTER, SLAVE, ELCR = 0x20, 0xA0, 0x4D0
CASCADE = 2  # the master's line the slave is on
SPURIOUS = 7
LEVEL_ALLOWED = (0xF8, 0xDE)  # timer, keyboard, cascade, clock and coprocessor are always edges
NONE = 8  # priority of no line


class Icw1(IntEnum):
    """Initialisation command word 1."""

    IC4, START = 0x01, 0x10


class Ocw3(IntEnum):
    """Operation command word 3."""

    READ_ISR, READ, POLL, SELECT, SPECIAL_MASK, SET_SPECIAL_MASK = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40


class Step(IntEnum):
    """What the next write to the odd port is."""

    MASK, ICW2, ICW3, ICW4 = range(4)


@dataclass(slots=True, kw_only=True)
class I8259State(State):
    """One chip."""

    VMSTATE: ClassVar[VMState] = VMState("i8259", version=1, minimum=1)
    lines: int = u8()  # levels
    irr: int = u8()
    imr: int = u8()
    isr: int = u8()
    elcr: int = u8()
    base: int = u8(max=0xF8)
    lowest: int = u8(max=7)  # the line behind the one of lowest priority
    step: int = u8(max=Step.ICW4)
    wants_icw4: bool = flag()
    read_isr: bool = flag()
    poll: bool = flag()
    special_mask: bool = flag()
    special_nested: bool = flag()
    auto_eoi: bool = flag()
    rotate_auto: bool = flag()


@dataclass(slots=True, kw_only=True)
class PicPairState(State):
    """Master and slave."""

    VMSTATE: ClassVar[VMState] = VMState("i8259-pair", version=1, minimum=1)
    chips: list[I8259State] = structs(I8259State, min_len=2, max_len=2)


class PicPair(Device[PicPairState]):
    """Sixteen lines to one. `output` is the CPU's INTR."""

    STATE = PicPairState

    def __init__(self, name: str, output: IrqLine) -> None:
        self._output = output
        super().__init__(name)

    def line(self, irq: int) -> IrqLine:
        """The input of interrupt `irq`, 0 to 15."""
        return IrqLine(lambda level: self._set(irq >> 3, irq & 7, level))

    def make_level_triggered(self, irq: int) -> None:
        """Do what firmware does for a line that PCI devices share."""
        self.state.chips[irq >> 3].elcr |= 1 << (irq & 7)

    def after_load(self) -> None:
        """Drive the output."""
        self._update()

    def acknowledge(self) -> int:
        """The vector the CPU is to take; with none waiting the spurious one (data sheet, interrupt sequence)."""
        master, slave = self.state.chips
        irq = _next(master, cascade=True)
        if irq is None:
            return master.base + SPURIOUS
        vector = master.base + irq
        if irq == CASCADE:
            behind = _next(slave, cascade=False)
            vector = slave.base + (SPURIOUS if behind is None else behind)
            if behind is not None:
                _accept(slave, behind)
        _accept(master, irq)
        self._update()
        return vector

    def read(self, port: int, size: int) -> int:  # noqa: ARG002 - an 8-bit device
        """A load from one of the six ports."""
        if port & ~1 == ELCR:
            return self.state.chips[port & 1].elcr
        chip = self.state.chips[port & ~1 == SLAVE]
        if chip.poll:
            chip.poll = False
            irq = _next(chip, cascade=port & ~1 == MASTER)
            if irq is None:
                return 0
            _accept(chip, irq)
            self._update()
            return 0x80 | irq
        if port & 1:
            return chip.imr
        return chip.isr if chip.read_isr else chip.irr

    def write(self, port: int, size: int, value: int) -> None:  # noqa: ARG002
        """A store to one of the six ports."""
        value &= 0xFF
        if port & ~1 == ELCR:
            self.state.chips[port & 1].elcr = value & LEVEL_ALLOWED[port & 1]
        else:
            chip = self.state.chips[port & ~1 == SLAVE]
            if port & 1:
                _write_odd(chip, value)
            elif value & Icw1.START:
                _start(chip, wants_icw4=bool(value & Icw1.IC4))
            elif value & Ocw3.SELECT:
                _operate(chip, value)
            else:
                _end(chip, value >> 5, value & 7)
        self._update()

    def _set(self, number: int, irq: int, level: bool) -> None:
        chip, bit = self.state.chips[number], 1 << irq
        if level == bool(chip.lines & bit):
            return
        if level:
            chip.lines |= bit
            chip.irr |= bit
        else:
            chip.lines &= ~bit
            chip.irr &= ~bit  # an edge that is taken back before the acknowledge is lost
        self._update()

    def _update(self) -> None:
        master, slave = self.state.chips
        if _next(slave, cascade=False) is None:
            master.irr &= ~(1 << CASCADE)
        else:
            master.irr |= 1 << CASCADE
        self._output.set(_next(master, cascade=True) is not None)


def _priority(chip: I8259State, lines: int) -> int:
    """How far the first of `lines` is behind the one of highest priority."""
    ranked = (lines << 8 | lines) >> chip.lowest & 0xFF
    return (ranked & -ranked).bit_length() - 1 if ranked else NONE


def _next(chip: I8259State, *, cascade: bool) -> int | None:
    """The line to serve, if one is more urgent than all in service."""
    waiting = _priority(chip, chip.irr & ~chip.imr)
    served = chip.isr & ~chip.imr if chip.special_mask else chip.isr
    if chip.special_nested and cascade:
        served &= ~(1 << CASCADE)
    return waiting + chip.lowest & 7 if waiting < _priority(chip, served) else None


def _accept(chip: I8259State, irq: int) -> None:
    bit = 1 << irq
    if not chip.auto_eoi:
        chip.isr |= bit
    elif chip.rotate_auto:
        chip.lowest = irq + 1 & 7
    if not chip.elcr & bit:
        chip.irr &= ~bit


def _start(chip: I8259State, *, wants_icw4: bool) -> None:
    chip.irr = chip.lines & chip.elcr
    chip.imr = chip.isr = chip.base = chip.lowest = 0
    chip.read_isr = chip.poll = chip.special_mask = chip.special_nested = chip.auto_eoi = chip.rotate_auto = False
    chip.wants_icw4, chip.step = wants_icw4, Step.ICW2


def _write_odd(chip: I8259State, value: int) -> None:
    match chip.step:
        case Step.ICW2:
            chip.base, chip.step = value & 0xF8, Step.ICW3
        case Step.ICW3:
            chip.step = Step.ICW4 if chip.wants_icw4 else Step.MASK
        case Step.ICW4:
            chip.auto_eoi, chip.special_nested, chip.step = bool(value & 0x02), bool(value & 0x10), Step.MASK
        case _:
            chip.imr = value


def _operate(chip: I8259State, value: int) -> None:
    chip.poll = bool(value & Ocw3.POLL)
    if value & Ocw3.READ:
        chip.read_isr = bool(value & Ocw3.READ_ISR)
    if value & Ocw3.SET_SPECIAL_MASK:
        chip.special_mask = bool(value & Ocw3.SPECIAL_MASK)


def _end(chip: I8259State, command: int, irq: int) -> None:
    """OCW2: bit 2 rotates, bit 1 means the line in the command, bit 0 ends an interrupt."""
    rotate, specific, end = command >> 2 & 1, command >> 1 & 1, command & 1
    if not specific and not end:
        chip.rotate_auto = bool(rotate)
        return
    if not specific:
        rank = _priority(chip, chip.isr)
        if rank == NONE:
            return
        irq = rank + chip.lowest & 7
    if end:
        chip.isr &= ~(1 << irq)
    if rotate:
        chip.lowest = irq + 1 & 7
