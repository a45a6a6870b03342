"""16550A UART (National Semiconductor PC16550D data sheet, June 1995; QEMU hw/char/serial.c).

    0 RBR (R), THR (W), DLL with DLAB      3 LCR  line: DLAB, break, frame      6 MSR  modem inputs and their changes
    1 IER, DLM with DLAB                   4 MCR  modem outputs, loopback       7 SCR  scratch
    2 IIR (R), FCR (W)                     5 LSR  data ready, errors, empty

Registers lie one byte apart; a wider access reaches the register at its offset alone, and beyond 7 reads 0 and takes nothing.
A character leaves the moment it is written, so THRE and TEMT are always set, and the THRE interrupt comes at once, as from a
very fast line. Input waits outside until the guest looks for it: its interrupt is enabled, and then it fills the FIFO up to the
trigger level, or LSR is read, and then one character comes. So a driver that empties the FIFO, some times over, while it starts
loses no more than it was told of. Below the trigger level input interrupts after four character times without a read or a new
character (8.11), as drivers expect that keep the level high.

Whole bytes go over the line whatever word length and parity LCR asks for, because guests print before they set it; so PE and FE
never arise. CTS, DSR and DCD are asserted, RTS and DTR reach nobody, OUT2 gates nothing. The break a guest sends is not passed
on. Missing: DMA mode (the pins do not exist).
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
from migration.vmstate import VMState, blob, flag, optional_u64, u8, u16

log = logging.getLogger(__name__)

FIFO_DEPTH = 16
INPUT_CLOCK = 3_686_400  # Hz, as QEMU's virt says in its device tree
OVERSAMPLING = 16  # input clocks a bit at divisor 1 (8.3)
TIMEOUT_CHARACTERS = 4  # 8.11
DIVISOR_RESET = 12  # 9600 baud of the PC's 1.8432 MHz; the data sheet leaves it undefined
TRIGGER_LEVELS = (1, 4, 8, 14)  # FCR bits 7..6 (8.5), which are 0 without the FIFO


class Reg(IntEnum):
    """Register offsets (table II)."""

    RBR = THR = DLL = 0
    IER = DLM = 1
    IIR = FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier(IntEnum):
    """Interrupt enable (8.7): received data, transmitter empty, line status, modem status."""

    ERBFI, ETBEI, ELSI, EDSSI = 0x01, 0x02, 0x04, 0x08


class Iir(IntEnum):
    """Interrupt identification (table IV), the highest priority first."""

    LINE_STATUS, DATA, TIMEOUT, THR_EMPTY, MODEM_STATUS, NONE = 0x06, 0x04, 0x0C, 0x02, 0x00, 0x01
    FIFOS_ENABLED = 0xC0


class Fcr(IntEnum):
    """FIFO control (8.5); the reset bits clear themselves."""

    ENABLE, RESET_RX, RESET_TX, DMA_MODE, TRIGGER = 0x01, 0x02, 0x04, 0x08, 0xC0


FCR_KEPT = int(Fcr.ENABLE | Fcr.DMA_MODE | Fcr.TRIGGER)


class Lcr(IntEnum):
    """Line control (8.1); a word has 5 bits and WORD_LENGTH."""

    WORD_LENGTH, STOP, PARITY, DLAB = 0x03, 0x04, 0x08, 0x80


class Mcr(IntEnum):
    """Modem control (8.8)."""

    DTR, RTS, OUT1, OUT2, LOOP = 0x01, 0x02, 0x04, 0x08, 0x10


class Lsr(IntEnum):
    """Line status (8.4): data ready; overrun, parity, framing error, break; transmitter empty; errors in the FIFO."""

    DR, OE, PE, FE, BI, THRE, TEMT, FIFO_ERROR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80


LSR_ERRORS = int(Lsr.OE | Lsr.PE | Lsr.FE | Lsr.BI)


class Msr(IntEnum):
    """Modem status (8.9): lines above, what changed since the last read below."""

    DCTS, DDSR, TERI, DDCD = 0x01, 0x02, 0x04, 0x08
    CTS, DSR, RI, DCD = 0x10, 0x20, 0x40, 0x80


MSR_CONNECTED = int(Msr.CTS | Msr.DSR | Msr.DCD)
# In loopback each output feeds an input (8.8).
LOOPBACK = ((Mcr.RTS, Msr.CTS), (Mcr.DTR, Msr.DSR), (Mcr.OUT1, Msr.RI), (Mcr.OUT2, Msr.DCD))


@dataclass(slots=True, kw_only=True)
class Ns16550State(UartState):
    """Registers, the receive FIFO, and what is typed ahead on its line."""

    VMSTATE: ClassVar[VMState] = VMState("ns16550", version=1, minimum=1)
    divisor: int = u16(DIVISOR_RESET)
    ier: int = u8(max=0x0F)
    fcr: int = u8(max=FCR_KEPT)
    lcr: int = u8()
    mcr: int = u8(max=0x1F)
    errors: int = u8(max=LSR_ERRORS)  # LSR bits OE, PE, FE, BI
    msr_changes: int = u8(max=0x0F)  # MSR bits 3..0; the lines follow from MCR
    scr: int = u8()
    rx: bytes = blob(max_len=FIFO_DEPTH)  # the oldest first
    rx_breaks: int = u16()  # bit n: rx[n] is a break, not yet told in LSR
    thre_pending: bool = flag()
    timeout_pending: bool = flag()
    timeout_at: int | None = optional_u64()  # ns of guest time
    backlog: bytes = blob(max_len=BACKLOG_MAX)

    def check(self) -> None:
        """What follows from another register must."""
        if self.fcr & ~FCR_KEPT or (self.fcr and not self.fcr & Fcr.ENABLE):
            raise StateError(f"ns16550.fcr is {self.fcr:#x}, must be 0 or have bit 0 and be within {FCR_KEPT:#x}")
        if self.errors & ~LSR_ERRORS:
            raise StateError(f"ns16550.errors is {self.errors:#x}, must be within {LSR_ERRORS:#x}")
        self.check_fifo(fifo_depth(self.fcr))
        if self.thre_pending and not self.ier & Ier.ETBEI:
            raise StateError(f"ns16550.thre_pending is set, ier is {self.ier:#x}, must have {int(Ier.ETBEI):#x}")
        waits = self.timeout_pending or self.timeout_at is not None
        if waits and not (self.rx and self.fcr & Fcr.ENABLE):
            raise StateError("ns16550.timeout_at or timeout_pending is set, must not be with an empty or disabled FIFO")


def fifo_depth(fcr: int) -> int:
    """How many received characters are kept: the FIFO, or RBR alone."""
    return FIFO_DEPTH if fcr & Fcr.ENABLE else 1


class Ns16550(Uart[Ns16550State]):
    """A UART between a guest and a character line. `input_clock` is in Hz."""

    STATE = Ns16550State

    def __init__(self, name: str, irq: IrqLine, chardev: Chardev, clock: Clock, *, input_clock: int = INPUT_CLOCK) -> None:
        self._input_clock = input_clock
        super().__init__(name, irq, chardev, clock)

    # emu.device.Mmio

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002 - every width reaches one register
        """Load a register."""
        state = self.state
        match offset:
            case Reg.DLL | Reg.DLM if state.lcr & Lcr.DLAB:
                return state.divisor >> 8 * offset & 0xFF
            case Reg.RBR:
                return self._read_rbr()
            case Reg.IER:
                return state.ier
            case Reg.IIR:
                return self._read_iir()
            case Reg.LCR:
                return state.lcr
            case Reg.MCR:
                return state.mcr
            case Reg.LSR:
                return self._read_lsr()
            case Reg.MSR:
                return self._read_msr()
            case Reg.SCR:
                return state.scr
        return 0

    def write(self, offset: int, size: int, value: int) -> None:  # noqa: ARG002
        """Store to a register."""
        state = self.state
        value &= 0xFF
        match offset:
            case Reg.DLL if state.lcr & Lcr.DLAB:
                state.divisor = state.divisor & 0xFF00 | value
            case Reg.DLM if state.lcr & Lcr.DLAB:
                state.divisor = state.divisor & 0x00FF | value << 8
            case Reg.THR:
                self._write_thr(value)
            case Reg.IER:
                self._write_ier(value & 0x0F)
            case Reg.FCR:
                self._write_fcr(value)
            case Reg.LCR:
                state.lcr = value
            case Reg.MCR:
                self._write_mcr(value & 0x1F)
            case Reg.SCR:
                state.scr = value
            case _:
                log.info("%s: guest wrote %#x to register %d, which is read-only", self.name, value, offset)
        self._chardev.accept_input()

    # Receiving

    def _loopback(self) -> bool:
        return bool(self.state.mcr & Mcr.LOOP)

    def _wanted(self) -> int:
        state = self.state
        return TRIGGER_LEVELS[state.fcr >> 6] if state.ier & Ier.ERBFI else int(self._polled)

    def _read_rbr(self) -> int:
        state = self.state
        if not state.rx:
            return 0
        value = self._take()
        self._tell_break()
        state.timeout_pending = False
        self._restart_timeout()
        self._chardev.accept_input()
        self._update_irq()
        return value

    def _shift_in(self, value: int, *, is_break: bool = False) -> None:
        state = self.state
        if len(state.rx) == fifo_depth(state.fcr):
            state.errors |= Lsr.OE
            if state.fcr & Fcr.ENABLE:  # the FIFO stays as it is, the character is lost (8.4)
                self._update_irq()
                return
            self._empty()
        self._put(value, is_break=is_break)
        self._tell_break()
        self._restart_timeout()
        self._update_irq()

    def _tell_break(self) -> None:
        """An error shows in LSR when its character is at the top of the FIFO (8.4)."""
        if self.state.rx_breaks & 1:
            self.state.errors |= Lsr.BI
            self.state.rx_breaks &= ~1

    def _timeout_runs(self) -> bool:
        state = self.state
        return bool(state.rx and state.fcr & Fcr.ENABLE and not state.timeout_pending)

    def _timeout_ns(self) -> int:
        lcr = self.state.lcr
        bits = 1 + 5 + (lcr & Lcr.WORD_LENGTH) + bool(lcr & Lcr.PARITY) + (2 if lcr & Lcr.STOP else 1)
        # Divisor 0 stops the baud generator; input that is there should still be told.
        clocks = TIMEOUT_CHARACTERS * bits * OVERSAMPLING * (self.state.divisor or 1)
        return clocks * 1_000_000_000 // self._input_clock

    def _timed_out(self) -> None:
        self.state.timeout_at = None
        self.state.timeout_pending = True
        self._update_irq()

    # Transmitting

    def _write_thr(self, value: int) -> None:
        state = self.state
        self._transmit(value)
        state.thre_pending = bool(state.ier & Ier.ETBEI)
        self._update_irq()

    # Control and status

    def _write_ier(self, value: int) -> None:
        state = self.state
        # Enabling the interrupt of an empty transmitter raises it, even if reading IIR had taken it back.
        if (state.ier ^ value) & Ier.ETBEI:
            state.thre_pending = bool(value & Ier.ETBEI)
        state.ier = value
        self._update_irq()

    def _write_fcr(self, value: int) -> None:
        state = self.state
        if not value & Fcr.ENABLE:
            value = 0  # the other bits are programmed only with this one (8.5)
        switched = (state.fcr ^ value) & Fcr.ENABLE
        state.fcr = value & FCR_KEPT
        if switched or value & Fcr.RESET_RX:
            self._empty()
            state.timeout_pending = False
            self._restart_timeout()
        self._update_irq()

    def _write_mcr(self, value: int) -> None:
        state = self.state
        before = self._modem_lines()
        state.mcr = value
        after = self._modem_lines()
        rose_or_fell = (before ^ after) & ~Msr.RI
        ring_ended = before & ~after & Msr.RI  # TERI tells the trailing edge alone (8.9)
        state.msr_changes |= (rose_or_fell | ring_ended) >> 4
        self._update_irq()

    def _modem_lines(self) -> int:
        mcr = self.state.mcr
        if not mcr & Mcr.LOOP:
            return MSR_CONNECTED
        return sum(int(line) for output, line in LOOPBACK if mcr & output)

    def _read_iir(self) -> int:
        source = self._interrupt()
        if source is Iir.THR_EMPTY:
            self.state.thre_pending = False
            self._update_irq()
        return source | (Iir.FIFOS_ENABLED if self.state.fcr & Fcr.ENABLE else 0)

    def _read_lsr(self) -> int:
        state = self.state
        self._poll()
        value = state.errors | Lsr.THRE | Lsr.TEMT
        if state.rx:
            value |= Lsr.DR
        if state.fcr & Fcr.ENABLE and (state.rx_breaks or state.errors & ~Lsr.OE):
            value |= Lsr.FIFO_ERROR
        if state.errors:
            state.errors = 0
            self._update_irq()
        return int(value)

    def _read_msr(self) -> int:
        value = self._modem_lines() | self.state.msr_changes
        if self.state.msr_changes:
            self.state.msr_changes = 0
            self._update_irq()
        return value

    def _interrupt(self) -> Iir:
        state = self.state
        if state.ier & Ier.ELSI and state.errors:
            return Iir.LINE_STATUS
        if state.ier & Ier.ERBFI and len(state.rx) >= TRIGGER_LEVELS[state.fcr >> 6]:
            return Iir.DATA
        if state.ier & Ier.ERBFI and state.timeout_pending:
            return Iir.TIMEOUT
        if state.thre_pending:  # only ever with ETBEI
            return Iir.THR_EMPTY
        if state.ier & Ier.EDSSI and state.msr_changes:
            return Iir.MODEM_STATUS
        return Iir.NONE

    def _update_irq(self) -> None:
        self._irq.set(self._interrupt() is not Iir.NONE)
