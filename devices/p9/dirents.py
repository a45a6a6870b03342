"""getdents64(2): entries of an open directory, with the offsets at which reading can go on."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import cast

FETCHED = 32 << 10  # bytes of entries at once
HEADER = struct.Struct("<QQHB")  # struct linux_dirent64: inode, offset of the next, length, type
UNKNOWN, DIRECTORY, FILE, SYMLINK = 0, 4, 8, 10  # readdir(3), DT_


@dataclass(frozen=True, slots=True)
class Dirent:
    """One name; `following` is the offset of the one behind it."""

    inode: int
    following: int
    kind: int
    name: bytes


@cache
def _libc() -> Callable[[int, object, int], int]:
    function = ctypes.CDLL(None, use_errno=True).getdents64
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_ssize_t
    return cast("Callable[[int, object, int], int]", function)


def fetch(fd: int, offset: int) -> Iterator[Dirent]:
    """Some entries from `offset` on, 0 or a `following`; none at the end. Moves the descriptor's own offset."""
    os.lseek(fd, offset, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(FETCHED)
    size = _libc()(fd, buffer, FETCHED)
    if size < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    data, at = buffer.raw[:size], 0
    while at < size:
        inode, following, length, kind = HEADER.unpack_from(data, at)
        yield Dirent(inode, following, kind, data[at + HEADER.size : at + length].partition(b"\0")[0])
        at += length
