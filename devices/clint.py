"""SiFive core-local interruptor of one hart: software interrupt and timer (FU540-C000 manual, chapter 9; QEMU riscv_aclint).

    0x0000  msip       bit 0: the hart's machine software interrupt          32 bits
    0x4000  mtimecmp   the timer interrupt is pending while mtime >= it      64 bits
    0xbff8  mtime      ticks of 100 ns                                       64 bits

Aligned 4- and 8-byte accesses; others and all reserved offsets read 0 and take nothing. mtimecmp is all ones after a reset,
where the manual leaves it undefined, so that no interrupt is pending. mtime counts from power-on and survives a reset, as
guest time does. Missing: more than one hart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.clock import Clock
from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, optional_u64, u8, u64

log = logging.getLogger(__name__)

TICK_NS = 100  # 10 MHz, the timebase-frequency of QEMU's virt
MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1
LATCH_TICKS = 10_000  # 1 ms; the two halves of one load are microseconds apart


class Reg(IntEnum):
    """Register offsets; 64-bit registers have their upper half 4 bytes further."""

    MSIP = 0x0000
    MTIMECMP = 0x4000
    MTIMECMP_HIGH = 0x4004
    MTIME = 0xBFF8
    MTIME_HIGH = 0xBFFC


@dataclass(slots=True, kw_only=True)
class ClintState(State):
    """Registers, in ticks. The levels of the two lines are in the hart's mip."""

    VMSTATE: ClassVar[VMState] = VMState("riscv-clint", version=1, minimum=1)
    msip: int = u8(max=1)
    mtimecmp: int = u64(MASK64)
    mtime_offset: int = u64()  # mtime is guest time in ticks plus this, modulo 2^64
    latch: int | None = optional_u64()  # mtime at the last load of its lower half, until the upper half is loaded


class Clint(Device[ClintState]):
    """`msip` and `mtip` go to the hart's pending bits of these names."""

    STATE = ClintState

    def __init__(self, name: str, *, msip: IrqLine, mtip: IrqLine, clock: Clock) -> None:
        self._msip = msip
        self._mtip = mtip
        self._clock = clock
        self._timer = clock.timer(self._compare)
        super().__init__(name)

    def after_load(self) -> None:
        """Arm the timer again."""
        now = self._now()
        self._arm(now)
        if self._mtime_at(now) >= self.state.mtimecmp:
            # Guest time may have been stopped for the save after mtimecmp was reached and before the line was raised.
            self._timer.arm(now * TICK_NS)

    def mtime(self) -> int:
        """The time in ticks, which the `time` CSR is to show as well."""
        return (self._clock.now() // TICK_NS + self.state.mtime_offset) & MASK64

    def _now(self) -> int:
        return self._clock.now() // TICK_NS

    def _mtime_at(self, now: int) -> int:
        return (now + self.state.mtime_offset) & MASK64

    def read(self, offset: int, size: int) -> int:
        """Load a register."""
        if size == 8 and offset % 8 == 0:
            return self._read32(offset) | self._read32(offset + 4) << 32
        if size == 4 and offset % 4 == 0:
            return self._read32(offset)
        log.info("%s: guest read %d bytes at %#x", self.name, size, offset)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        if size == 8 and offset % 8 == 0:
            self._write32(offset, value & MASK32)
            self._write32(offset + 4, value >> 32 & MASK32)
        elif size == 4 and offset % 4 == 0:
            self._write32(offset, value & MASK32)
        else:
            log.info("%s: guest wrote %d bytes at %#x", self.name, size, offset)

    def _read32(self, offset: int) -> int:
        state = self.state
        if offset == Reg.MSIP:
            return state.msip
        if offset == Reg.MTIMECMP:
            return state.mtimecmp & MASK32
        if offset == Reg.MTIMECMP_HIGH:
            return state.mtimecmp >> 32
        if offset == Reg.MTIME:
            state.latch = self.mtime()
            return state.latch & MASK32
        if offset == Reg.MTIME_HIGH:
            return self._latched_mtime() >> 32
        return 0

    def _latched_mtime(self) -> int:
        # A 64-bit load may come as two of 32 bits: a carry between them would make time jump by seven minutes.
        now, latch = self.mtime(), self.state.latch
        self.state.latch = None
        return now if latch is None or (now - latch) & MASK64 > LATCH_TICKS else latch

    def _write32(self, offset: int, value: int) -> None:
        state = self.state
        if offset == Reg.MSIP:
            state.msip = value & 1
            self._msip.set(bool(state.msip))
        elif offset == Reg.MTIMECMP:
            state.mtimecmp = state.mtimecmp & ~MASK32 | value
            self._compare()
        elif offset == Reg.MTIMECMP_HIGH:
            state.mtimecmp = state.mtimecmp & MASK32 | value << 32
            self._compare()
        elif offset == Reg.MTIME:
            self._set_mtime(self.mtime() & ~MASK32 | value)
        elif offset == Reg.MTIME_HIGH:
            self._set_mtime(self.mtime() & MASK32 | value << 32)

    def _set_mtime(self, value: int) -> None:
        self.state.mtime_offset = (value - self._now()) & MASK64
        self.state.latch = None
        self._compare()

    def _compare(self) -> None:
        now = self._now()  # once: were it read again to arm the timer, a deadline between the two would be missed
        self._mtip.set(self._mtime_at(now) >= self.state.mtimecmp)
        self._arm(now)

    def _arm(self, now: int) -> None:
        """Have `_compare` called when mtime reaches mtimecmp, or comes round to 0 and the interrupt ends."""
        mtime = self._mtime_at(now)
        ahead = (self.state.mtimecmp if mtime < self.state.mtimecmp else MASK64 + 1) - mtime
        self._timer.arm((now + ahead) * TICK_NS)
