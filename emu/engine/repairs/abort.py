"""Has a guest that the library gives up on be an exception.

QEMU ends its process by `cpu_abort` where a guest does what its code has no answer for: a trap while traps are off, a control
register that does not exist. Here that call is led to a few instructions that leave the slice with an exception of our own, or
as the layout table has it for the ISA (an x86's shutdown). As in `codewatch` it is a slot of the global offset table that
changes, once for each ISA.
"""

from __future__ import annotations

import ctypes
from functools import cache

from emu.engine.layout import AbortCall
from emu.engine.library import library_build
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError

ABORTED = 0xFFFF  # exception number; the last one that is not QEMU's own (EXCP_INTERRUPT)


@cache
def catch_aborts(suffix: str, call: AbortCall, stores: tuple[tuple[int, int], ...]) -> int:
    """Make the change for the ISA whose functions have this `suffix`; EngineError when the table is not of this library.

    Answers the address of the code that is called instead.
    `stores` are offsets in CPUState and the 32-bit values to leave the slice with, the exception's number among them.
    """
    abort = address_of(f"cpu_abort_{suffix}")
    entry = ctypes.c_uint64.from_address(abort - call.function + call.slot)
    if entry.value != abort:
        raise EngineError(f"this library says it is {library_build()}, but it calls cpu_abort by another slot")
    code = b"".join(
        b"\xc7\x87" + offset.to_bytes(4, "little") + value.to_bytes(4, "little")  # mov dword [rdi + offset], value
        for offset, value in stores
    )
    entry.value = executable(code + jump_to(address_of(f"cpu_loop_exit_{suffix}")))
    return int(entry.value)
