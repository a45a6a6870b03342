"""The core-local interruptor: time, the timer interrupt, the software interrupt."""

from __future__ import annotations

import pytest

from devices.clint import LATCH_TICKS, MASK64, TICK_NS, Clint, ClintState, Reg
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, Wire

ROLLOVER = 1 << 32  # ticks until the lower half of mtime comes round


class RestlessClock(FakeClock):
    """Time that passes by a tick whenever somebody looks, as it does on a host."""

    def now(self) -> int:
        self._host += TICK_NS
        return super().now()


class Hart:
    """A CLINT, its hart's two pending bits, and time."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.msip = Wire()
        self.mtip = Wire()
        self.clint = self.make()

    def make(self) -> Clint:
        return Clint("clint", msip=self.msip.irq, mtip=self.mtip.irq, clock=self.clock)

    def advance(self, ticks: int) -> None:
        self.clock.advance(ticks * TICK_NS)

    def set_timer(self, mtimecmp: int) -> None:
        self.clint.write(Reg.MTIMECMP, 8, mtimecmp)


@pytest.fixture
def hart() -> Hart:
    return Hart()


def test_mtime_counts_ticks_of_guest_time(hart: Hart) -> None:
    hart.clock.advance(1_000_000_050)

    assert hart.clint.read(Reg.MTIME, 8) == 10_000_000


def test_mtime_stands_while_guest_time_does(hart: Hart) -> None:
    hart.advance(5)
    hart.clock.stop()
    hart.advance(100)

    assert hart.clint.mtime() == 5


def test_timer_interrupts_when_mtime_reaches_mtimecmp_and_not_before(hart: Hart) -> None:
    hart.set_timer(100)

    hart.advance(99)
    before = hart.mtip.level
    hart.advance(1)

    assert not before
    assert hart.mtip.level


def test_timer_in_the_past_interrupts_at_once(hart: Hart) -> None:
    hart.advance(100)

    hart.set_timer(100)

    assert hart.mtip.level


@pytest.mark.parametrize("mtimecmp", range(1, 12))
def test_timer_that_comes_due_while_it_is_being_set_interrupts(mtimecmp: int) -> None:
    hart = Hart(RestlessClock())
    hart.set_timer(mtimecmp)

    hart.advance(100)

    assert hart.mtip.level


def test_later_mtimecmp_takes_the_interrupt_back(hart: Hart) -> None:
    hart.set_timer(0)

    hart.set_timer(10)

    assert not hart.mtip.level
    assert hart.clock.next_deadline() == 10 * TICK_NS


def test_mtimecmp_is_written_and_read_in_halves(hart: Hart) -> None:
    hart.clint.write(Reg.MTIMECMP, 4, 0x9ABC_DEF0)
    hart.clint.write(Reg.MTIMECMP_HIGH, 4, 0x1234_5678)

    assert hart.clint.read(Reg.MTIMECMP, 8) == 0x1234_5678_9ABC_DEF0
    assert hart.clint.read(Reg.MTIMECMP_HIGH, 4) == 0x1234_5678


def test_no_timer_is_set_after_reset(hart: Hart) -> None:
    hart.advance(1 << 40)

    assert hart.clint.read(Reg.MTIMECMP, 8) == MASK64
    assert not hart.mtip.level


@pytest.mark.parametrize("mtimecmp", [1 << 63, MASK64 - 1])
def test_timer_in_millennia_waits(hart: Hart, mtimecmp: int) -> None:
    hart.set_timer(1000)

    hart.set_timer(mtimecmp)
    hart.advance(1 << 40)
    early = hart.mtip.level
    hart.clint.write(Reg.MTIME, 8, mtimecmp)

    assert (early, hart.mtip.level) == (False, True)


def test_writing_mtime_moves_the_timer(hart: Hart) -> None:
    hart.set_timer(1 << 40)
    hart.advance(7)

    hart.clint.write(Reg.MTIME, 8, (1 << 40) - 3)
    hart.advance(2)
    before = hart.mtip.level
    hart.advance(1)

    assert not before
    assert hart.mtip.level
    assert hart.clint.mtime() == 1 << 40


def test_mtime_that_comes_round_ends_the_interrupt(hart: Hart) -> None:
    hart.set_timer(5)
    hart.clint.write(Reg.MTIME, 8, MASK64)
    high = hart.mtip.level

    hart.advance(1)
    low = hart.mtip.level
    hart.advance(5)

    assert (high, low, hart.mtip.level) == (True, False, True)


def test_load_in_two_halves_is_not_torn_by_a_carry(hart: Hart) -> None:
    hart.advance(ROLLOVER - 1)

    low = hart.clint.read(Reg.MTIME, 4)
    hart.advance(1)
    high = hart.clint.read(Reg.MTIME_HIGH, 4)

    assert high << 32 | low == ROLLOVER - 1


def test_upper_half_is_held_for_one_load(hart: Hart) -> None:
    hart.advance(ROLLOVER - 1)
    hart.clint.read(Reg.MTIME, 4)
    hart.advance(1)
    hart.clint.read(Reg.MTIME_HIGH, 4)

    assert hart.clint.read(Reg.MTIME_HIGH, 4) == 1


def test_upper_half_is_not_held_for_long(hart: Hart) -> None:
    hart.advance(ROLLOVER - 1)
    hart.clint.read(Reg.MTIME, 4)

    hart.advance(LATCH_TICKS + 1)

    assert hart.clint.read(Reg.MTIME_HIGH, 4) == 1


def test_msip_is_one_bit(hart: Hart) -> None:
    hart.clint.write(Reg.MSIP, 4, 0xFFFF_FFFF)
    high = hart.msip.level, hart.clint.read(Reg.MSIP, 4)
    hart.clint.write(Reg.MSIP, 4, 0xFFFF_FFFE)

    assert high == (True, 1)
    assert (hart.msip.level, hart.clint.read(Reg.MSIP, 4)) == (False, 0)


@pytest.mark.parametrize(
    ("offset", "size"), [(0x0, 1), (0x0, 2), (0x2, 4), (0x4, 8), (0x4000, 2), (0x4004, 8), (0xBFF9, 4), (0x4, 4), (0x8000, 8)]
)
def test_other_widths_and_reserved_offsets_take_nothing(hart: Hart, offset: int, size: int) -> None:
    before = dump(hart.clint.save())

    hart.clint.write(offset, size, 0x0101_0101_0101_0101 & (1 << 8 * size) - 1)

    assert hart.clint.read(offset, size) == 0
    assert dump(hart.clint.save()) == before


def test_timer_goes_on_where_it_was_loaded(hart: Hart) -> None:
    hart.clint.write(Reg.MTIME, 8, 1000)
    hart.set_timer(1010)
    there = Hart()

    there.clint.load(parse(ClintState, 1, dump(hart.clint.save())))
    level_at_load = there.mtip.level
    there.advance(10)

    assert not level_at_load
    assert there.mtip.level
    assert there.clint.mtime() == 1010


def test_timer_that_came_due_while_the_guest_was_stopped_for_its_save_interrupts_after_the_load(hart: Hart) -> None:
    hart.clint.load(ClintState(mtimecmp=0))

    hart.clock.fire()

    assert hart.mtip.level


def test_load_leaves_the_lines_to_the_hart(hart: Hart) -> None:
    hart.clint.load(ClintState(msip=1, mtimecmp=0))

    assert hart.msip.changes == hart.mtip.changes == 0
