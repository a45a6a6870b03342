"""Security model `mapped`: owner, mode and device numbers of the guest's files in extended attributes, as QEMU keeps them.

On the host every file is a plain one or a directory of the user that emu runs as: no device node, no setuid program, no
symbolic link (its target is the file's content) comes into being, and no privilege is needed. QEMU's `mapped-xattr` reads the
same tree (hw/9pfs): user.virtfs.uid, .gid, .mode (with the type) 32 bits, .rdev 64 bits, little endian.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

PREFIX = b"user.virtfs."
FILE_MODE, DIRECTORY_MODE = 0o600, 0o700  # of every file on the host
_SIZES = {b"uid": 4, b"gid": 4, b"mode": 4, b"rdev": 8}
ABSENT = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM)  # EPERM: a symbolic link that somebody put there on the host


@dataclass(frozen=True, slots=True)
class Ownership:
    """What of a file is the guest's alone; None where the host's own value counts."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    rdev: int | None = None


def read(path: str) -> Ownership:
    """What the file's attributes say; a value of the wrong size counts as absent."""
    return Ownership(*(_read(path, name, size) for name, size in _SIZES.items()))


def _read(path: str, name: bytes, size: int) -> int | None:
    try:
        value = os.getxattr(path, PREFIX + name)
    except OSError as exc:
        if exc.errno in ABSENT:
            return None
        raise
    return int.from_bytes(value, "little") if len(value) == size else None


def write(path: str, ownership: Ownership) -> None:
    """Set what is not None."""
    values = (ownership.uid, ownership.gid, ownership.mode, ownership.rdev)
    for (name, size), value in zip(_SIZES.items(), values, strict=True):
        if value is not None:
            os.setxattr(path, PREFIX + name, value.to_bytes(size, "little"))
