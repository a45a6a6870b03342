"""A machine's drives: their images, all opened or none, and what of them the guest could tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from emu.block.image import Image, open_image
from emu.config import DriveConfig
from migration.vmstate import Wire

Drives = Sequence[tuple[DriveConfig, Image]]


def open_drives(drives: Sequence[DriveConfig], *, active: bool, undo: ExitStack) -> Drives:
    """Open the image of each; `undo` closes them, those that were opened before an error too."""
    opened = []
    for drive in drives:
        image = open_image(str(drive.path), drive.format, read_only=drive.readonly, active=active)
        undo.callback(image.close)
        opened.append((drive, image))
    return opened


def compared(drives: Drives) -> dict[str, Wire]:
    """What must be equal on both sides of a migration, by id."""
    return {drive.id: {"size": image.size, "readonly": drive.readonly} for drive, image in drives}
