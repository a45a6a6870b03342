"""A raw image: byte N of the disk is byte N of the file. The disk has the size the file has when it is activated."""

from __future__ import annotations

from collections.abc import Iterator

from emu.block.changes import Changes
from emu.block.file import ReadBuffers, WriteBuffers
from emu.block.probe import MAGIC_BYTES, MAGICS
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind


class RawImage:
    """An Image (emu/block/image.py) over one file."""

    format = "raw"

    def __init__(self, file: Storage, *, guessed: bool = False) -> None:
        """`guessed`: nobody said that it is raw, so its guest must not make it look like something else (probe.py)."""
        self.changes = Changes()
        self._file = file
        self._guessed = guessed

    @property
    def path(self) -> str:
        """Where the image is, as the user named it."""
        return self._file.path

    @property
    def place(self) -> str:
        """Where its bytes are."""
        return self._file.place

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._file.size

    @property
    def read_only(self) -> bool:
        """True when opened for reading alone."""
        return self._file.read_only

    @property
    def active(self) -> bool:
        """True while this process owns the image."""
        return self._file.active

    def readv(self, offset: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `offset`."""
        self._check(offset, sum(map(len, buffers)))
        self._file.readv(offset, buffers)

    def readv_cached(self, offset: int, buffers: ReadBuffers) -> bool:
        """Fill `buffers` if the host has it all in its cache."""
        self._check(offset, sum(map(len, buffers)))
        return self._file.readv_cached(offset, buffers)

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that may hold something."""
        return self._file.data_runs()

    def writev(self, offset: int, buffers: WriteBuffers) -> None:
        """Write `buffers` one after the other from `offset`."""
        length = sum(map(len, buffers))
        self._check(offset, length)
        if self._guessed and offset < MAGIC_BYTES:
            self._check_magic(offset, buffers)
        try:
            self._file.writev(offset, buffers)
        finally:  # one that failed may have been made in part
            self.changes.note(offset, length)

    def _check_magic(self, offset: int, buffers: WriteBuffers) -> None:
        """Refuse a write that leaves another format's magic."""
        start = bytearray(min(MAGIC_BYTES, self.size))
        self._file.readv(0, [start])
        data = b"".join(bytes(buffer[:MAGIC_BYTES]) for buffer in buffers[:MAGIC_BYTES])[: len(start) - offset]
        start[offset : offset + len(data)] = data
        if bytes(start) in MAGICS:
            text = f"was not said to be raw, and refuses to be made look like {MAGICS[bytes(start)]}: give the drive format=raw"
            raise ImageError(ImageErrorKind.READ_ONLY, self.path, text)

    def flush(self) -> None:
        """Return when every write that has returned is on disk."""
        self._file.flush()

    def discard(self, offset: int, length: int) -> None:
        """Give the space of a range back to the host."""
        self._check(offset, length)
        try:
            self._file.discard(offset, length)
        finally:
            self.changes.note(offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeroes."""
        self._check(offset, length)
        try:
            self._file.write_zeroes(offset, length, unmap=unmap)
        finally:
            self.changes.note(offset, length)

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Own the image."""
        self._file.activate(expect_unchanged=expect_unchanged)

    def inactivate(self) -> None:
        """Let the image go."""
        self._file.inactivate()

    def close(self) -> None:
        """Let the image go for good."""
        self._file.close()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self._file.size:
            text = f"has no bytes {offset:#x}..{offset + length:#x}, its size is {self._file.size:#x}"
            raise ImageError(ImageErrorKind.BOUNDS, self.path, text)
