"""Real-time clock and CMOS memory of a PC (Motorola MC146818A data sheet; bytes behind the clock as in the PC/AT).

    0x70  W index of a register (bit 7 masks the NMI, which nothing here raises)     0x71  the register

    0x00..0x09 time and alarm     0x0a A divider     0x0b B control     0x0c C flags     0x0d D battery     0x32 century

The time is wall time (emu/clock.py), or as far from it as the guest has set it. Missing: periodic and update-ended interrupts,
the 12-hour form, daylight saving; an update takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import ClassVar

from emu.clock import Clock
from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, blob, u8, u64

INDEX, DATA = 0x70, 0x71
SIZE = 128
SECOND = 1_000_000_000  # ns
MASK64 = (1 << 64) - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ANY = 0xC0  # an alarm byte with both bits set fits every value


class Reg(IntEnum):
    """Register numbers."""

    SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D = range(14)
    CENTURY = 0x32


class B(IntEnum):
    """Register B."""

    HOURS_24, BINARY, ALARM_INTERRUPT, SET = 0x02, 0x04, 0x20, 0x80


class C(IntEnum):
    """Register C, cleared by a read."""

    ALARM, ANY_INTERRUPT = 0x20, 0x80


TIME = (Reg.SECONDS, Reg.MINUTES, Reg.HOURS, Reg.WEEKDAY, Reg.DAY, Reg.MONTH, Reg.YEAR, Reg.CENTURY)
ALARM = ((Reg.SECONDS_ALARM, Reg.SECONDS), (Reg.MINUTES_ALARM, Reg.MINUTES), (Reg.HOURS_ALARM, Reg.HOURS))
RESET = {Reg.A: 0x26, Reg.B: B.HOURS_24, Reg.D: 0x80}  # 32768 Hz, 24 hours, battery good
AFTER_RESET = bytes(RESET.get(Reg(n), 0) if n in tuple(Reg) else 0 for n in range(SIZE))


@dataclass(slots=True, kw_only=True)
class CmosState(State):
    """Registers; those of the time count only while the guest sets them."""

    VMSTATE: ClassVar[VMState] = VMState("mc146818", version=1, minimum=1)
    offset: int = u64()  # ns; the time is wall time plus this, modulo 2^64
    index: int = u8(max=SIZE - 1)
    registers: bytes = blob(AFTER_RESET, min_len=SIZE, max_len=SIZE)


class Cmos(Device[CmosState]):
    """The clock chip; `irq` is its alarm."""

    STATE = CmosState

    def __init__(self, name: str, irq: IrqLine, clock: Clock) -> None:
        self._irq = irq
        self._wall = clock.wall
        self._timer = clock.wall_timer(self._alarm)
        self.state = CmosState()
        super().__init__(name)

    def reset(self) -> None:
        """Back to the state after power-on; the time goes on, from the battery."""
        self.load(CmosState(offset=self.state.offset))

    def after_load(self) -> None:
        """Arm the alarm again."""
        self._registers = bytearray(self.state.registers)
        self._arm()

    def save(self) -> CmosState:
        """The state as it is now."""
        self.state.registers = bytes(self._registers)
        return self.state

    def read(self, port: int, size: int) -> int:  # noqa: ARG002 - an 8-bit device
        """A load from one of the two ports."""
        if port == INDEX:
            return 0xFF
        registers, index = self._registers, self.state.index
        if index in TIME and not registers[Reg.B] & B.SET:
            return self._shown(index)
        value = registers[index]
        if index == Reg.C:
            registers[Reg.C] = 0
            self._irq.set(False)
            self._arm()
        return value

    def write(self, port: int, size: int, value: int) -> None:  # noqa: ARG002
        """A store to one of the two ports."""
        value &= 0xFF
        if port == INDEX:
            self.state.index = value & SIZE - 1
            return
        registers, index = self._registers, self.state.index
        if index in (Reg.C, Reg.D):
            return
        if index == Reg.B and (value ^ registers[Reg.B]) & B.SET:
            if value & B.SET:
                registers[:] = self._with_time()
            else:
                self._set_time()
        elif index in TIME and not registers[Reg.B] & B.SET:
            registers[:] = self._with_time()
            registers[index] = value
            self._set_time()
        registers[index] = value
        self._arm()

    def _now(self) -> datetime:
        # Datetime has no nanoseconds and ends in the year 9999; a guest's own offset may point anywhere.
        seconds = (self._wall() + self.state.offset & MASK64) // SECOND
        return EPOCH + timedelta(seconds=min(seconds, 250_000_000_000))

    def _shown(self, index: int) -> int:
        now = self._now()
        values = {
            Reg.SECONDS: now.second,
            Reg.MINUTES: now.minute,
            Reg.HOURS: now.hour,
            Reg.WEEKDAY: now.isoweekday() % 7 + 1,
            Reg.DAY: now.day,
            Reg.MONTH: now.month,
            Reg.YEAR: now.year % 100,
            Reg.CENTURY: now.year // 100,
        }
        return self._encoded(values[Reg(index)])

    def _encoded(self, value: int) -> int:
        return value if self._registers[Reg.B] & B.BINARY else value // 10 << 4 | value % 10

    def _decoded(self, value: int) -> int:
        return value if self._registers[Reg.B] & B.BINARY else (value >> 4) * 10 + (value & 15)

    def _with_time(self) -> bytes:
        registers = bytearray(self._registers)
        for register in TIME:
            registers[register] = self._shown(register)
        return bytes(registers)

    def _set_time(self) -> None:
        second, minute, hour, _weekday, day, month, year, century = (self._decoded(self._registers[reg]) for reg in TIME)
        try:
            wanted = datetime(century * 100 + year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            return  # no such date: the time stays
        self.state.offset += int((wanted - self._now()).total_seconds()) * SECOND
        self.state.offset &= MASK64

    def _arm(self) -> None:
        registers = self._registers
        if not registers[Reg.B] & B.ALARM_INTERRUPT or registers[Reg.C] & C.ALARM:
            self._timer.cancel()
            return
        now = self._now()
        wanted = [range(60), range(60), range(24)]
        for place, (alarm, _time) in enumerate(ALARM):
            if registers[alarm] & ANY != ANY:
                value = self._decoded(registers[alarm])
                if value not in wanted[place]:
                    self._timer.cancel()
                    return
                wanted[place] = range(value, value + 1)
        midnight = now.hour * 3600 + now.minute * 60 + now.second
        times = (3600 * hour + 60 * minute + second for hour in wanted[2] for minute in wanted[1] for second in wanted[0])
        left = min((time - midnight - 1) % 86400 + 1 for time in times)
        part = (self._wall() + self.state.offset & MASK64) % SECOND
        self._timer.arm(self._wall() - part + left * SECOND)

    def _alarm(self) -> None:
        self._registers[Reg.C] |= C.ALARM | C.ANY_INTERRUPT
        self._irq.set(True)
