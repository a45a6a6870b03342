"""statx(2): which file something is, in every process that sees its file system, and as long as the file is there.

An inode number alone does not tell: the next file often gets the one that a removed file had. The time of birth does.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

NO_AUTOMOUNT, SYMLINK_NOFOLLOW, EMPTY_PATH = 0x800, 0x100, 0x1000  # linux/fcntl.h, AT_
WANTED = 0x001 | 0x100 | 0x800  # STATX_TYPE, STATX_INO, STATX_BTIME
BORN = 0x800
# struct statx up to its device numbers: mask, mode, inode, time of birth, device
FIELDS = struct.Struct("<I24xH2xQ40xqI44xII")
SIZE = 256


@dataclass(frozen=True, slots=True)
class Identity:
    """A file: its type (stat(2)'s S_IFMT), its inode's qid, and when it was made in ns, 0 where the host does not tell."""

    kind: int
    qid: int
    born: int

    def same(self, other: Identity) -> bool:
        """Whether both are one file, as far as both sides can tell."""
        return (self.kind, self.qid) == (other.kind, other.qid) and (self.born == other.born or not (self.born and other.born))


@cache
def _statx() -> Callable[[int, bytes, int, int, object], int]:
    function = ctypes.CDLL(None, use_errno=True).statx
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return cast("Callable[[int, bytes, int, int, object], int]", function)


def look(directory: int, name: bytes) -> tuple[int, int, int, int]:
    """Type, inode, device and time of birth (ns) of a name, or of the descriptor itself for an empty one; follows nothing."""
    buffer = ctypes.create_string_buffer(SIZE)
    if _statx()(directory, name, NO_AUTOMOUNT | SYMLINK_NOFOLLOW | EMPTY_PATH, WANTED, buffer):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    mask, mode, inode, seconds, nanoseconds, major, minor = FIELDS.unpack_from(buffer)
    born = max(0, seconds * 10**9 + nanoseconds) if mask & BORN else 0
    return stat.S_IFMT(mode), inode, os.makedev(major, minor), born
