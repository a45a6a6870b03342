"""Has a hook in front of an instruction leave a SPARC's next pc alone.

Before Unicorn calls such a hook (counting.py) it sets the pc and the next pc. In the delay slot of a jump through a register
the translator does not know the next pc: the register has had it since the jump, and is overwritten by a mark for "unknown",
where the guest then goes. The one call that makes this store is taken out of the translator: whoever needs the next pc finds it
by QEMU's table of what was known at each instruction. It is the library that changes, for all engines of this process.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache

from emu.engine.library import library_build
from emu.engine.stubs import address_of, overwrite
from emu.errors import EngineError

STORE_NEXT_PC = re.compile(
    rb"\x49\x8b\x97..\x00\x00"  # mov rdx, [r15 + cpu_npc]
    rb"\x48(?:\x63\x4b\x24|\x8b\x4b\x30)"  # mov rcx, [rbx + npc]
    rb"\x4c\x89\xff\xbe.\x00\x00\x00\x4c\x01\xfa"  # mov rdi, r15; mov esi, movi; add rdx, r15
    rb"(?=\xe8)",  # call tcg_gen_op2
    re.DOTALL,
)
SEARCHED = 0x400  # bytes: the function that has it ends where gen_intermediate_code begins
NOP = bytes.fromhex("0f1f440000")  # as long as the call


@cache
def leave_next_pc_alone(suffix: str) -> None:
    """Make the change for the ISA whose functions have this `suffix`; EngineError when the library has other code there."""
    first = address_of(f"gen_intermediate_code_{suffix}") - SEARCHED
    calls = [first + match.end() for match in STORE_NEXT_PC.finditer(ctypes.string_at(first, SEARCHED))]
    if len(calls) != 1:
        raise EngineError(f"this library says it is {library_build()}, but stores the next pc {len(calls)} times, not once")
    overwrite(calls[0], NOP)
