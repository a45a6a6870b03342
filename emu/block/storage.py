"""Bytes that are kept somewhere, and owned or not.

A disk image is one kind (image.py), what its format builds on another: a file (file.py) or an NBD export (nbd/).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from emu.block.file import ReadBuffers, WriteBuffers


class Node(Protocol):
    """Owned bytes. Offsets and lengths are bytes; all errors are ImageError, and a failed write may be partial.

    Reads and writes may be called from several threads at once; they release the GIL. What is inactive can be read, and refuses
    writes; `activate` and `inactivate` wait for writes under way and are harmless when there is nothing to change.
    """

    @property
    def path(self) -> str:
        """Where they are, as the user named it."""

    @property
    def size(self) -> int:
        """Bytes; read afresh at activation."""

    @property
    def read_only(self) -> bool:
        """True when opened for reading alone: the lock is shared with other readers."""

    @property
    def active(self) -> bool:
        """True while this process owns them: it holds the lock, where there is one, and may write."""

    @property
    def place(self) -> str:
        """Which bytes they are, for another process to compare with its own (place.py); other bytes never have it."""

    def readv(self, offset: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `offset`."""

    def readv_cached(self, offset: int, buffers: ReadBuffers) -> bool:
        """`readv` if that needs no waiting; False when it would, or may: the buffers then hold anything."""

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that may hold something; all else reads as zero."""

    def writev(self, offset: int, buffers: WriteBuffers) -> None:
        """Write `buffers` one after the other from `offset`."""

    def flush(self) -> None:
        """Return when every write that has returned is on disk."""

    def discard(self, offset: int, length: int) -> None:
        """The range is no longer needed: what it reads as is undefined. A hint."""

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeroes; with `unmap` its space may be given back."""

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Own them; LOCKED when another does, STALE when they must be as they were let go here and are not."""

    def inactivate(self) -> None:
        """Put everything on disk and let them go; on an error they stay active."""

    def close(self) -> None:
        """Inactivate and close; harmless when closed. On an error they are closed all the same."""


class Storage(Node, Protocol):
    """The bytes of one image. The host's or the server's errno is in the `__cause__` of errors. A file grows by writes."""

    locking: bool  # whether files that are owned with it are to be locked

    @property
    def identity(self) -> tuple[int, int]:
        """Which bytes they are in this process, whatever their name."""

    def measure(self) -> None:
        """Read the size afresh, where another process may have changed it."""
