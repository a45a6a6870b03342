"""Has a TriCore guest whose list of free contexts is a circle be an exception.

The library saves a context whenever it enters a trap, and the save of the last free one is a trap itself. Where a context has a
link to itself each is the last, and the library calls itself until the process's stack is full. Here the call that saves is led
over a few instructions that count, and leave the slice as `abort` has it when a trap takes more than any needs. As in
`codewatch`, it is the library that changes, once for each ISA.
"""

from __future__ import annotations

import ctypes
from functools import cache

from emu.engine.layout import ContextSave
from emu.engine.library import library_build
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError

FUNCTION = "helper_svucx"
MOST = 4  # saves in one trap: the trap's, and those of the traps for the last context and for none


@cache
def bound_context_saves(call: ContextSave, depth: int, env_in_cpu: int, abort: int) -> None:
    """Make the change; EngineError when the table is not of this library.

    `depth` is the offset in CPUArchState of the 32-bit counter, which whoever resumes the guest sets to 0; `abort` is the
    address of the code that a CPU leaves its slice by.
    """
    function = address_of(FUNCTION)
    slot = ctypes.c_uint64.from_address(function - call.function + call.slot)
    if slot.value != function:
        raise EngineError(f"this library says it is {library_build()}, but it saves contexts by another slot")
    save = jump_to(function)
    counter = depth.to_bytes(4, "little")
    code = b"\xff\x87" + counter  # inc dword [rdi + depth]          (env of the CPU)
    code += b"\x83\xbf" + counter + bytes([MOST])  # cmp dword [rdi + depth], MOST
    code += b"\x77" + bytes([len(save)]) + save  # ja behind the jump
    code += b"\x48\x81\xef" + env_in_cpu.to_bytes(4, "little")  # sub rdi, env_in_cpu: the CPU
    slot.value = executable(code + jump_to(abort))
