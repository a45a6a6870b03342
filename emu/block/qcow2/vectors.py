"""The buffers of a request, taken in pieces."""

from __future__ import annotations

from emu.block.file import WriteBuffers

ZEROES = bytes(1 << 16)


class Vectors:
    """Buffers one after the other, of which each byte is taken once."""

    def __init__(self, buffers: WriteBuffers) -> None:
        self._buffers = buffers
        self._next = 0  # buffer
        self._done = 0  # bytes of it
        self.left = sum(map(len, buffers))

    def take(self, length: int) -> list[memoryview]:
        """The next `length` bytes."""
        if length == self.left and self._done == 0:  # mostly; a large request has hundreds of buffers, a page each
            taken = [memoryview(buffer) for buffer in self._buffers[self._next :]]
            self._next, self.left = len(self._buffers), 0
            return taken
        self.left -= length
        taken = []
        while length:
            buffer = memoryview(self._buffers[self._next])
            piece = buffer[self._done : self._done + length]
            length -= len(piece)
            self._done += len(piece)
            if self._done == len(buffer):
                self._next, self._done = self._next + 1, 0
            taken.append(piece)
        return taken


def fill_zero(views: list[memoryview]) -> None:
    """Zero all bytes."""
    for view in views:
        for at in range(0, len(view), len(ZEROES)):
            part = view[at : at + len(ZEROES)]
            part[:] = ZEROES[: len(part)]


def fill(views: list[memoryview], data: bytes | memoryview) -> None:
    """Copy as many bytes as there is room for."""
    at = 0
    for view in views:
        view[:] = data[at : at + len(view)]
        at += len(view)
