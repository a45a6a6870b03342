"""Keeps stores fast in pages that code could be fetched from, but is not.

Unicorn watches the stores to a page for as long as the CPU's cache of address translations (QEMU's software TLB) lets code be
fetched from it, at ten times the cost of a store; where all memory may be executed (MMU off, no no-execute bit, a 32-bit
kernel that loses it) that is every page. QEMU watches a page only once code was translated from it.

So an entry that a load or a store brings into the cache is made one that no code can be fetched through: the first fetch finds
none and brings its own, watched. What was stored before has by then dropped the page's translations, and each new translation
has all pages watched again (`codewatch`).
"""

from __future__ import annotations

import ctypes

from emu.engine.layout import CoreLayout, TlbLayout
from emu.engine.library import library_build
from emu.engine.stubs import executable
from emu.errors import EngineError

ENTRY_BITS = 6  # an entry has 64 bytes: addresses it is good for to load, store and fetch, the page's own, the host's
ENTRY_OF_FETCH = 2  # in words of the ISA
TABLE = 16  # bytes of a mode's CPUTLBDescFast: mask of the index in entries' bytes, pointer to the entries

FILL = bytes.fromhex(
    "53 4154 4155"  # push rbx, r12, r13          bool tlb_fill(cpu, address, size, access, mode, probe, retaddr)
    "4889f3 4189cc 4589c5"  # mov rbx, rsi; mov r12d, ecx; mov r13d, r8d
    "4883ec08 ff742428"  # sub rsp, 8; push retaddr
    "48b8 0000000000000000"  # movabs rax, tlb_fill
    "ffd0 4883c410"  # call rax; add rsp, 16
)
FORGET_FETCH = bytes.fromhex(
    "84c0 742e"  # test al, al; jz done
    "4183fc02 7428"  # cmp r12d, MMU_INST_FETCH; je done
    "48b9 0000000000000000"  # movabs rcx, tables
    "49c1e504 4c01e9"  # shl r13, 4; add rcx, r13
    "48c1eb00 48c1e306"  # shr rbx, page bits; shl rbx, 6
    "482319 48035908"  # and rbx, [rcx]; add rbx, [rcx + 8]
)
NO_FETCH = {8: bytes.fromhex("48c74310ffffffff"), 4: bytes.fromhex("c74308ffffffff90")}  # mov [rbx + 2 words], -1
DONE = bytes.fromhex("415d 415c 5b c3")  # pop r13, r12, rbx; ret


def keep_stores_fast(core: CoreLayout, tlb: TlbLayout, cpu_class: int, icount_decr: int) -> None:
    """Make the change to one CPU; EngineError when its cache is not where the layout says.

    `cpu_class` and `icount_decr` are the addresses of its CPUClass and of its IcountDecr, which the cache's tables lie before.
    """
    tables = icount_decr - TABLE * tlb.modes
    for mode in range(tlb.modes):
        mask, entries = (ctypes.c_uint64.from_address(tables + TABLE * mode + at).value for at in (0, 8))
        if not entries or mask & (1 << ENTRY_BITS) - 1 or (mask >> ENTRY_BITS) + 1 & mask >> ENTRY_BITS:
            raise EngineError(f"this library says it is {library_build()}, but keeps address translations somewhere else")
    fill = ctypes.c_uint64.from_address(cpu_class + core.class_tlb_fill)
    code = bytearray(FILL + FORGET_FETCH + NO_FETCH[tlb.word] + DONE)
    at = code.index(b"\x48\xb8" + bytes(8)) + 2
    code[at : at + 8] = fill.value.to_bytes(8, "little")
    at = code.index(b"\x48\xb9" + bytes(8)) + 2
    code[at : at + 8] = tables.to_bytes(8, "little")
    at = code.index(b"\x48\xc1\xeb\x00") + 3
    code[at] = tlb.page_bits
    fill.value = executable(bytes(code))
