"""Calls functions of the library that may leave by longjmp, which must not cross a frame of Python's.

Code that enters an exception writes to the guest's stack. Where that is not possible it raises another exception: a longjmp to
the place that Unicorn has set for it, which lies below the callback, or nowhere between slices. Twenty instructions of ours set
another place first (`__sigsetjmp`), on the level above the current one, as for a nested `uc_emu_start`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from emu.engine.layout import CoreLayout
from emu.engine.stubs import executable

SIZEOF_JMP_BUF = 200  # glibc, x86-64

CALL = bytes.fromhex(
    "53 4154 4155"  # push rbx, r12, r13: (buffer, function, argument) ->
    "4989f4 4989d5"  # mov r12, rsi; mov r13, rdx
    "31f6 48b8"  # xor esi, esi; movabs rax, ...
)
BRANCH = bytes.fromhex(
    "ffd0 85c0 750d"  # call rax; test eax, eax; jnz jumped
    "4c89ef 41ffd4"  # mov rdi, r13; call r12
    "b801000000 eb02"  # mov eax, 1; jmp return
    "31c0"  # jumped: xor eax, eax
    "415d 415c 5b c3"  # return: pop r13, r12, rbx; ret
)


@cache
def _guarded_call() -> Callable[[int, object, int], int]:
    set_jump = ctypes.cast(ctypes.CDLL(None)["__sigsetjmp"], ctypes.c_void_p).value or 0
    code = executable(CALL + set_jump.to_bytes(8, "little") + BRANCH)
    return ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(code)


class Guard:
    """The calls of one engine. On the vCPU thread, in callbacks too."""

    def __init__(self, core: CoreLayout, uc: int) -> None:
        self._level = ctypes.c_int32.from_address(uc + core.uc_nested_level)
        self._buffers = uc + core.uc_jmp_bufs
        self._call = _guarded_call()

    def call(self, function: Callable[..., int], argument: int) -> bool:
        """Call `function(argument)`, a function of the library; whether it returned."""
        buffer = self._buffers + self._level.value * SIZEOF_JMP_BUF
        self._level.value += 1
        try:
            return bool(self._call(buffer, function, argument))
        finally:
            self._level.value -= 1
