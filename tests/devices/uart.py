"""A UART between a line that a test feeds and a driver that knows the registers."""

from __future__ import annotations

from devices.ns16550 import INPUT_CLOCK, Fcr, Iir, Lcr, Lsr, Ns16550, Ns16550State, Reg
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, MemoryChardev, Wire

WORD_8 = Lcr.WORD_LENGTH
BITS_8N1 = 10
DIVISOR = 2
CHARACTER_NS = BITS_8N1 * 16 * DIVISOR * 1_000_000_000 / INPUT_CLOCK
TRIGGER_8 = 0x80
IDLE = Lsr.THRE | Lsr.TEMT  # what LSR says when there is nothing to say


class Port:
    """A UART, its line, its wire, and a driver that knows the registers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.line = MemoryChardev()
        self.wire = Wire()
        self.uart = Ns16550("serial", self.wire.irq, self.line, self.clock)

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)

    def set_up(self, *, ier: int = 0, fcr: int = Fcr.ENABLE | TRIGGER_8) -> Port:
        self.write(Reg.LCR, Lcr.DLAB | WORD_8)
        self.write(Reg.DLL, DIVISOR)
        self.write(Reg.DLM, 0)
        self.write(Reg.LCR, WORD_8)
        self.write(Reg.FCR, fcr)
        self.write(Reg.IER, ier)
        return self

    def read_while_ready(self) -> bytes:
        data = bytearray()
        while self.read(Reg.LSR) & Lsr.DR:
            data.append(self.read(Reg.RBR))
        return bytes(data)

    def source(self) -> int:
        return self.read(Reg.IIR) & ~Iir.FIFOS_ENABLED

    def advance_characters(self, count: float) -> None:
        self.clock.advance(round(count * CHARACTER_NS))

    def moved(self) -> Port:
        """Another process's port after a migration from this one."""
        there = Port()
        there.clock.load(self.clock.save())
        there.uart.load(parse(Ns16550State, 1, dump(self.uart.save())))
        there.wire.level = self.wire.level
        there.clock.start()
        return there
