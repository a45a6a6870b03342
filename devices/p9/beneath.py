"""Paths below a directory, which lead nowhere else: openat2(2), or a walk that follows nothing where the kernel lacks it.

A path is names joined by slashes, without dots; a symbolic link in it is ELOOP or ENOTDIR, one at its end is opened itself.
What comes back is an O_PATH descriptor: it reads and writes nothing, it only says which file is meant.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from typing import cast

Resolve = Callable[[int, bytes], int]

OPENAT2 = 437  # the number on every architecture
NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 0x02, 0x04, 0x08  # linux/openat2.h
FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
PATH_MAX = 4096  # bytes with the NUL; longer paths are walked in parts


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_HOW = ctypes.byref(_OpenHow(FLAGS, 0, BENEATH | NO_SYMLINKS | NO_MAGICLINKS))
_HOW_SIZE = ctypes.sizeof(_OpenHow)


@cache
def _syscall() -> Callable[[int, int, bytes, object, int], int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_long
    return cast("Callable[[int, int, bytes, object, int], int]", function)


def _openat2(directory: int, path: bytes) -> int:
    fd = _syscall()(OPENAT2, directory, path, _HOW, _HOW_SIZE)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _open_name(directory: int, name: bytes) -> int:
    return os.open(name, FLAGS, dir_fd=directory)


def _in_steps(directory: int, steps: list[bytes], step: Resolve) -> int:
    fd = os.dup(directory)
    for part in steps:
        above = fd
        try:
            fd = step(above, part)
        finally:
            os.close(above)
    return fd


def _parts(path: bytes) -> list[bytes]:
    """The path in pieces that one call takes."""
    parts: list[bytes] = []
    while len(path) >= PATH_MAX:
        cut = path.rindex(b"/", 0, PATH_MAX)  # there is one: a name has at most 255 bytes
        parts.append(path[:cut])
        path = path[cut + 1 :]
    return [*parts, path] if path else parts


def by_openat2(directory: int, path: bytes) -> int:
    """Open what `path` leads to below `directory`, itself for an empty path; one call for most paths."""
    if 0 < len(path) < PATH_MAX:
        return _openat2(directory, path)
    return _in_steps(directory, _parts(path), _openat2)


def by_names(directory: int, path: bytes) -> int:
    """The same, name by name: a link in the middle is opened itself, and there is no way on from it."""
    return _in_steps(directory, path.split(b"/") if path else [], _open_name)


@cache
def best() -> Resolve:
    """What this kernel has; a sandbox may forbid openat2 with EPERM."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(_openat2(root, b"."))
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return by_names
    finally:
        os.close(root)
    return by_openat2
