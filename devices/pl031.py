"""PrimeCell real-time clock PL031 (ARM DDI 0224; QEMU hw/rtc/pl031.c): seconds and an alarm.

    0x00 DR    R: the time                        0x10 IMSC   bit 0: the alarm interrupts
    0x04 MR    alarm when the time is this        0x14 RIS    R: the alarm has come
    0x08 LR    W: set the time                    0x18 MIS    R: and interrupts
    0x0c CR    bit 0: started, always             0x1c ICR    W: bit 0 acknowledges

The time is the seconds of wall time (emu/clock.py), or as far from them as the guest has set it: it follows the host's while
the guest is paused, saved or moved. A reset does not set it back. Aligned accesses of 4 bytes; others read 0 and take nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.clock import Clock
from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, optional_u64, u32

log = logging.getLogger(__name__)

NS = 1_000_000_000
MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1
IDENTIFICATION = 0xFE0
PRIMECELL_ID = bytes((0x31, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1))  # 3.3.9 ff.


class Reg(IntEnum):
    """Register offsets (table 3-1)."""

    DR = 0x00
    MR = 0x04
    LR = 0x08
    CR = 0x0C
    IMSC = 0x10
    RIS = 0x14
    MIS = 0x18
    ICR = 0x1C


@dataclass(slots=True, kw_only=True)
class Pl031State(State):
    """Registers."""

    VMSTATE: ClassVar[VMState] = VMState("pl031", version=1, minimum=1)
    offset: int = u32()  # the time is the seconds of wall time plus this, modulo 2^32
    match: int = u32()
    load: int = u32()
    alarm_at: int | None = optional_u64()  # ns of wall time
    mask: bool = flag()
    alarm: bool = flag()


class Pl031(Device[Pl031State]):
    """The clock chip; `irq` is its alarm."""

    STATE = Pl031State

    def __init__(self, name: str, irq: IrqLine, clock: Clock) -> None:
        self._irq = irq
        self._clock = clock
        self._timer = clock.wall_timer(self._alarm_due)
        self.state = Pl031State()
        super().__init__(name)

    def reset(self) -> None:
        """Back to the state after power-on; the time goes on, as if from a battery."""
        self.load(Pl031State(offset=self.state.offset))

    def after_load(self) -> None:
        """Arm the alarm again."""
        self._arm()

    def read(self, offset: int, size: int) -> int:
        """Load a register."""
        state = self.state
        if size != 4:
            log.info("%s: guest read %d bytes at %#x, registers have 4", self.name, size, offset)
            return 0
        if offset >= IDENTIFICATION:
            return PRIMECELL_ID[(offset - IDENTIFICATION) // 4]
        match offset:
            case Reg.DR:
                return self._time()
            case Reg.MR:
                return state.match
            case Reg.LR:
                return state.load
            case Reg.CR:
                return 1
            case Reg.IMSC:
                return int(state.mask)
            case Reg.RIS:
                return int(state.alarm)
            case Reg.MIS:
                return int(state.alarm and state.mask)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; read-only ones take nothing."""
        state = self.state
        if size != 4:
            log.info("%s: guest wrote %d bytes at %#x, registers have 4", self.name, size, offset)
            return
        match offset:
            case Reg.MR:
                state.match = value
                self._set_alarm()
            case Reg.LR:
                state.load = value
                state.offset = (value - self._seconds()) & MASK32
                self._set_alarm()
            case Reg.IMSC:
                state.mask = bool(value & 1)
            case Reg.ICR if value & 1:
                state.alarm = False
        self._update_irq()

    def _seconds(self) -> int:
        return self._clock.wall() // NS

    def _time(self) -> int:
        return (self._seconds() + self.state.offset) & MASK32

    def _set_alarm(self) -> None:
        """For the next time that the time is MR, which may be now."""
        state = self.state
        seconds_left = (state.match - self._time()) & MASK32
        if not seconds_left:
            state.alarm_at = None
            state.alarm = True
        else:
            state.alarm_at = (self._seconds() + seconds_left) * NS & MASK64
        self._arm()

    def _arm(self) -> None:
        if self.state.alarm_at is None:
            self._timer.cancel()
        else:
            self._timer.arm(self.state.alarm_at)

    def _alarm_due(self) -> None:
        self.state.alarm_at = None
        self.state.alarm = True
        self._update_irq()

    def _update_irq(self) -> None:
        self._irq.set(self.state.alarm and self.state.mask)
