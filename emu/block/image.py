"""What every disk image can do, whatever its format, and how one is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from emu.block.file import ImageFile, ReadBuffers, WriteBuffers
from emu.block.raw import RawImage
from emu.errors import ConfigError


class Image(Protocol):
    """A disk. Offsets and lengths are bytes within `size`; all errors are ImageError, and a failed write may be partial.

    Reads and writes may be called from several threads at once; they release the GIL. An inactive image can be read, and
    refuses writes; `activate` and `inactivate` wait for writes under way and are harmless when there is nothing to change.
    """

    @property
    def path(self) -> str:
        """Where the image is, as the user named it."""

    @property
    def size(self) -> int:
        """Bytes of the disk; read afresh at activation."""

    @property
    def read_only(self) -> bool:
        """True when opened for reading alone: it shares its lock with other readers."""

    @property
    def active(self) -> bool:
        """True while this process owns the image: it holds the lock and may write."""

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
        """Own the image; LOCKED when another does, STALE when it must be as it was let go here and is not."""

    def inactivate(self) -> None:
        """Put everything on disk and let the image go; on an error it stays active."""

    def close(self) -> None:
        """Inactivate and close; harmless when closed. On an error the image is closed all the same."""


def _open_raw(path: str, read_only: bool) -> Image:
    return RawImage(ImageFile(path, read_only=read_only))


FORMATS: dict[str, Callable[[str, bool], Image]] = {
    "raw": _open_raw,
}


def open_image(path: str, format: str, *, read_only: bool, active: bool) -> Image:  # noqa: A002 - the drive option's name
    """Open an existing image; with `active` own it at once, as a guest that starts here does."""
    opener = FORMATS.get(format)
    if opener is None:
        raise ConfigError(f"{path}: image format {format!r} is unknown, known are {', '.join(FORMATS)}")
    image = opener(path, read_only)
    if active:
        try:
            image.activate()
        except BaseException:
            image.close()
            raise
    return image
