"""The generic timer: a count of guest time, and two timers that compare with it."""

from __future__ import annotations

import pytest

from devices.generic_timer import ENABLE, FREQUENCY, IMASK, ISTATUS, NS_PER_TICK, Comparator, GenericTimer, GenericTimerState
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, Wire

SECOND = 1_000_000_000  # ns


class Bench:
    """A timer and its two lines."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lines = {"physical": Wire(), "virtual": Wire()}
        self.timer = GenericTimer("timer", self.clock, physical=self.lines["physical"].irq, virtual=self.lines["virtual"].irq)

    def of(self, which: str) -> Comparator:
        return self.timer.physical if which == "physical" else self.timer.virtual

    def advance(self, ticks: int) -> None:
        self.clock.advance(ticks * NS_PER_TICK)


@pytest.fixture
def bench() -> Bench:
    return Bench()


each = pytest.mark.parametrize("which", ["physical", "virtual"])


def test_it_counts_guest_time(bench: Bench) -> None:
    bench.clock.advance(SECOND)

    assert bench.timer.count() == FREQUENCY


@each
def test_it_interrupts_at_its_value_and_not_before(bench: Bench, which: str) -> None:
    bench.of(which).write_cval(1000)
    bench.of(which).write_ctl(ENABLE)
    bench.advance(999)
    before = bench.lines[which].level, bench.of(which).read_ctl()
    bench.advance(1)

    assert before == (False, ENABLE)
    assert (bench.lines[which].level, bench.of(which).read_ctl()) == (True, ENABLE | ISTATUS)
    assert sum(line.level for line in bench.lines.values()) == 1


@each
def test_a_later_value_takes_the_interrupt_back(bench: Bench, which: str) -> None:
    bench.advance(10)
    bench.of(which).write_ctl(ENABLE)  # the value is 0
    raised = bench.lines[which].level

    bench.of(which).write_cval(20)
    lowered = bench.lines[which].level
    bench.advance(10)

    assert (raised, lowered, bench.lines[which].level) == (True, False, True)


def test_masked_it_says_so_but_does_not_interrupt(bench: Bench) -> None:
    bench.timer.virtual.write_ctl(ENABLE | IMASK)

    assert bench.timer.virtual.read_ctl() == ENABLE | IMASK | ISTATUS
    assert not bench.lines["virtual"].level
    assert bench.clock.next_deadline() is None


def test_switched_off_it_neither_says_nor_does_anything(bench: Bench) -> None:
    bench.timer.virtual.write_ctl(ENABLE)
    bench.timer.virtual.write_ctl(0)

    assert bench.timer.virtual.read_ctl() == 0
    assert not bench.lines["virtual"].level


@pytest.mark.parametrize(("value", "cval"), [(5, 105), (0xFFFF_FFFF, 99), (0x8000_0000, (100 - (1 << 31)) % (1 << 64))])
def test_the_timer_value_is_signed_and_relative(bench: Bench, value: int, cval: int) -> None:
    bench.advance(100)

    bench.timer.physical.write_tval(value)

    assert bench.timer.physical.read_cval() == cval
    assert bench.timer.physical.read_tval() == value


def test_status_cannot_be_written(bench: Bench) -> None:
    bench.timer.physical.write_ctl(ISTATUS | 0x100)

    assert bench.timer.physical.read_ctl() == 0


def test_it_goes_on_after_a_move(bench: Bench) -> None:
    bench.timer.virtual.write_cval(1000)
    bench.timer.virtual.write_ctl(ENABLE)
    bench.advance(400)
    there = Bench()

    there.clock.load(bench.clock.save())
    there.timer.load(parse(GenericTimerState, 1, dump(bench.timer.save())))
    there.clock.start()
    there.advance(599)
    before = there.lines["virtual"].level
    there.advance(1)

    assert (before, there.lines["virtual"].level) == (False, True)


def test_an_interrupt_that_was_due_at_the_save_is_raised_after_the_load(bench: Bench) -> None:
    bench.clock.load(FakeClock().save())
    bench.timer.load(parse(GenericTimerState, 1, {**dump(GenericTimerState()), "virtual": {"ctl": ENABLE, "cval": 0}}))
    silent = bench.lines["virtual"].changes

    bench.clock.start()
    bench.clock.fire()

    assert silent == 0
    assert bench.lines["virtual"].level
