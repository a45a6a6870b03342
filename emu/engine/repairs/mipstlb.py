"""Has what is in a MIPS CPU's TLB follow from its own state, and from nothing else.

The library draws the entry that TLBWR writes from one generator for all CPUs of the process, and keeps the entries that it
displaces where the guest can use them, but not see them. What a guest missed in its TLB depended on its neighbours, and was
another for a guest that went on elsewhere. Two calls are therefore led over a few instructions of ours:

- the entry comes from the CPU's Random, and goes down from the last one to the first that is not wired (MIPS32 Privileged
  Resource Architecture, 9.2);
- an entry that is displaced is gone.

As in `codewatch`, it is the library that changes, once for each ISA.
"""

from __future__ import annotations

import ctypes
from functools import cache

from emu.engine.layout import TlbCalls
from emu.engine.library import library_build
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError


def _next_random(random: int, tlb: int, wired: int) -> bytes:
    """uint32_t cpu_mips_get_random(env), from offsets in env."""
    at_random, at_tlb, at_wired = (offset.to_bytes(4, "little").hex() for offset in (random, tlb, wired))
    return bytes.fromhex(
        f"8b87 {at_random}"  # mov eax, [rdi + random]
        f"488b97 {at_tlb}"  # mov rdx, [rdi + tlb]
        "8b12"  # mov edx, [rdx]            entries there are
        "39d0 7308"  # cmp eax, edx; jae last
        f"3b87 {at_wired}"  # cmp eax, [rdi + wired]
        "7303"  # jae found
        "8d42ff"  # last: lea eax, [rdx - 1]
        "8d50ff"  # found: lea edx, [rax - 1]
        f"8997 {at_random}"  # mov [rdi + random], edx
        "c3"  # ret
    )


NOT_KEPT = bytes.fromhex("31d2")  # xor edx, edx             (env, index, keep)


@cache
def repair_tlb(suffix: str, calls: TlbCalls, offsets: tuple[int, int, int]) -> None:
    """Make the change for the ISA whose functions have this `suffix`; EngineError when the table is not of this library.

    `offsets` are those of Random, the TLB's address and Wired in CPUArchState.
    """
    random, invalidate = (address_of(f"{name}_{suffix}") for name in ("cpu_mips_get_random", "r4k_invalidate_tlb"))
    base = random - calls.random
    random_slot = ctypes.c_uint64.from_address(base + calls.random_slot)
    invalidate_slot = ctypes.c_uint64.from_address(base + calls.invalidate_slot)
    if (random_slot.value, invalidate_slot.value) != (random, invalidate):
        raise EngineError(f"this library says it is {library_build()}, but it calls its TLB's functions by other slots")
    random_slot.value = executable(_next_random(*offsets))
    invalidate_slot.value = executable(NOT_KEPT + jump_to(invalidate))
