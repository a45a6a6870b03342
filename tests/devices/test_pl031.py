"""The PL031: seconds and an alarm."""

from __future__ import annotations

import pytest

from devices.pl031 import NS, Pl031, Pl031State, Reg
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, Wire

NOW = 1_700_000_000  # s
HOUR = 3600  # s


class Bench:
    """A clock chip, its interrupt line, and the two times around it."""

    def __init__(self, wall: int = NOW * NS + NS // 2) -> None:
        self.clock = FakeClock(wall=wall)
        self.line = Wire()
        self.rtc = Pl031("rtc", self.line.irq, self.clock)

    def read(self, register: int) -> int:
        return self.rtc.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.rtc.write(register, 4, value)

    def set_alarm(self, at: int) -> None:
        self.write(Reg.IMSC, 1)
        self.write(Reg.MR, at)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_time_is_the_hosts_and_runs(bench: Bench) -> None:
    before = bench.read(Reg.DR)
    bench.clock.advance(NS // 2)

    assert (before, bench.read(Reg.DR)) == (NOW, NOW + 1)


def test_time_can_be_set_and_runs_on(bench: Bench) -> None:
    bench.write(Reg.LR, 100)
    bench.clock.advance(5 * NS)

    assert (bench.read(Reg.LR), bench.read(Reg.DR)) == (100, 105)


def test_time_comes_round_after_32_bits(bench: Bench) -> None:
    bench.write(Reg.LR, (1 << 32) - 1)
    bench.clock.advance(2 * NS)

    assert bench.read(Reg.DR) == 1


def test_alarm_interrupts_when_its_second_begins(bench: Bench) -> None:
    bench.set_alarm(NOW + 10)
    bench.clock.advance(9 * NS + NS // 2 - 1)
    before = bench.line.level
    bench.clock.advance(1)

    assert (before, bench.line.level) == (False, True)
    assert (bench.read(Reg.RIS), bench.read(Reg.MIS)) == (1, 1)


def test_alarm_for_this_second_interrupts_at_once(bench: Bench) -> None:
    bench.set_alarm(NOW)

    assert bench.line.level
    assert bench.clock.next_deadline() is None


def test_interrupt_stays_until_it_is_cleared(bench: Bench) -> None:
    bench.set_alarm(NOW)
    bench.write(Reg.ICR, 0)
    still = bench.line.level

    bench.write(Reg.ICR, 1)

    assert (still, bench.line.level, bench.read(Reg.RIS)) == (True, False, 0)


def test_masked_alarm_is_told_but_does_not_interrupt(bench: Bench) -> None:
    bench.set_alarm(NOW)
    bench.write(Reg.IMSC, 0)

    assert (bench.read(Reg.RIS), bench.read(Reg.MIS), bench.line.level) == (1, 0, False)


def test_alarm_follows_a_time_that_is_set(bench: Bench) -> None:
    bench.set_alarm(NOW + HOUR)

    bench.write(Reg.LR, NOW + HOUR)

    assert bench.line.level


def test_alarm_that_the_guest_missed_while_it_was_stopped_rings_when_it_goes_on(bench: Bench) -> None:
    bench.set_alarm(NOW + HOUR)
    bench.clock.stop()
    bench.clock.advance(2 * HOUR * NS)
    stopped = bench.line.level

    bench.clock.start()
    bench.clock.fire()

    assert (stopped, bench.line.level) == (False, True)


@pytest.mark.parametrize(("away", "rings"), [(0, False), (9, False), (10, True), (HOUR, True)])
def test_loaded_clock_is_right_however_long_the_guest_was_away(bench: Bench, away: int, rings: bool) -> None:
    bench.write(Reg.LR, 1000)
    bench.set_alarm(1010)
    there = Bench(wall=(NOW + away) * NS)

    there.rtc.load(parse(Pl031State, 1, dump(bench.rtc.save())))
    there.clock.fire()

    assert there.read(Reg.DR) == 1000 + away
    assert there.line.level is rings


def test_reset_keeps_the_time_that_was_set(bench: Bench) -> None:
    bench.write(Reg.LR, 77)
    bench.set_alarm(100)

    bench.rtc.reset()

    assert (bench.read(Reg.DR), bench.read(Reg.MR), bench.clock.next_deadline()) == (77, 0, None)


def test_a_driver_finds_out_what_it_drives(bench: Bench) -> None:
    peripheral, cell = (sum(bench.read(at + 4 * n) << 8 * n for n in range(4)) for at in (0xFE0, 0xFF0))

    assert (peripheral & 0xFFFFF, cell) == (0x41031, 0xB105F00D)
    assert bench.read(Reg.CR) == 1


@pytest.mark.parametrize(("offset", "size"), [(0x20, 4), (0x00, 4), (0x04, 1), (0x08, 2), (0x10, 8), (0xFE0, 4)])
def test_other_widths_and_registers_take_nothing(bench: Bench, offset: int, size: int) -> None:
    before = dump(bench.rtc.save())

    bench.rtc.write(offset, size, 1)

    assert dump(bench.rtc.save()) == before


def test_load_leaves_the_line_to_the_controller(bench: Bench) -> None:
    bench.rtc.load(Pl031State(alarm=True, mask=True))

    assert bench.line.changes == 0
