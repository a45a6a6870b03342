"""Has SPARC V9's branches and moves by a register have a condition whatever a guest writes there.

Two of the eight conditions of BPr, MOVr and FMOVr are reserved. The library's table has -1 for them, which its translator takes
for an index, and the process ends. They are "never" here: the branch is not taken, the move is not made, where a CPU has an
illegal instruction. As in `codewatch` it is the library that changes, once.
"""

from __future__ import annotations

import ctypes
import mmap
import struct

from emu.engine.library import library_build
from emu.errors import EngineError

CONDITIONS = struct.Struct("<8i")
RESERVED, NEVER = -1, 1  # TCG_COND_ALWAYS: the table has the inverse of each
FOUND = (RESERVED, 9, 11, 3, RESERVED, 8, 10, 2)  # enum TCGCond by rcond: reserved, NE, GT, GE, reserved, EQ, LE, LT
WANTED = (NEVER, 9, 11, 3, NEVER, 8, 10, 2)


def never_on_reserved_conditions(table: int) -> None:
    """Change the table at this address; EngineError when it is something else."""
    held = CONDITIONS.unpack(ctypes.string_at(table, CONDITIONS.size))
    if held == WANTED:
        return
    if held != FOUND:
        raise EngineError(f"this library says it is {library_build()}, but its table of conditions is somewhere else")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = table & -mmap.PAGESIZE
    size = table + CONDITIONS.size - page
    if libc.mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE):
        raise EngineError("this host does not let the library's tables be changed")
    ctypes.memmove(table, CONDITIONS.pack(*WANTED), CONDITIONS.size)
    libc.mprotect(page, size, mmap.PROT_READ)
