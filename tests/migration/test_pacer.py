"""The pacer: never faster than allowed, and by the rate as it is now."""

from __future__ import annotations

import pytest

from migration.pages import LONGEST_WAIT, SHORTEST_WAIT, Pacer

MIB = 1 << 20


class Clock:
    """Time that passes only in sleeps, and as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rate = MIB
        self.rate_from: dict[int, int] = {}  # by the number of the sleep after which it holds
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.rate = self.rate_from.get(len(self.sleeps), self.rate)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pacer(clock: Clock) -> Pacer:
    return Pacer(lambda: clock.rate, clock.sleep, lambda: clock.now)


def test_bytes_take_the_time_that_the_rate_allows_them(pacer: Pacer, clock: Clock) -> None:
    for _frame in range(5):
        pacer.sent(4 * MIB)

    assert clock.now - 1000 == pytest.approx(20, abs=SHORTEST_WAIT)


def test_time_spent_sending_counts(pacer: Pacer, clock: Clock) -> None:
    for _frame in range(5):
        clock.now += 1.5
        pacer.sent(4 * MIB)

    assert clock.now - 1000 == pytest.approx(20, abs=SHORTEST_WAIT)


def test_idle_time_is_not_saved_up(pacer: Pacer, clock: Clock) -> None:
    clock.now += 3600
    pacer.sent(4 * MIB)  # as many as an hour allows, and no more than that
    began = clock.now

    pacer.sent(4 * MIB)

    assert clock.now - began == pytest.approx(4, abs=SHORTEST_WAIT)


def test_without_a_limit_nothing_waits(pacer: Pacer, clock: Clock) -> None:
    clock.rate = 0

    pacer.sent(1 << 40)

    assert clock.sleeps == []


def test_what_was_sent_without_a_limit_is_forgotten(pacer: Pacer, clock: Clock) -> None:
    clock.rate = 0
    pacer.sent(1 << 40)
    clock.rate = MIB

    pacer.sent(MIB)

    assert clock.now - 1000 == pytest.approx(1, abs=SHORTEST_WAIT)


@pytest.mark.parametrize(("rate", "left"), [(0, 0), (100 * MIB, 0.04)])
def test_a_higher_rate_counts_at_once(rate: int, left: float, pacer: Pacer, clock: Clock) -> None:
    clock.rate = 1
    clock.rate_from = {3: rate}

    pacer.sent(4 * MIB)

    assert clock.now - 1000 == pytest.approx(3 * LONGEST_WAIT + left, abs=LONGEST_WAIT)


def test_a_lower_rate_counts_at_once(pacer: Pacer, clock: Clock) -> None:
    clock.rate = 40 * MIB
    pacer.sent(4 * MIB)
    clock.rate = MIB

    pacer.sent(4 * MIB)

    assert clock.now - 1000 == pytest.approx(0.1 + 4, abs=2 * SHORTEST_WAIT)
