"""What every disk image can do, whatever its format, and how one is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from emu.block.changes import Changes
from emu.block.file import ImageFile
from emu.block.nbd.address import is_address
from emu.block.probe import probe
from emu.block.qcow2.image import Qcow2Image
from emu.block.raw import RawImage
from emu.block.storage import Node, Storage
from emu.errors import ConfigError


class Image(Node, Protocol):
    """A disk: offsets and lengths are within `size`."""

    @property
    def format(self) -> str:
        """A key of FORMATS."""

    @property
    def changes(self) -> Changes:
        """Where every change of the disk's content is noted."""


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
