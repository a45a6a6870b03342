"""What every disk image can do, whatever its format, and how one is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from emu.block.changes import Changes
from emu.block.file import ImageFile, ReadBuffers, WriteBuffers
from emu.block.nbd.address import is_address
from emu.block.probe import probe
from emu.block.qcow2.image import Qcow2Image
from emu.block.raw import RawImage
from emu.block.storage import Storage
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
    def format(self) -> str:
        """A key of FORMATS."""

    @property
    def size(self) -> int:
        """Bytes of the disk; read afresh at activation."""

    @property
    def read_only(self) -> bool:
        """True when opened for reading alone: it shares its lock with other readers."""

    @property
    def active(self) -> bool:
        """True while this process owns the image: it holds the lock and may write."""

    @property
    def place(self) -> str:
        """Where its bytes are (place.py)."""

    @property
    def changes(self) -> Changes:
        """Where every change of the disk's content is noted."""

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


FORMATS: dict[str, Callable[[Storage], Image]] = {
    "raw": RawImage,
    "qcow2": Qcow2Image,
}


def open_image(
    path: str,
    format: str,  # noqa: A002 - the drive option's name
    *,
    read_only: bool,
    active: bool,
    locking: bool = True,
) -> Image:
    """Open an existing image, a file or an NBD export; with `active` own it at once, as a guest that starts here does.

    Without `locking` neither the image nor what is behind it is ever locked.

    An empty `format` leaves it to the file's magic; a raw image then cannot be given one (probe.py).
    """
    if format and format not in FORMATS:
        raise ConfigError(f"{path}: image format {format!r} is unknown, known are {', '.join(FORMATS)}")
    file = _open_storage(path, read_only=read_only, locking=locking)
    try:
        image = FORMATS[format](file) if format else _open_probed(file)
    except BaseException:
        file.close()
        raise
    if active:
        try:
            image.activate()
        except BaseException:
            image.close()
            raise
    return image


def _open_storage(path: str, *, read_only: bool, locking: bool) -> Storage:
    if is_address(path):
        from emu.block.nbd.export import NbdExport  # a machine without one starts sooner

        return NbdExport(path, read_only=read_only)
    return ImageFile(path, read_only=read_only, locking=locking)


def _open_probed(file: Storage) -> Image:
    found = probe(file)
    return RawImage(file, guessed=True) if found == "raw" else FORMATS[found](file)
