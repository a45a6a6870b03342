"""Requests under way in one image, by the blocks they touch: those that clash go one after the other, in order of arrival."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Request:
    __slots__ = ("exclusive", "first", "last")

    def __init__(self, first: int, last: int, exclusive: bool) -> None:
        self.first = first
        self.last = last
        self.exclusive = exclusive

    def clashes(self, other: _Request) -> bool:
        return (self.exclusive or other.exclusive) and self.first <= other.last and other.first <= self.last


class Requests:
    """Readers of a block share it; whoever changes it has it alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[_Request] = []  # under way or waiting, oldest first

    @contextmanager
    def hold(self, first: int, last: int, *, exclusive: bool) -> Iterator[None]:
        """Wait for the blocks `first` to `last`, and have them until the block ends."""
        request = _Request(first, last, exclusive)
        with self._changed:
            self._queue.append(request)
            if len(self._queue) > 1:
                self._changed.wait_for(lambda: self._is_first(request))
        try:
            yield
        finally:
            self._release(request)

    @contextmanager
    def try_share(self, first: int, last: int) -> Iterator[bool]:
        """Share the blocks if nobody has them alone, or waits to; False otherwise."""
        request = _Request(first, last, False)
        with self._changed:
            free = not any(request.clashes(other) for other in self._queue)
            if free:
                self._queue.append(request)
        try:
            yield free
        finally:
            if free:
                self._release(request)

    def _is_first(self, request: _Request) -> bool:
        for other in self._queue:
            if other is request:
                return True
            if request.clashes(other):
                return False
        raise AssertionError("a request waits that is not in the queue")

    def _release(self, request: _Request) -> None:
        with self._changed:
            self._queue.remove(request)
            if self._queue:
                self._changed.notify_all()
