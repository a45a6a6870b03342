"""Every ISA of the engine has a disassembler that knows its machine code."""

from __future__ import annotations

import pytest

from emu.disassembly import CAPSTONE, CS32, CS64, Disassembler, code_of
from emu.engine.core import Engine
from emu.engine.isas import PROBES
from emu.errors import ConfigError


@pytest.mark.parametrize("isa", sorted(PROBES))
def test_an_isas_machine_code_is_disassembled(isa: str) -> None:
    probe = PROBES[isa]

    lines = list(Disassembler(isa).lines(probe.base, probe.store))

    assert lines[0].startswith(f"0x{probe.base:08x}:  {probe.store[:1].hex()}")
    assert not any(".byte" in line for line in lines)


@pytest.mark.parametrize("isa", CAPSTONE)
def test_every_row_of_the_table_is_one_that_capstone_takes(isa: str) -> None:
    assert list(Disassembler(isa).lines(0, bytes(16)))


def test_what_is_no_instruction_is_shown_as_bytes() -> None:
    first, *_others = Disassembler("riscv64").lines(0x8000_0000, bytes.fromhex("ffffffff 13000000"))

    assert first.endswith(".byte 0xff, 0xff")


def test_an_unknown_isa_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no disassembler for 'vax', there are arm, arm64, "):
        Disassembler("vax")


@pytest.mark.parametrize(
    ("isa", "fields", "kind"),
    [
        ("riscv64", {}, "riscv64"),
        ("arm64", {"aarch64": 1}, "arm64"),
        ("arm64", {"aarch64": 0, "thumb": 0}, "arm"),
        ("arm64", {"aarch64": 0, "thumb": 1}, "thumb"),
        ("arm", {"thumb": 1}, "thumb"),
        ("x86_64", {"hflags": CS64 | CS32}, "x86_64"),
        ("x86_64", {"hflags": CS32}, "i386"),
        ("i386", {"hflags": 0}, "i8086"),
    ],
)
def test_the_cpus_mode_says_what_code_it_is_in(isa: str, fields: dict[str, int], kind: str) -> None:
    engine = Engine(isa)
    for name, value in fields.items():
        engine.field(name).value = value

    assert code_of(engine) == kind
    assert list(Disassembler(kind).lines(0, bytes(16)))
    engine.close()
