"""Has Unicorn see every store of the guest's to code it has translated.

QEMU watches the pages that hold translated code and lets a page go once no translation of it is left. Unicorn lets it go, for
the virtual address of the store, at the first store to it, and takes it back, for the virtual address of the code, when code is
translated. A guest that writes code at one address and runs it at another then runs the old: a kernel that patches its text or
loads a module, a program in a page that held another's, a compiler with two mappings.

Two calls inside the library are therefore led over a few instructions of ours:

- a store to a watched page drops all translations of the page, not only those of the bytes stored, so that a page let go holds
  none (Unicorn: `notdirty_write` -> `tb_invalidate_phys_page_fast`);
- the first translation of a page that held none has all pages watched again, whatever address they are stored to by
  (`tb_gen_code` -> `tlb_protect_code`, which does nothing in Unicorn). What Unicorn does instead, for the code's own address,
  it leaves out where a memory hook has a range with that address in it: the hook of holes.py is for physical addresses, and
  has most programs' virtual ones in it.

An address translation that the CPU brings into its cache is watched from the start.

The library calls its own functions by its global offset table, which is writable; a slot is changed only if it holds the
function it should. It is the library that changes, for all engines of this process, once for each ISA.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

from emu.engine.layout import TranslationCalls
from emu.engine.library import library_build
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError

WHOLE_PAGE = bytes.fromhex(
    "4889d6"  # mov rsi, rdx            (uc, pages, start, len, retaddr) ->
    "4881e600f0ffff"  # and rsi, -0x1000        (uc, first byte of the page,
    "488d9600100000"  # lea rdx, [rsi + 0x1000]   first byte behind it)
)
ALL_PAGES = bytes.fromhex(
    "488bbf00000000"  # mov rdi, [rdi + uc_cpu] (uc, address of the page) -> (cpu,
    "31f6"  # xor esi, esi              0,
    "48c7c2ffffffff"  # mov rdx, -1               everything)
)
UC_CPU = slice(3, 7)


@cache
def watch_code(suffix: str, calls: TranslationCalls, uc_cpu: int) -> None:
    """Make the change for the ISA whose functions have this `suffix`; EngineError when the table is not of this library.

    `uc_cpu` is where the handle has its CPU.
    """
    fast = address_of(f"tb_invalidate_phys_page_fast_{suffix}")
    protect = address_of(f"tlb_protect_code_{suffix}")
    base = fast - calls.invalidate_fast
    if base % mmap.PAGESIZE or base + calls.protect != protect:
        raise EngineError(f"this library says it is {library_build()}, but its functions are somewhere else")
    fast_slot = ctypes.c_uint64.from_address(base + calls.invalidate_fast_slot)
    protect_slot = ctypes.c_uint64.from_address(base + calls.protect_slot)
    if (fast_slot.value, protect_slot.value) != (fast, protect):
        raise EngineError(f"this library says it is {library_build()}, but it calls its functions by other slots")
    whole_page = WHOLE_PAGE + jump_to(address_of(f"tb_invalidate_phys_page_range_{suffix}"))
    all_pages = bytearray(ALL_PAGES)
    all_pages[UC_CPU] = uc_cpu.to_bytes(4, "little")
    code = executable(whole_page + all_pages + jump_to(address_of(f"tlb_reset_dirty_by_vaddr_{suffix}")))
    fast_slot.value = code
    protect_slot.value = code + len(whole_page)
