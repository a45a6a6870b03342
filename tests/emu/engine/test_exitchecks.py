"""Blocks that look for an exit request by an instruction of their own, on every ISA."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from emu.engine.core import Engine
from emu.engine.isas import PROBES
from emu.engine.repairs.exitchecks import check_in_place
from emu.engine.selftest import self_test
from emu.engine.stubs import address_of
from emu.errors import EngineError

COMPARISON = bytes.fromhex("83bd")
CALLS = bytes.fromhex("0831ff90e8"), bytes.fromhex("0931ff90ff15")  # of the stub, near and far

_Generate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@contextmanager
def generated(isa: str) -> Iterator[list[bytes]]:
    """The first bytes of every block that is translated in here."""
    engine = Engine(isa)
    calls, where = engine.layout.calls, 16 + 2 * engine.layout.tlb.word
    base = address_of(f"tcg_gen_code_{engine.layout.suffix}") - calls.generate
    slot = ctypes.c_uint64.from_address(base + calls.generate_slot)
    before = slot.value
    generate = _Generate(before)
    blocks: list[bytes] = []

    def spy(context: int, block: int) -> int:
        size = int(generate(context, block))
        blocks.append(ctypes.string_at(ctypes.c_uint64.from_address(block + where).value, 17))
        return size

    callback = _Generate(spy)
    slot.value = ctypes.cast(callback, ctypes.c_void_p).value or 0
    yield blocks
    slot.value = before
    engine.close()


@pytest.mark.parametrize("isa", sorted(PROBES))
def test_blocks_begin_with_a_comparison_and_a_call_behind_it(isa: str) -> None:
    with generated(isa) as blocks:
        self_test(isa)

    assert blocks
    assert all(block.startswith(COMPARISON) and block[8:].startswith(CALLS) for block in blocks)


@pytest.mark.parametrize("field", ["generate", "generate_slot"])
def test_a_library_that_calls_its_generator_elsewhere_is_refused(field: str) -> None:
    with generated("riscv64"):
        pass
    engine = Engine("riscv64")
    calls = engine.layout.calls
    wrong = replace(calls, **{field: getattr(calls, field) + 8})

    with pytest.raises(EngineError, match="this library says it is unicorn 2"):
        check_in_place("riscv64", wrong, 8, -16, 0)
    engine.close()
