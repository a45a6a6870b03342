"""What an image format builds on: bytes that are kept somewhere, and owned or not. A file (file.py) or an NBD export (nbd/)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from emu.block.file import ReadBuffers, WriteBuffers


class Storage(Protocol):
    """The bytes of one image. Safe for concurrent use; transfers release the GIL.

    Offsets and lengths are bytes. All errors are ImageError; the host's or the server's errno is in its `__cause__`. While
    inactive nothing is written, and reads are allowed.
    """

    path: str  # as the user named it
    size: int  # bytes; read afresh at activation and by `measure`
    locking: bool  # whether files that are owned with it are to be locked

    @property
    def read_only(self) -> bool:
        """True when opened for reading alone."""

    @property
    def identity(self) -> tuple[int, int]:
        """Which bytes they are, whatever their name."""

    @property
    def place(self) -> str:
        """The same, for another process to compare with its own (place.py); other bytes never have it."""

    @property
    def active(self) -> bool:
        """True while this process owns them and may write."""

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Own them; harmless when active."""

    def inactivate(self) -> None:
        """Put everything on disk and let them go; harmless when inactive. On an error they stay active."""

    def close(self) -> None:
        """Inactivate and close; harmless when closed. On an error they are closed all the same."""

    def measure(self) -> None:
        """Read the size afresh, where another process may have changed it."""

    def readv(self, offset: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `offset`."""

    def readv_cached(self, offset: int, buffers: ReadBuffers) -> bool:
        """`readv` if that needs no waiting; False when it would, or may."""

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that may hold something; all else reads as zero."""

    def writev(self, offset: int, buffers: WriteBuffers) -> None:
        """Write `buffers` one after the other from `offset`; a file grows as needed."""

    def flush(self) -> None:
        """Put what was written on disk."""

    def discard(self, offset: int, length: int) -> None:
        """Give the space of a range back; a hint."""

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeroes; with `unmap` its space may be given back."""
