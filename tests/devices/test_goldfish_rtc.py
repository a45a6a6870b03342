"""The real-time clock and its alarm."""

from __future__ import annotations

import pytest

from devices.goldfish_rtc import GoldfishRtc, GoldfishRtcState, Reg
from emu.clock import DETERMINISTIC_START, LOOK_AT_WALL, VirtualClock
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, Wire

NOW = 1_700_000_000_123_456_789  # ns; its lower half is about to come round below
HOUR = 3_600_000_000_000  # ns
MASK32 = (1 << 32) - 1


class Bench:
    """A clock chip, its interrupt line, and the two times around it."""

    def __init__(self, wall: int = NOW) -> None:
        self.clock = FakeClock(wall=wall)
        self.line = Wire()
        self.rtc = GoldfishRtc("rtc", self.line.irq, self.clock)

    def read(self, register: int) -> int:
        return self.rtc.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.rtc.write(register, 4, value)

    def time(self) -> int:
        low = self.read(Reg.TIME_LOW)
        return self.read(Reg.TIME_HIGH) << 32 | low

    def set_time(self, to: int) -> None:
        self.write(Reg.TIME_HIGH, to >> 32)
        self.write(Reg.TIME_LOW, to & MASK32)

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


def test_time_goes_on_while_the_guest_is_stopped(bench: Bench) -> None:
    bench.clock.stop()
    bench.clock.advance(HOUR)
    bench.clock.start()

    assert bench.time() == NOW + HOUR


def test_host_that_sets_its_clock_sets_the_guests(bench: Bench) -> None:
    bench.clock.set_host(NOW - HOUR)

    assert bench.time() == NOW - HOUR


def test_deterministic_machine_has_the_same_time_in_every_run() -> None:
    host = 0
    clock = VirtualClock(lambda: host, None)
    rtc = GoldfishRtc("rtc", Wire().irq, clock)
    clock.start()

    host += HOUR  # the guest runs
    clock.stop()
    host += HOUR  # it does not
    low, high = rtc.read(Reg.TIME_LOW, 4), rtc.read(Reg.TIME_HIGH, 4)

    assert high << 32 | low == DETERMINISTIC_START + HOUR


def test_deterministic_machine_has_its_alarm_at_the_same_guest_time_in_every_run() -> None:
    clock = VirtualClock(lambda: 0, None)
    rtc = GoldfishRtc("rtc", Wire().irq, clock)

    rtc.write(Reg.ALARM_HIGH, 4, (DETERMINISTIC_START + HOUR) >> 32)
    rtc.write(Reg.ALARM_LOW, 4, (DETERMINISTIC_START + HOUR) & MASK32)

    assert clock.next_deadline() == HOUR


def test_reset_keeps_the_time_that_was_set(bench: Bench) -> None:
    bench.set_time(5 * HOUR)
    bench.set_alarm(6 * HOUR)

    bench.rtc.reset()
    bench.clock.advance(HOUR)

    assert bench.time() == 6 * HOUR
    assert not bench.line.level


def test_time_can_be_set_in_halves(bench: Bench) -> None:
    bench.set_time(0x1234_0000_5678)
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


def test_alarm_at_the_end_of_time_waits(bench: Bench) -> None:
    bench.set_alarm((1 << 64) - 1)

    bench.clock.advance(HOUR)

    assert not bench.line.level
    assert bench.read(Reg.ALARM_STATUS) == 1


def test_alarm_that_the_guest_missed_while_it_was_stopped_rings_when_it_goes_on(bench: Bench) -> None:
    bench.set_alarm(NOW + HOUR)
    bench.clock.stop()
    bench.clock.advance(2 * HOUR)
    stopped = bench.line.level

    bench.clock.start()
    bench.clock.fire()

    assert not stopped
    assert bench.line.level


def test_alarm_comes_earlier_in_guest_time_by_what_the_guest_was_stopped(bench: Bench) -> None:
    bench.set_alarm(NOW + 1000)
    bench.clock.stop()
    bench.clock.advance(990)
    bench.clock.start()

    bench.clock.advance(9)
    before = bench.line.level
    bench.clock.advance(1)

    assert (before, bench.line.level) == (False, True)


def test_host_that_sets_its_clock_past_the_alarm_rings_it(bench: Bench) -> None:
    bench.set_alarm(NOW + 2 * HOUR)

    bench.clock.set_host(NOW + 2 * HOUR - 1)
    before = bench.line.level
    bench.clock.set_host(NOW + 2 * HOUR)

    assert (before, bench.line.level) == (False, True)


def test_host_that_sets_its_clock_back_puts_the_alarm_off(bench: Bench) -> None:
    bench.set_alarm(NOW + 1000)
    bench.clock.set_host(NOW - HOUR)

    bench.clock.advance(1000)
    early = bench.line.level
    bench.clock.advance(HOUR)

    assert (early, bench.line.level) == (False, True)


def test_vcpu_looks_at_the_hosts_clock_in_time_however_far_the_alarm_is(bench: Bench) -> None:
    bench.set_alarm(NOW + HOUR)

    assert bench.clock.next_deadline() == LOOK_AT_WALL


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


@pytest.mark.parametrize(("away", "rings"), [(0, False), (999, False), (1000, True), (HOUR, True)])
def test_loaded_clock_is_right_however_long_the_guest_was_away(bench: Bench, away: int, rings: bool) -> None:
    bench.set_time(NOW - HOUR)
    bench.set_alarm(NOW - HOUR + 1000)
    there = Bench(wall=NOW + away)

    there.rtc.load(parse(GoldfishRtcState, 2, dump(bench.rtc.save())))
    there.clock.fire()

    assert there.time() == NOW - HOUR + away
    assert there.line.level is rings


def test_load_leaves_the_line_to_the_controller(bench: Bench) -> None:
    bench.rtc.load(GoldfishRtcState(irq_pending=True, irq_enabled=True))

    assert bench.line.changes == 0
