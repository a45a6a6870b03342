"""The PIT as its driver meets it."""

from __future__ import annotations

import pytest

from devices.i8254 import CONTROL, COUNTERS, HZ, SECOND, SYSTEM, Pit
from tests.devices.fakes import FakeClock, Wire

RATE, SQUARE, ONE_SHOT = 0x34, 0x36, 0x30  # channel 0, both bytes


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.wire = Wire()
        self.pit = Pit("pit", self.wire.irq, self.clock)

    def program(self, control: int, count: int, channel: int = 0) -> None:
        self.pit.write(CONTROL, 1, control)
        self.pit.write(COUNTERS + channel, 1, count & 0xFF)
        self.pit.write(COUNTERS + channel, 1, count >> 8)

    def count(self, channel: int = 0) -> int:
        low = self.pit.read(COUNTERS + channel, 1)
        return low | self.pit.read(COUNTERS + channel, 1) << 8

    def rising_edges(self, clocks: int) -> int:
        """Edges while so many clocks of the timer pass, one at a time."""
        edges, before = 0, self.wire.changes
        for _ in range(clocks):
            self.clock.advance(SECOND // HZ + 1)
            edges += self.wire.changes > before and self.wire.level
            before = self.wire.changes
        return edges


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("control", [RATE, SQUARE])
def test_periodic_modes_interrupt_again_and_again(bench: Bench, control: int) -> None:
    bench.program(control, 100)

    assert bench.rising_edges(1000) == 10


def test_terminal_count_interrupts_once(bench: Bench) -> None:
    bench.program(ONE_SHOT, 100)
    assert not bench.wire.level

    assert bench.rising_edges(1000) == 1
    assert bench.wire.level


def test_a_control_word_stops_it(bench: Bench) -> None:
    bench.program(RATE, 100)

    bench.pit.write(CONTROL, 1, ONE_SHOT)

    assert bench.rising_edges(300) == 0
    assert bench.clock.next_deadline() is None


def test_missed_edges_come_as_one(bench: Bench) -> None:
    bench.program(RATE, 100)
    before = bench.wire.changes

    bench.clock.advance(SECOND)

    assert bench.wire.changes - before <= 2
    assert bench.clock.next_deadline() is not None


def test_the_count_goes_down(bench: Bench) -> None:
    bench.program(ONE_SHOT, 0x1234)
    bench.clock.advance(0x100 * SECOND // HZ + 1)

    assert bench.count() == 0x1134


def test_a_latched_count_stands_still(bench: Bench) -> None:
    bench.program(RATE, 0x1000)
    bench.pit.write(CONTROL, 1, 0x00)
    bench.clock.advance(100 * SECOND // HZ)

    assert bench.count() == 0x1000
    assert bench.count() < 0x1000


def test_read_back_tells_mode_and_output(bench: Bench) -> None:
    bench.program(ONE_SHOT, 100)
    bench.pit.write(CONTROL, 1, 0xE2)
    assert bench.pit.read(COUNTERS, 1) == 0x30

    bench.clock.advance(SECOND // 1000)
    bench.pit.write(CONTROL, 1, 0xE2)

    assert bench.pit.read(COUNTERS, 1) == 0xB0


def test_the_second_channel_is_gated_and_seen_at_the_system_port(bench: Bench) -> None:
    bench.pit.write(SYSTEM, 1, 0)
    bench.program(0xB0, 1000, channel=2)
    bench.pit.write(SYSTEM, 1, 1)
    assert bench.pit.read(SYSTEM, 1) & 0x21 == 0x01

    bench.clock.advance(SECOND // 1000)

    assert bench.pit.read(SYSTEM, 1) & 0x21 == 0x21


def test_the_next_edge_goes_with_the_state(bench: Bench) -> None:
    bench.program(RATE, 100)
    bench.clock.advance(150 * SECOND // HZ)
    there = Bench()

    there.pit.load(bench.pit.save())

    assert there.clock.next_deadline() == bench.clock.next_deadline() is not None
