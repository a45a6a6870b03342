"""What format an image is in, by the first bytes of its file.

As in QEMU, a raw image is what has no other format's magic. Its guest could write one there, and have its host open any file as
the disk's backing file at the next start; so a disk that was only guessed to be raw takes no such write (emu/block/raw.py). Who
says `format=` is believed.
"""

from __future__ import annotations

from emu.block.storage import Storage

MAGICS = {b"QFI\xfb": "qcow2"}
MAGIC_BYTES = 4


def probe(file: Storage) -> str:
    """The name of the format."""
    start = bytearray(min(MAGIC_BYTES, file.size))
    file.readv(0, [start])
    return MAGICS.get(bytes(start), "raw")
