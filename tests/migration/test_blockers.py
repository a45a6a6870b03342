"""Reasons that forbid moving, while they hold."""

from __future__ import annotations

import pytest

from emu.errors import MigrationError
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


def test_a_reason_comes_too_late_for_a_guest_that_is_moved() -> None:
    blockers = Blockers(lambda: True)

    with pytest.raises(MigrationError, match=r"^a migration is under way, which this would forbid: The share is mounted\.$"):
        blockers.add("The share is mounted.")

    assert blockers.reasons() == []


def test_a_question_is_asked_whenever_reasons_are() -> None:
    blockers, open_files = Blockers(), ["a"]
    blockers.ask(lambda: [f"File {name!r} is open." for name in open_files])
    blockers.add("The share is mounted.")

    assert blockers.reasons() == ["The share is mounted.", "File 'a' is open."]
    open_files.clear()
    assert blockers.reasons() == ["The share is mounted."]
