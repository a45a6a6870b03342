"""The PC's clock as its driver meets it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from devices.cmos import DATA, INDEX, B, C, Cmos, Reg
from tests.devices.fakes import FakeClock, Wire

SECOND = 1_000_000_000
START = datetime(2026, 11, 21, 16, 35, 58, tzinfo=UTC)


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock(wall=int(START.timestamp()) * SECOND)
        self.wire = Wire()
        self.cmos = Cmos("rtc", self.wire.irq, self.clock)

    def get(self, register: int) -> int:
        self.cmos.write(INDEX, 1, register)
        return self.cmos.read(DATA, 1)

    def set(self, register: int, value: int) -> None:
        self.cmos.write(INDEX, 1, register)
        self.cmos.write(DATA, 1, value)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_shows_the_hosts_date_in_bcd(bench: Bench) -> None:
    shown = [bench.get(reg) for reg in (Reg.CENTURY, Reg.YEAR, Reg.MONTH, Reg.DAY, Reg.HOURS, Reg.MINUTES, Reg.SECONDS)]

    assert shown == [0x20, 0x26, 0x11, 0x21, 0x16, 0x35, 0x58]
    assert bench.get(Reg.WEEKDAY) == 7  # Saturday


def test_it_shows_binary_when_told_to(bench: Bench) -> None:
    bench.set(Reg.B, B.BINARY | B.HOURS_24)

    assert bench.get(Reg.MINUTES) == 35


def test_the_time_that_was_set_goes_on_and_outlives_a_reset(bench: Bench) -> None:
    bench.set(Reg.B, B.SET | B.HOURS_24)
    for register, value in ((Reg.YEAR, 0x30), (Reg.MONTH, 0x02), (Reg.DAY, 0x28), (Reg.SECONDS, 0x59)):
        bench.set(register, value)
    bench.set(Reg.B, B.HOURS_24)
    bench.clock.advance(SECOND)

    bench.cmos.reset()

    assert [bench.get(reg) for reg in (Reg.YEAR, Reg.MONTH, Reg.DAY, Reg.MINUTES)] == [0x30, 0x02, 0x28, 0x36]


def test_a_date_that_does_not_exist_changes_nothing(bench: Bench) -> None:
    bench.set(Reg.MONTH, 0x13)

    assert bench.get(Reg.MONTH) == 0x11


def test_the_alarm_rings_once_at_its_time(bench: Bench) -> None:
    for register, value in ((Reg.SECONDS_ALARM, 0x00), (Reg.MINUTES_ALARM, 0x36), (Reg.HOURS_ALARM, 0xFF)):
        bench.set(register, value)
    bench.set(Reg.B, B.ALARM_INTERRUPT | B.HOURS_24)
    bench.clock.advance(SECOND)
    assert not bench.wire.level

    bench.clock.advance(SECOND)

    assert bench.wire.level
    assert bench.get(Reg.C) == C.ALARM | C.ANY_INTERRUPT
    assert not bench.wire.level


def test_memory_keeps_what_is_written(bench: Bench) -> None:
    bench.set(0x40, 0x5A)

    assert bench.get(0x40) == 0x5A


def test_status_registers_are_read_only(bench: Bench) -> None:
    bench.set(Reg.D, 0)

    assert bench.get(Reg.D) == 0x80
