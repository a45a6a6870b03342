"""The toolchain for TriCore: its table against another's, and its code against the RISC-V code that it comes from."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import capstone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.engine.core import Engine
from emu.engine.registers import registers
from emu.errors import ConfigError
from images.tricore.assembler import Section, read_line, read_source
from images.tricore.isa import INSTRUCTIONS, encode
from images.tricore.riscv import Translator

BASE, SIZE = 0x8000_0000, 1 << 16
DATA = BASE + 0x8000
FIRST, LAST, RA, SP = 5, 15, 1, 2
J_HERE = 0x0000_006F  # RISC-V
u32s = st.integers(0, 0xFFFF_FFFF)


# The table


def sample(mnemonic: str) -> tuple[int, ...]:
    """Operands that differ from each other, the constants negative where they may be."""
    values = {"d": iter((3, 5, 7)), "a": iter((4, 12, 13)), "e": iter((2,))}
    out = []
    for operand in INSTRUCTIONS[mnemonic].operands:
        if operand.kind in values:
            out.append(next(values[operand.kind]))
        elif operand.kind == "pc":
            out.append(BASE - 0x100)
        elif operand.kind == "csfr":
            out.append(0xFE2C)
        else:
            out.append(-(1 << operand.bits - 1) + 9 if operand.signed else (1 << operand.bits) - 9)
    return tuple(out)


def numbers(text: str) -> list[int]:
    """The numbers in an instruction's operands: registers, constants, targets."""
    text = re.sub(r"\bsp\b", "a10", text)
    return [int(found, 0) for found in re.findall(r"(?<![\w])#?(?:[ade](?=\d))?(-?(?:0x[0-9a-f]+|\d+))", text)]


@pytest.mark.parametrize("mnemonic", sorted(INSTRUCTIONS))
def test_an_instruction_is_read_as_what_it_was_written(mnemonic: str) -> None:
    values = sample(mnemonic)

    (read,) = capstone.Cs(capstone.CS_ARCH_TRICORE, capstone.CS_MODE_TRICORE_131).disasm(encode(mnemonic, values, BASE), BASE)

    assert read.mnemonic == re.sub(r"\.[cre]$", "", mnemonic)
    # Capstone has some unsigned constants as signed ones.
    limits = [1 << (32 if operand.kind == "pc" else operand.bits) for operand in INSTRUCTIONS[mnemonic].operands]
    found = [number % limit for number, limit in zip(numbers(read.op_str), limits, strict=True)]
    assert found == [value % limit for value, limit in zip(values, limits, strict=True)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("vax %d1", "no instruction vax"),
        ("add %d1, %d2", "add has 2 operands, must have 3"),
        ("add %d1, %d2, %a3", "%a3 must be a register %d0..%d15"),
        ("mtcr $vax, %d1", r"\$vax must be one of \$pcxi, "),
        ("movh %d1, high:x", "high: must be one of , hi, lo"),
    ],
)
def test_what_is_not_understood_is_told_with_file_and_line(line: str, told: str, tmp_path: Path) -> None:
    source = tmp_path / "x.s"
    source.write_text(f"# first\n{line}\n")

    with pytest.raises(ConfigError, match=rf"x\.s:2: {told}"):
        read_source(source)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["jeq %d1, %d2, far"], "jeq at 0x80000000 has operand 32768, must be -16384..16383"),
        (["mov %d1, 0x8000"], "mov at 0x80000000 has operand 32768, must be -32768..32767"),
        (["mul.u %d3, %d1, %d2"], "mul.u at 0x80000000 has operand 3"),
        (["j nowhere"], "nothing is called nowhere"),
    ],
)
def test_what_does_not_fit_is_told(lines: list[str], told: str) -> None:
    section = Section([read_line(line) for line in lines])

    with pytest.raises(ConfigError, match=told):
        section.assemble(BASE, {"far": BASE + 0x10000})


# The translation: the same program on both CPUs


def operation(funct7: int, funct3: int, rd: int, rs1: int, rs2: int) -> int:
    return funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | 0x33


