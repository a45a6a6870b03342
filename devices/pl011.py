"""PrimeCell UART PL011 (ARM DDI 0183; QEMU hw/char/pl011.c).

    0x00 DR      data                       0x34 IFLS   FIFO levels that interrupt
    0x04 RSR     R: errors; W: clear them   0x38 IMSC   interrupt mask
    0x18 FR      flags                      0x3c RIS    R: raw interrupts      0x40 MIS   R: masked ones
    0x20 ILPR    infrared; kept             0x44 ICR    W: clear interrupts
    0x24 IBRD, 0x28 FBRD   baud divisor     0x48 DMACR  kept
    0x2c LCR_H   line control: FIFOs        0x30 CR     control: loopback      0xfe0 identification

A wider or narrower access reaches the register at its offset. A character leaves the moment it is written, so the transmitter
is always empty. Input waits outside until the guest looks for it: with its interrupts unmasked it fills the FIFO up to the
level that interrupts, and a read of FR brings one character otherwise. After the FIFO was emptied the next character takes the
time that it would on the line: a driver that empties the FIFO as it starts loses no more than it was told of. Below that level
input interrupts after 32 bit times without a read or a new character (2.4.2).

Guests print before they set anything up, so characters pass whatever CR enables and LCR_H asks for; parity and framing errors
never arise. CTS, DSR and DCD are asserted. Missing: DMA, infrared, the break that a guest sends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from devices.uart import Uart, UartState
from emu.chardev import BACKLOG_MAX, Chardev
from emu.clock import Clock
from emu.errors import StateError
from emu.irq import IrqLine
from migration.vmstate import VMState, blob, optional_u64, u8, u16, u32

log = logging.getLogger(__name__)

FIFO_DEPTH = 16
CLOCK = 24_000_000  # Hz, as QEMU's virt says in its device tree
OVERSAMPLING = 16  # clocks a bit at divisor 1, which has 6 fractional bits (3.3.6)
DIVISOR_IF_NONE = 13 << 6 | 1  # 115200 baud, for input that comes before the guest has set a rate
TIMEOUT_BITS = 32  # 2.4.2
TRIGGER_LEVELS = (2, 4, 8, 12, 14)  # IFLS bits 5..3 (3.3.9): an eighth, a quarter, a half, ...
IDENTIFICATION = 0xFE0
PRIMECELL_ID = bytes((0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1))  # revision r1p3, with FIFOs of 16 (3.3.16 ff.)


class Reg(IntEnum):
    """Register offsets (table 3-1)."""

    DR = 0x00
    RSR = 0x04
    FR = 0x18
    ILPR = 0x20
    IBRD = 0x24
    FBRD = 0x28
    LCR_H = 0x2C
    CR = 0x30
    IFLS = 0x34
    IMSC = 0x38
    RIS = 0x3C
    MIS = 0x40
    ICR = 0x44
    DMACR = 0x48


class Fr(IntEnum):
    """Flags (3.3.3)."""

    CTS, DSR, DCD = 0x01, 0x02, 0x04
    RXFE, RXFF, TXFE = 0x10, 0x40, 0x80


class Int(IntEnum):
    """Interrupts (3.3.10): received data, transmitter, receive timeout, break and overrun errors."""

    RX, TX, RT, BE, OE = 0x010, 0x020, 0x040, 0x200, 0x400


ALL_INTERRUPTS = 0x7FF
INPUT_INTERRUPTS = int(Int.RX | Int.RT)
LCR_PARITY, LCR_STOP2, LCR_FIFO = 0x02, 0x08, 0x10
CR_RESET, CR_LOOPBACK = 0x300, 0x80
IFLS_RESET = 0x12
DR_BREAK = 1 << 10  # what a character in DR is told to be (3.3.1)
RSR_BREAK, RSR_OVERRUN = 0x04, 0x08


@dataclass(slots=True, kw_only=True)
class Pl011State(UartState):
    """Registers, the receive FIFO, and what is typed ahead on its line."""

    VMSTATE: ClassVar[VMState] = VMState("pl011", version=1, minimum=1)
    rsr: int = u8(max=RSR_BREAK | RSR_OVERRUN)
    ilpr: int = u8()
    ibrd: int = u16()
    fbrd: int = u8(max=0x3F)
    lcr_h: int = u8()
    cr: int = u16(CR_RESET)
    ifls: int = u8(IFLS_RESET, max=0x3F)
    imsc: int = u16(max=ALL_INTERRUPTS)
    latched: int = u16(max=ALL_INTERRUPTS)  # raw interrupts but for RX, which follows from the FIFO
    dmacr: int = u8(max=7)
    rx: bytes = blob(max_len=FIFO_DEPTH)  # the oldest first
    rx_breaks: int = u32(max=(1 << FIFO_DEPTH) - 1)  # bit n: rx[n] is a break
    timeout_at: int | None = optional_u64()  # ns of guest time
    next_at: int | None = optional_u64()  # ns of guest time before which no character comes in
    backlog: bytes = blob(max_len=BACKLOG_MAX)

    def check(self) -> None:
        """What follows from another register must."""
        self.check_fifo(fifo_depth(self.lcr_h))
        if self.latched & Int.RX:
            raise StateError(f"pl011.latched is {self.latched:#x}, bit {int(Int.RX):#x} must be 0")
        if not self.rx and (self.timeout_at is not None or self.latched & Int.RT):
            raise StateError("pl011.timeout_at or a timeout in latched is set, must not be with an empty FIFO")


def fifo_depth(lcr_h: int) -> int:
    """How many received characters are kept: the FIFO, or the holding register alone."""
    return FIFO_DEPTH if lcr_h & LCR_FIFO else 1


class Pl011(Uart[Pl011State]):
    """A UART between a guest and a character line."""

    STATE = Pl011State

    def __init__(self, name: str, irq: IrqLine, chardev: Chardev, clock: Clock) -> None:
        self._next = clock.timer(self._next_due)
        super().__init__(name, irq, chardev, clock)

    def after_load(self) -> None:
        """Arm the timers again and put the typed-ahead input on the line."""
        self._arm(self._next, self.state.next_at, self._character_ns())
        super().after_load()

    # emu.device.Mmio

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002 - every width reaches one register
        """Load a register."""
        state = self.state
        if offset >= IDENTIFICATION:
            return PRIMECELL_ID[(offset - IDENTIFICATION) // 4]
        match offset:
            case Reg.DR:
                return self._read_dr()
            case Reg.RSR:
                return state.rsr
            case Reg.FR:
                return self._read_fr()
            case Reg.ILPR:
                return state.ilpr
            case Reg.IBRD:
                return state.ibrd
            case Reg.FBRD:
                return state.fbrd
            case Reg.LCR_H:
                return state.lcr_h
            case Reg.CR:
                return state.cr
            case Reg.IFLS:
                return state.ifls
            case Reg.IMSC:
                return state.imsc
            case Reg.RIS:
                return self._raw()
            case Reg.MIS:
                return self._raw() & state.imsc
            case Reg.DMACR:
                return state.dmacr
        return 0

    def write(self, offset: int, size: int, value: int) -> None:  # noqa: ARG002
        """Store to a register."""
        state = self.state
        match offset:
            case Reg.DR:
                self._write_dr(value & 0xFF)
            case Reg.RSR:
                state.rsr = 0
            case Reg.ILPR:
                state.ilpr = value & 0xFF
            case Reg.IBRD:
                state.ibrd = value & 0xFFFF
            case Reg.FBRD:
                state.fbrd = value & 0x3F
            case Reg.LCR_H:
                self._write_lcr_h(value & 0xFF)
            case Reg.CR:
                state.cr = value & 0xFFFF
            case Reg.IFLS:
                state.ifls = value & 0x3F
            case Reg.IMSC:
                state.imsc = value & ALL_INTERRUPTS
            case Reg.ICR:
                state.latched &= ~value
            case Reg.DMACR:
                state.dmacr = value & 7
            case _:
                log.info("%s: guest wrote %#x to register %#x, which is read-only", self.name, value, offset)
        self._chardev.accept_input()
        self._update_irq()

    # Receiving

    def _loopback(self) -> bool:
        return bool(self.state.cr & CR_LOOPBACK)

    def _wanted(self) -> int:
        if self.state.next_at is not None:
            return 0
        return self._trigger_level() if self.state.imsc & INPUT_INTERRUPTS else int(self._polled)

    def _trigger_level(self) -> int:
        state = self.state
        return TRIGGER_LEVELS[min(state.ifls >> 3, len(TRIGGER_LEVELS) - 1)] if state.lcr_h & LCR_FIFO else 1

    def _read_dr(self) -> int:
        state = self.state
        if not state.rx:
            return 0
        is_break = state.rx_breaks & 1
        value = self._take() | (DR_BREAK if is_break else 0)
        state.rsr = state.rsr & RSR_OVERRUN | (RSR_BREAK if is_break else 0)
        state.latched &= ~Int.RT
        if not state.rx:
            state.next_at = self._clock.now() + self._character_ns()
            self._next.arm(state.next_at)
        self._restart_timeout()
        self._update_irq()
        return value

    def _read_fr(self) -> int:
        state = self.state
        self._poll()
        value = Fr.CTS | Fr.DSR | Fr.DCD | Fr.TXFE
        if not state.rx:
            value |= Fr.RXFE
        if len(state.rx) == fifo_depth(state.lcr_h):
            value |= Fr.RXFF
        return int(value)

    def _shift_in(self, value: int, *, is_break: bool = False) -> None:
        state = self.state
        if len(state.rx) == fifo_depth(state.lcr_h):  # it is lost, and what is there stays
            state.rsr |= RSR_OVERRUN
            state.latched |= Int.OE
        else:
            self._put(value, is_break=is_break)
            state.latched |= Int.BE if is_break else 0
            self._restart_timeout()
        self._update_irq()

    def _next_due(self) -> None:
        self.state.next_at = None
        self._chardev.accept_input()

    def _timeout_ns(self) -> int:
        return self._bits_ns(TIMEOUT_BITS)

    def _timeout_runs(self) -> bool:
        return bool(self.state.rx)

    def _timed_out(self) -> None:
        self.state.timeout_at = None
        self.state.latched |= Int.RT
        self._update_irq()

    def _character_ns(self) -> int:
        lcr_h = self.state.lcr_h
        return self._bits_ns(1 + 5 + (lcr_h >> 5 & 3) + bool(lcr_h & LCR_PARITY) + (2 if lcr_h & LCR_STOP2 else 1))

    def _bits_ns(self, bits: int) -> int:
        divisor = self.state.ibrd << 6 | self.state.fbrd or DIVISOR_IF_NONE
        return bits * OVERSAMPLING * divisor * 1_000_000_000 // (64 * CLOCK)

    # Transmitting, control

    def _write_dr(self, value: int) -> None:
        self._transmit(value)
        self.state.latched |= Int.TX

    def _write_lcr_h(self, value: int) -> None:
        state = self.state
        if (state.lcr_h ^ value) & LCR_FIFO:  # switching the FIFOs empties them
            self._empty()
            state.latched &= ~Int.RT
            self._restart_timeout()
        state.lcr_h = value

    def _raw(self) -> int:
        return self.state.latched | (int(Int.RX) if len(self.state.rx) >= self._trigger_level() else 0)

    def _update_irq(self) -> None:
        self._irq.set(bool(self._raw() & self.state.imsc))
