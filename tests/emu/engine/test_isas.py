"""The tables of emu.engine.isas against the library file they describe."""

from __future__ import annotations

from functools import cache

import pytest
from elftools.elf.elffile import ELFFile

from emu.engine.isas import LAYOUTS, PROBES
from emu.engine.layout import CORE, AbortCall, Build, ContextSave, IsaLayout, TlbCalls, TranslationCalls, TranslatorLoop
from emu.engine.library import library_build, library_path
from emu.engine.selftest import self_test


@cache
def functions_and_slots() -> tuple[dict[str, int], dict[str, int]]:
    """Where the library's functions are, and the global offset table's slots for them."""
    with library_path().open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".dynsym")
        functions = {symbol.name: int(symbol["st_value"]) for symbol in symbols.iter_symbols()}
        relocations = elf.get_section_by_name(".rela.plt").iter_relocations()
        names = {relocation["r_offset"]: symbols.get_symbol(relocation["r_info_sym"]).name for relocation in relocations}
        return functions, {name: int(offset) for offset, name in names.items()}


@pytest.mark.parametrize(("row", "layout"), LAYOUTS.items(), ids=lambda value: value[1] if isinstance(value, tuple) else "")
def test_calls_of_the_translator_are_where_the_library_file_has_them(row: tuple[Build, str], layout: IsaLayout) -> None:
    assert row[0] == library_build()
    functions, slots = functions_and_slots()
    fast, protect = f"tb_invalidate_phys_page_fast_{layout.suffix}", f"tlb_protect_code_{layout.suffix}"
    generate = f"tcg_gen_code_{layout.suffix}"

    assert layout.calls == TranslationCalls(
        invalidate_fast=functions[fast],
        invalidate_fast_slot=slots[fast],
        protect=functions[protect],
        protect_slot=slots[protect],
        generate=functions[generate],
        generate_slot=slots[generate],
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.suffix)
def test_the_calls_that_end_the_process_are_where_the_library_file_has_them(layout: IsaLayout) -> None:
    functions, slots = functions_and_slots()
    name = f"cpu_abort_{layout.suffix}"

    assert layout.abort == AbortCall(function=functions[name], slot=slots[name])


def test_the_call_of_abort_is_where_the_library_file_has_it() -> None:
    _functions, slots = functions_and_slots()

    assert CORE[library_build()].abort_slot == slots["abort"]


@pytest.mark.parametrize("layout", [row for row in LAYOUTS.values() if row.translator_loop], ids=lambda layout: layout.suffix)
def test_translator_loops_are_where_the_library_file_has_them(layout: IsaLayout) -> None:
    functions, slots = functions_and_slots()
    name = f"translator_loop_{layout.suffix}"

    assert layout.translator_loop == TranslatorLoop(function=functions[name], slot=slots[name])


@pytest.mark.parametrize("layout", [row for row in LAYOUTS.values() if row.tlb_calls], ids=lambda layout: layout.suffix)
def test_tlb_calls_are_where_the_library_file_has_them(layout: IsaLayout) -> None:
    functions, slots = functions_and_slots()
    random, invalidate = f"cpu_mips_get_random_{layout.suffix}", f"r4k_invalidate_tlb_{layout.suffix}"

    assert layout.tlb_calls == TlbCalls(
        random=functions[random],
        random_slot=slots[random],
        invalidate=functions[invalidate],
        invalidate_slot=slots[invalidate],
    )


@pytest.mark.parametrize("layout", [row for row in LAYOUTS.values() if row.context_save], ids=lambda layout: layout.suffix)
def test_context_saves_are_where_the_library_file_has_them(layout: IsaLayout) -> None:
    functions, slots = functions_and_slots()

    assert layout.context_save == ContextSave(function=functions["helper_svucx"], slot=slots["helper_svucx"])


@pytest.mark.parametrize("isa", sorted({isa for _build, isa in LAYOUTS}))
def test_every_isa_passes_its_self_test(isa: str) -> None:
    assert isa in PROBES
    self_test(isa)
