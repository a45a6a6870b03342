"""Reasons why a guest can be neither saved nor moved at the moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

from emu.errors import MigrationError


class Blocker:
    """One reason, while it holds."""

    __slots__ = ("_owner", "reason")

    def __init__(self, owner: Blockers, reason: str) -> None:
        self._owner = owner
        self.reason = reason

    def remove(self) -> None:
        """The reason is gone; harmless when removed."""
        self._owner.remove(self)


class Blockers:
    """All reasons of one machine; thread-safe."""

    def __init__(self, moving: Callable[[], bool] = lambda: False) -> None:
        """`moving` tells whether the guest is being moved already, when it is too late for reasons."""
        self._moving = moving
        self._blockers: list[Blocker] = []
        self._questions: list[Callable[[], list[str]]] = []
        self._lock = threading.Lock()

    def add(self, reason: str) -> Blocker:
        """Forbid saving and moving for `reason`, a whole sentence; MigrationError while the guest is being moved."""
        if self._moving():
            raise MigrationError(f"a migration is under way, which this would forbid: {reason}")
        blocker = Blocker(self, reason)
        with self._lock:
            self._blockers.append(blocker)
        return blocker

    def ask(self, question: Callable[[], list[str]]) -> None:
        """Have `question` answer with whole sentences, whenever reasons are asked for, on any thread."""
        self._questions.append(question)

    def remove(self, blocker: Blocker) -> None:
        """Take one reason away; harmless when it is gone."""
        with self._lock:
            if blocker in self._blockers:
                self._blockers.remove(blocker)

    def reasons(self) -> list[str]:
        """All reasons, the oldest first, then those that questions are answered with."""
        with self._lock:
            added = [blocker.reason for blocker in self._blockers]
        return added + [reason for question in self._questions for reason in question()]
