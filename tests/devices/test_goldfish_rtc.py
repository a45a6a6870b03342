"""The real-time clock and its alarm."""

from __future__ import annotations

import pytest

from devices.goldfish_rtc import GoldfishRtc, GoldfishRtcState, Reg
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, Wire

NOW = 1_700_000_000_123_456_789  # ns; its lower half is about to come round below
MASK32 = (1 << 32) - 1


class Bench:
    """A clock chip, its interrupt line, and the two times it knows."""

    def __init__(self, wall: int = NOW) -> None:
        self.clock = FakeClock()
        self.line = Wire()
        self.wall = wall
        self.rtc = GoldfishRtc("rtc", self.line.irq, self.clock, lambda: self.wall)

    def read(self, register: int) -> int:
        return self.rtc.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.rtc.write(register, 4, value)

    def time(self) -> int:
        low = self.read(Reg.TIME_LOW)
        return self.read(Reg.TIME_HIGH) << 32 | low

    def set_alarm(self, at: int) -> None:
        self.write(Reg.ALARM_HIGH, at >> 32)
        self.write(Reg.ALARM_LOW, at & MASK32)
        self.write(Reg.IRQ_ENABLED, 1)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_time_is_the_hosts_at_power_on_and_runs(bench: Bench) -> None:
    at_power_on = bench.time()

    bench.clock.advance(1_500_000_000)

    assert at_power_on == NOW
    assert bench.time() == NOW + 1_500_000_000


def test_upper_half_is_of_the_moment_the_lower_half_was_read() -> None:
    bench = Bench(wall=(5 << 32) - 1)

    low = bench.read(Reg.TIME_LOW)
    bench.clock.advance(1)

    assert (bench.read(Reg.TIME_HIGH), low) == (4, MASK32)


def test_host_that_sets_its_clock_does_not_move_the_guests(bench: Bench) -> None:
    bench.wall = 0

    assert bench.time() == NOW


def test_time_stands_while_the_guest_is_stopped(bench: Bench) -> None:
    bench.clock.stop()
    bench.clock.advance(1_000_000)

    assert bench.time() == NOW


def test_reset_takes_the_hosts_time_again(bench: Bench) -> None:
    bench.wall = NOW + 77
    bench.clock.advance(5)

    bench.rtc.reset()

    assert bench.time() == NOW + 77


def test_time_can_be_set_in_halves(bench: Bench) -> None:
    bench.write(Reg.TIME_HIGH, 0x1234)
    bench.write(Reg.TIME_LOW, 0x5678)
    bench.clock.advance(2)

    assert bench.time() == 0x1234_0000_567A


def test_alarm_interrupts_at_its_time_and_not_before(bench: Bench) -> None:
    bench.set_alarm(NOW + 1000)

    armed = bench.read(Reg.ALARM_STATUS)
    bench.clock.advance(999)
    before = bench.line.level
    bench.clock.advance(1)

    assert (armed, before) == (1, False)
    assert bench.line.level
    assert bench.read(Reg.ALARM_STATUS) == 0


def test_alarm_in_the_past_interrupts_at_once(bench: Bench) -> None:
    bench.set_alarm(NOW)

    assert bench.line.level
    assert bench.clock.next_deadline() is None


def test_interrupt_stays_until_it_is_cleared(bench: Bench) -> None:
    bench.set_alarm(NOW)
    bench.write(Reg.CLEAR_ALARM, 1)
    still = bench.line.level

    bench.write(Reg.CLEAR_INTERRUPT, 1)

    assert still
    assert not bench.line.level


def test_disabled_interrupt_waits(bench: Bench) -> None:
    bench.set_alarm(NOW + 5)
    bench.write(Reg.IRQ_ENABLED, 0)
    bench.clock.advance(5)
    disabled = bench.line.level

    bench.write(Reg.IRQ_ENABLED, 1)

    assert not disabled
    assert bench.line.level


def test_cleared_alarm_does_not_ring(bench: Bench) -> None:
    bench.set_alarm(NOW + 5)

    bench.write(Reg.CLEAR_ALARM, 1)
    bench.clock.advance(10)

    assert not bench.line.level
    assert bench.read(Reg.ALARM_STATUS) == 0


def test_upper_half_of_the_alarm_waits_for_the_lower(bench: Bench) -> None:
    bench.set_alarm(NOW + 100)

    bench.write(Reg.ALARM_HIGH, 0)
    bench.clock.advance(99)
    early = bench.line.level
    bench.clock.advance(1)

    assert not early
    assert bench.line.level


def test_alarm_follows_a_time_that_is_set(bench: Bench) -> None:
    bench.set_alarm(NOW + (1 << 40))

    bench.write(Reg.TIME_HIGH, (NOW >> 32) + (1 << 10))
    bench.clock.advance(0)

    assert bench.line.level


def test_alarm_at_the_end_of_time_is_no_deadline(bench: Bench) -> None:
    bench.set_alarm((1 << 64) - 1)

    assert bench.clock.next_deadline() is None
    assert bench.read(Reg.ALARM_STATUS) == 1


def test_alarm_is_read_as_it_was_set(bench: Bench) -> None:
    bench.set_alarm(NOW + 5)

    assert bench.read(Reg.ALARM_HIGH) << 32 | bench.read(Reg.ALARM_LOW) == NOW + 5
    assert bench.read(Reg.IRQ_ENABLED) == 1


@pytest.mark.parametrize(("offset", "size"), [(0x20, 4), (0x24, 4), (0x0, 1), (0x8, 8), (0x2, 4), (0x18, 4)])
def test_other_widths_and_registers_take_nothing(bench: Bench, offset: int, size: int) -> None:
    before = dump(bench.rtc.save())

    bench.rtc.write(offset, size, 1)

    assert bench.rtc.read(offset, size) == 0
    assert dump(bench.rtc.save()) == before


def test_loaded_clock_goes_on_from_guest_time_whatever_the_host_says(bench: Bench) -> None:
    bench.set_alarm(NOW + 1000)
    there = Bench(wall=3)

    there.rtc.load(parse(GoldfishRtcState, 1, dump(bench.rtc.save())))
    time = there.time()
    there.clock.advance(1000)

    assert time == NOW
    assert there.line.level


def test_load_leaves_the_line_to_the_controller(bench: Bench) -> None:
    bench.rtc.load(GoldfishRtcState(irq_pending=True, irq_enabled=True))

    assert bench.line.changes == 0
