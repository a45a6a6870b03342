"""A whole disk into a file and back, as a snapshot keeps it: sparse where it is zero."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from emu.block.image import Image
from emu.block.sparse import data_runs
from emu.errors import ImageError, ImageErrorKind

STEP = 4 << 20  # bytes


class DiskCopy:
    """Copies one image. The guest is held and its requests are drained meanwhile."""

    def __init__(self, name: str, image: Image) -> None:
        """`name` is the drive's id."""
        self.name = name
        self.size = image.size
        self._image = image

    def save(self, fd: int, offset: int) -> int:
        """Write the disk's content to `fd` from `offset` on, leaving zeroes out; returns the bytes written."""
        written = 0
        buffer = memoryview(bytearray(STEP))
        for at, length in _steps(self._image.data_runs()):
            part = buffer[:length]
            self._image.readv(at, [part])
            if not _is_zero(part):
                _write_all(fd, part, offset + at)
                written += len(part)
        return written

    def load(self, fd: int, offset: int) -> None:
        """Make the disk's content what lies in `fd` from `offset` on."""
        self._image.write_zeroes(0, self.size, unmap=True)
        buffer = memoryview(bytearray(STEP))
        for start, length in _steps(data_runs(fd, offset, offset + self.size)):
            at, part = start - offset, buffer[:length]
            got = os.preadv(fd, [part], start)
            if got != len(part):
                raise ImageError(ImageErrorKind.IO, self._image.path, f"its copy ends {len(part) - got} bytes early at {at:#x}")
            if not _is_zero(part):
                self._image.writev(at, [part])
        self._image.flush()


def _is_zero(view: memoryview) -> bool:
    """Whether all bytes are zero; comparing a memoryview goes element by element, some twenty times slower."""
    return not np.frombuffer(view, np.uint8).max()


def _steps(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same ranges, (offset, length), in pieces of STEP at most."""
    for start, length in runs:
        for at in range(start, start + length, STEP):
            yield at, min(STEP, start + length - at)


def _write_all(fd: int, view: memoryview, at: int) -> None:
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count
