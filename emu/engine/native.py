"""Machine code of our own that the library calls."""

from __future__ import annotations

import ctypes
import mmap
import os

from emu.errors import EngineError

MAP_FAILED = (1 << 64) - 1


def executable(code: bytes) -> int:
    """The address of `code` as long as the process lives: a daemon thread may run it after Python has cleaned up."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    address = libc.mmap(None, len(code), protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address in (None, MAP_FAILED):
        raise EngineError(f"this host gives no memory to execute from: {os.strerror(ctypes.get_errno())}")
    ctypes.memmove(address, code, len(code))
    return int(address)
