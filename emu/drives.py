"""A machine's drives: their images, all opened or none, and what of them the guest could tell apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from emu.block.image import Image, open_image
from emu.config import DriveConfig
from migration.vmstate import Wire

log = logging.getLogger(__name__)

Drives = Sequence[tuple[DriveConfig, Image]]


def open_drives(drives: Sequence[DriveConfig], *, active: bool, undo: ExitStack) -> Drives:
    """Open the image of each; `undo` closes them, those that were opened before an error too."""
    opened = []
    for drive in drives:
        if not drive.locking:
            log.warning("drive %s: %s is not locked, nothing keeps two guests from destroying it", drive.id, drive.path)
        image = open_image(drive.path, drive.format, read_only=drive.readonly, active=active, locking=drive.locking)
        undo.callback(image.close)
        opened.append((drive, image))
    return opened


def compared(drives: Drives) -> dict[str, Wire]:
    """What must be equal on both sides of a migration, by id."""
    return {drive.id: {"size": image.size, "readonly": drive.readonly} for drive, image in drives}
