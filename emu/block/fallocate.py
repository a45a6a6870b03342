"""fallocate(2) with a mode, which the standard library lacks."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from typing import cast

KEEP_SIZE = 0x01  # linux/falloc.h
PUNCH_HOLE = 0x02 | KEEP_SIZE
ZERO_RANGE = 0x10 | KEEP_SIZE

UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # EINVAL: a block device, or a range it cannot align


@cache
def _libc() -> Callable[[int, int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    return cast("Callable[[int, int, int, int], int]", function)


def fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """Change the allocation of a range; False where the file system cannot, OSError for any other failure."""
    while _libc()(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code in UNSUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True
