"""One interrupt wire from a device to its controller."""

from __future__ import annotations

from collections.abc import Callable


class IrqLine:
    """A level-triggered line. The controller owns the level in its own state, so the line itself is never saved."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Callable[[bool], None]) -> None:
        self._sink = sink

    def set(self, level: bool) -> None:
        """Drive the line; driving it to the level it has is harmless."""
        self._sink(level)