def with_constant(opcode: int, funct3: int, rd: int, rs1: int, constant: int) -> int:
    return (constant & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def store(funct3: int, rs1: int, rs2: int, offset: int) -> int:
    return (offset >> 5 & 0x7F) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (offset & 0x1F) << 7 | 0x23


def branch_over_one(funct3: int, rs1: int, rs2: int) -> int:
    return rs2 << 20 | rs1 << 15 | funct3 << 12 | 8 << 7 | 0x63


OPERATIONS = [(0, function) for function in range(8)] + [(0x20, 0), (0x20, 5), (1, 0), (1, 1), (1, 3)]


@st.composite
def instructions(draw: st.DrawFn) -> int:
    """Any that the translator knows, but for jumps; accesses are to memory around DATA, which is in sp or x15."""
    rd = draw(st.sampled_from([0, RA, *range(FIRST, LAST)]))
    rs1, rs2 = (draw(st.sampled_from([0, RA, SP, *range(FIRST, LAST + 1)])) for _ in range(2))
    constant, shift = draw(st.integers(-0x800, 0x7FF)), draw(st.integers(0, 31))
    base, aligned = draw(st.sampled_from([SP, LAST])), draw(st.integers(-0x200, 0x1FF)) * 4
    kind = draw(st.sampled_from(["operation", "constant", "shift", "lui", "load", "store", "branch"]))
    match kind:
        case "operation":
            return operation(*draw(st.sampled_from(OPERATIONS)), rd, rs1, rs2)
        case "constant":
            return with_constant(0x13, draw(st.sampled_from([0, 2, 3, 4, 6, 7])), rd, rs1, constant)
        case "shift":
            return with_constant(
                0x13, *draw(st.sampled_from([(1, rd, rs1, shift), (5, rd, rs1, shift), (5, rd, rs1, shift | 0x400)]))
            )
        case "lui":
            return draw(u32s) & 0xFFFF_F000 | rd << 7 | 0x37
        case "load":
            return with_constant(0x03, draw(st.sampled_from([0, 1, 2, 4, 5])), rd, base, aligned)
        case "store":
            return store(draw(st.sampled_from([0, 1, 2])), base, rs2, aligned)
        case _:
            return branch_over_one(draw(st.sampled_from([0, 1, 4, 5, 6, 7])), rs1, rs2)


def run(isa: str, code: bytes, names: dict[int, str], start: dict[int, int], count: int) -> tuple[dict[int, int], bytes]:
    """Registers, by RISC-V's numbers, and memory behind a program that ends in a jump to itself."""
    memory = mmap.mmap(-1, SIZE)
    memory[: len(code)] = code
    memory[SIZE // 2 :] = bytes(range(256)) * (SIZE // 512)
    engine = Engine(isa)
    ids = registers(isa)
    try:
        engine.map_ram(BASE, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
        for number, value in start.items():
            engine.write_register(ids[names[number]], value)
        engine.pc = BASE
        engine.run(count)
        return {number: engine.read_register(ids[names[number]]) & 0xFFFF_FFFF for number in start}, memory[SIZE // 4 :]
    finally:
        engine.close()


RISCV = {number: f"x{number}" for number in range(16)}
TRICORE = {number: f"d{number}" for number in range(16)} | {RA: "a11", SP: "a10"}


def check(words: list[int], values: list[int]) -> None:
    """Run a program on both CPUs; AssertionError when they do not agree."""
    program = b"".join(word.to_bytes(4, "little") for word in (*words, J_HERE, J_HERE))
    section = Translator(program, {}, {}).translate()
    names: dict[str, int] = {}
    end = section.place(BASE, names)
    start = dict(zip([RA, *range(FIRST, LAST + 1)], values, strict=True)) | {SP: DATA + 0x1000, LAST: DATA + 0x2000}

    translated = run("tricore", section.assemble(BASE, names), TRICORE, start, (end - BASE) // 4 + 4)

    assert translated == run("riscv32", program, RISCV, start, len(words) + 4)


@settings(max_examples=40, deadline=None)
@given(words=st.lists(instructions(), min_size=1, max_size=40), values=st.lists(u32s, min_size=12, max_size=12))
def test_translated_code_does_what_it_did(words: list[int], values: list[int]) -> None:
    check(words, values)


@pytest.mark.parametrize(("funct7", "funct3"), OPERATIONS)
def test_every_operation_does_what_it_did(funct7: int, funct3: int) -> None:
    words = [operation(funct7, funct3, 10 + n, 5 + n, 9 - n) for n in range(5)]

    check(words, [0, 0x8000_0001, 0x7FFF_FFFF, 0xFFFF_FFFF, 35, 0x1234_5678, *[0] * 6])


def test_an_instruction_without_a_translation_is_told() -> None:
    with pytest.raises(ConfigError, match="no TriCore code for the RISC-V instruction 0x00000073 at 0x0"):
        Translator(bytes.fromhex("73000000"), {}, {}).translate()


def test_a_register_that_has_no_place_is_told() -> None:
    with pytest.raises(ConfigError, match="register x4 has no place"):
        Translator(operation(0, 0, 5, 4, 6).to_bytes(4, "little"), {}, {}).translate()
