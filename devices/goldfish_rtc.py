"""Goldfish real-time clock: ns since the epoch and an alarm (goldfish-virtual-hardware document; QEMU hw/rtc/goldfish_rtc.c).

    0x00 TIME_LOW       R: the time, latching its upper half; W: set the lower half
    0x04 TIME_HIGH      R: the upper half at the last read of TIME_LOW; W: set the upper half
    0x08 ALARM_LOW      W: arm the alarm at ALARM_HIGH and this          0x0c ALARM_HIGH   W: takes effect with ALARM_LOW
    0x10 IRQ_ENABLED    bit 0                                            0x14 CLEAR_ALARM  W: disarm
    0x18 ALARM_STATUS   R: 1 while armed                                 0x1c CLEAR_INTERRUPT  W: acknowledge

The time is wall time (emu/clock.py), or as far from it as the guest has set it: it follows the host's while the guest is
paused, saved or moved, as QEMU's does by default (`-rtc clock=host`). A reset does not set it back.

Aligned accesses of 4 bytes; others read 0 and take nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.clock import Clock
from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, u32, u64

log = logging.getLogger(__name__)

MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1


class Reg(IntEnum):
    """Register offsets."""

    TIME_LOW = 0x00
    TIME_HIGH = 0x04
    ALARM_LOW = 0x08
    ALARM_HIGH = 0x0C
    IRQ_ENABLED = 0x10
    CLEAR_ALARM = 0x14
    ALARM_STATUS = 0x18
    CLEAR_INTERRUPT = 0x1C


@dataclass(slots=True, kw_only=True)
class GoldfishRtcState(State):
    """Registers; all times in ns."""

    VMSTATE: ClassVar[VMState] = VMState("goldfish-rtc", version=2, minimum=2)
    offset: int = u64()  # the time is wall time plus this, modulo 2^64; in version 1 it was guest time
    time_high: int = u32()  # latched
    alarm: int = u64()
    alarm_high: int = u32()  # as written; counts from the next write of ALARM_LOW on
    alarm_armed: bool = flag()
    irq_pending: bool = flag()
    irq_enabled: bool = flag()


class GoldfishRtc(Device[GoldfishRtcState]):
    """The clock chip; `irq` is its alarm."""

    STATE = GoldfishRtcState

    def __init__(self, name: str, irq: IrqLine, clock: Clock, *, guest_time: bool = False) -> None:
        """With `guest_time` the time is guest time: a board may have one such chip as its timer (as QEMU's m68k `virt`)."""
        self._irq = irq
        self._now = clock.now if guest_time else clock.wall
        self._timer = clock.timer(self._alarm_due) if guest_time else clock.wall_timer(self._alarm_due)
        self.state = GoldfishRtcState()
        super().__init__(name)

    def reset(self) -> None:
        """Back to the state after power-on; the time goes on, as if from a battery."""
        self.load(GoldfishRtcState(offset=self.state.offset))

    def after_load(self) -> None:
        """Arm the alarm again."""
        self._arm()

    def read(self, offset: int, size: int) -> int:
        """Load a register; reserved and write-only ones read 0."""
        state = self.state
        if size != 4:
            log.info("%s: guest read %d bytes at %#x, registers have 4", self.name, size, offset)
            return 0
        if offset == Reg.TIME_LOW:
            now = self._time()
            state.time_high = now >> 32
            return now & MASK32
        if offset == Reg.TIME_HIGH:
            return state.time_high
        if offset == Reg.ALARM_LOW:
            return state.alarm & MASK32
        if offset == Reg.ALARM_HIGH:
            return state.alarm_high
        if offset == Reg.IRQ_ENABLED:
            return int(state.irq_enabled)
        if offset == Reg.ALARM_STATUS:
            return int(state.alarm_armed)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; reserved and read-only ones take nothing."""
        state = self.state
        if size != 4:
            log.info("%s: guest wrote %d bytes at %#x, registers have 4", self.name, size, offset)
        elif offset == Reg.TIME_LOW:
            self._set_time(~MASK32, value)
        elif offset == Reg.TIME_HIGH:
            self._set_time(MASK32, value << 32)
        elif offset == Reg.ALARM_LOW:
            state.alarm = state.alarm_high << 32 | value
            state.alarm_armed = True
            if state.alarm <= self._time():
                self._alarm_due()
            self._arm()
        elif offset == Reg.ALARM_HIGH:
            state.alarm_high = value
        elif offset == Reg.IRQ_ENABLED:
            state.irq_enabled = bool(value & 1)
            self._update_irq()
        elif offset == Reg.CLEAR_ALARM:
            state.alarm_armed = False
            self._arm()
        elif offset == Reg.CLEAR_INTERRUPT:
            state.irq_pending = False
            self._update_irq()

    def _time(self) -> int:
        return (self._now() + self.state.offset) & MASK64

    def _set_time(self, kept: int, value: int) -> None:
        now = self._time()
        self.state.offset = (self.state.offset + (now & kept | value) - now) & MASK64
        self._arm()

    def _arm(self) -> None:
        if self.state.alarm_armed:
            self._timer.arm(self._now() + max(0, self.state.alarm - self._time()))
        else:
            self._timer.cancel()

    def _alarm_due(self) -> None:
        self.state.alarm_armed = False
        self.state.irq_pending = True
        self._update_irq()

    def _update_irq(self) -> None:
        self._irq.set(self.state.irq_pending and self.state.irq_enabled)
