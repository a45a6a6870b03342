"""Has Unicorn's translator survive what any MIPS guest can do.

An instruction of MIPS costs the translator one of its 512 temporaries, which it gives back only when the block is done: a block
of some 400 instructions without a branch, such as a page of zeros, writes over the translator's own state and the process ends.
And a translation that is left half done, because the next instruction is on a page that cannot be fetched, leaves a temporary
behind that the next one takes for its own: that ends the process too.

The one call of the translator's loop is therefore led over a few instructions of ours, which keep blocks short and drop what
was left behind. As in `codewatch`, it is the library that changes, once for each ISA.
"""

from __future__ import annotations

import ctypes
from functools import cache

from emu.engine.layout import TranslatorLoop
from emu.engine.library import library_build
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError

REPAIR = bytes.fromhex(
    "488b82a8810000"  # mov rax, [rdx + 0x81a8]       (ops, db, cpu, tb, max_insns): uc_struct of the CPU
    "488b8000030000"  # mov rax, [rax + 0x300]        its translator
    "48c7800001000000000000"  # mov qword [rax + 0x100], 0    the temporary that may be left behind
    "4183f840"  # cmp r8d, 64
    "7606"  # jbe behind the next instruction
    "41b840000000"  # mov r8d, 64
)


@cache
def repair_translator(suffix: str, loop: TranslatorLoop) -> None:
    """Make the change for the ISA whose functions have this `suffix`; EngineError when the table is not of this library."""
    function = address_of(f"translator_loop_{suffix}")
    slot = ctypes.c_uint64.from_address(function - loop.function + loop.slot)
    if slot.value != function:
        raise EngineError(f"this library says it is {library_build()}, but it calls its translator by another slot")
    slot.value = executable(REPAIR + jump_to(function))
