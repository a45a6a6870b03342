"""Reasons that forbid moving, while they hold."""

from __future__ import annotations

from migration.blockers import Blockers


def test_reasons_are_told_the_oldest_first() -> None:
    blockers = Blockers()
    for reason in ("One is mounted.", "Another is mounted."):
        blockers.add(reason)

    assert blockers.reasons() == ["One is mounted.", "Another is mounted."]


def test_a_reason_goes_alone_and_once() -> None:
    blockers = Blockers()
    first, second = (blockers.add("The share is mounted.") for _device in range(2))

    first.remove()
    first.remove()

    assert blockers.reasons() == ["The share is mounted."]
    second.remove()
    assert blockers.reasons() == []
