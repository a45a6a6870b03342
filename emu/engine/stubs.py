"""A few instructions of our own inside the library: memory to execute them from, jumps to its functions, changes to its own."""

from __future__ import annotations

import ctypes
import mmap
import os

from emu.engine.library import quick_library
from emu.errors import EngineError

MAP_FAILED = (1 << 64) - 1
JUMP = bytes.fromhex("48b8 0000000000000000 ffe0")  # movabs rax, target; jmp rax
TARGET = slice(2, 10)


def executable(code: bytes) -> int:
    """The address of `code` as long as the process lives: a daemon thread may run it after Python has cleaned up."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    address = libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address in (None, MAP_FAILED):
        raise EngineError(f"this host gives no memory to execute from: {os.strerror(ctypes.get_errno())}")
    ctypes.memmove(address, code, len(code))
    return int(address)


def address_of(symbol: str) -> int:
    """Where a function of the library is; EngineError when there is none of this name."""
    try:
        function = quick_library()[symbol]
    except AttributeError as exc:
        raise EngineError(f"libunicorn has no function {symbol}") from exc
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def overwrite(address: int, code: bytes) -> None:
    """Change the library's own code; EngineError when the host does not allow it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = address & -mmap.PAGESIZE
    size = address + len(code) - page
    if libc.mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        raise EngineError(f"this host does not let the library's code be changed: {os.strerror(ctypes.get_errno())}")
    ctypes.memmove(address, code, len(code))
    libc.mprotect(page, size, mmap.PROT_READ | mmap.PROT_EXEC)


def jump_to(target: int) -> bytes:
    """The machine code of a jump to `target`, which may use rax."""
    jump = bytearray(JUMP)
    jump[TARGET] = target.to_bytes(8, "little")
    return bytes(jump)
