"""TriCore's 32-bit instructions as far as the tiny guest has them: syntax and encoding of each, in one table.

Opcodes and formats are those of the TriCore V1.3.1 Architecture Manual, volume 2; the syntax is GNU's. There are no 16-bit
instructions, so every instruction has 4 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from emu.errors import ConfigError

SIZE = 4  # bytes of an instruction


@dataclass(frozen=True, slots=True)
class Operand:
    """A field that an operand goes into. Numbers are checked against `bits`, signed where `signed` says so."""

    kind: str  # d or a: a register; e: an even one of a pair; c: a number; csfr: a core register; pc: a jump's target
    place: Callable[[int], int]  # the value, cut to `bits`, in its place
    bits: int = 4
    signed: bool = False


def _at(bit: int) -> Callable[[int], int]:
    return lambda value: value << bit


def _d(bit: int) -> Operand:
    return Operand("d", _at(bit))


def _e(bit: int) -> Operand:
    return Operand("e", _at(bit))


def _a(bit: int) -> Operand:
    return Operand("a", _at(bit))


# Offsets and displacements lie in pieces.
_OFF10 = Operand("c", lambda value: (value & 0x3F) << 16 | (value >> 6) << 28, 10, signed=True)
_OFF16 = Operand("c", lambda value: (value & 0x3F) << 16 | (value >> 10) << 22 | (value >> 6 & 0xF) << 28, 16, signed=True)
_DISP15 = Operand("pc", _at(16), 15, signed=True)
_DISP24 = Operand("pc", lambda value: (value & 0xFFFF) << 16 | (value >> 16) << 8, 24, signed=True)
_CONST9 = Operand("c", _at(12), 9)
_CONST9_SIGNED = Operand("c", _at(12), 9, signed=True)
_CONST16 = Operand("c", _at(12), 16)
_CONST16_SIGNED = Operand("c", _at(12), 16, signed=True)
_CSFR = Operand("csfr", _at(12), 16)


@dataclass(frozen=True, slots=True)
class Instruction:
    """What is fixed, and the operands in the order in which they are written."""

    opcode: int
    operands: tuple[Operand, ...] = ()


def _rlc(op: int, *operands: Operand) -> Instruction:
    return Instruction(op, operands)


def _rr(op: int, second: int, *operands: Operand) -> Instruction:
    return Instruction(op | second << 20, operands or (_d(28), _d(8), _d(12)))


def _rc(op: int, second: int, constant: Operand) -> Instruction:
    return Instruction(op | second << 21, (_d(28), _d(8), constant))


def _product(second: int, result: Operand) -> Instruction:
    return Instruction(0x73 | second << 16, (result, _d(8), _d(12)))


def _load(op: int, second: int, register: Operand) -> Instruction:
    """`register, [base] offset`; a store has the same fields, and its base first (see `_store`)."""
    return Instruction(op | second << 22, (register, _a(12), _OFF10))


def _store(second: int, register: Operand) -> Instruction:
    return Instruction(0x89 | second << 22, (_a(12), _OFF10, register))


def _compare_and_jump(op: int, second: int) -> Instruction:
    return Instruction(op | second << 31, (_d(8), _d(12), _DISP15))


def _system(second: int) -> Instruction:
    return Instruction(0x0D | second << 22)


INSTRUCTIONS: Mapping[str, Instruction] = MappingProxyType(
    {
        "add": _rr(0x0B, 0x00),
        "addi": _rlc(0x1B, _d(28), _d(8), _CONST16_SIGNED),
        "and": _rr(0x0F, 0x08),
        "and.c": _rc(0x8F, 0x08, _CONST9),  # GNU's syntax has `and` for both
        "disable": _system(0x0D),
        "dsync": _system(0x12),
        "enable": _system(0x0C),
        "isync": _system(0x13),
        "j": Instruction(0x1D, (_DISP24,)),
        "jeq": _compare_and_jump(0x5F, 0),
        "jge": _compare_and_jump(0x7F, 0),
        "jge.u": _compare_and_jump(0x7F, 1),
        "ji": _rr(0x2D, 0x03, _a(8)),
        "jl": Instruction(0x5D, (_DISP24,)),
        "jli": _rr(0x2D, 0x02, _a(8)),
        "jlt": _compare_and_jump(0x3F, 0),
        "jlt.u": _compare_and_jump(0x3F, 1),
        "jne": _compare_and_jump(0x5F, 1),
        "ld.a": _load(0x09, 0x26, _a(8)),
        "ld.b": _load(0x09, 0x20, _d(8)),
        "ld.bu": _load(0x09, 0x21, _d(8)),
        "ld.h": _load(0x09, 0x22, _d(8)),
        "ld.hu": _load(0x09, 0x23, _d(8)),
        "ld.w": _load(0x09, 0x24, _d(8)),
        "lea": Instruction(0xD9, (_a(8), _a(12), _OFF16)),
        "lt": _rr(0x0B, 0x12),
        "lt.c": _rc(0x8B, 0x12, _CONST9_SIGNED),
        "lt.u": _rr(0x0B, 0x13),
        "mfcr": _rlc(0x4D, _d(28), _CSFR),
        "mov": _rlc(0x3B, _d(28), _CONST16_SIGNED),
        "mov.a": _rr(0x01, 0x63, _a(28), _d(12)),
        "mov.d": _rr(0x01, 0x4C, _d(28), _a(12)),
        "mov.r": _rr(0x0B, 0x1F, _d(28), _d(12)),  # GNU's syntax has `mov` for both
        "movh": _rlc(0x7B, _d(28), _CONST16),
        "movh.a": _rlc(0x91, _a(28), _CONST16),
        "mtcr": _rlc(0xCD, _CSFR, _d(8)),
        "mul": _product(0x00A, _d(28)),
        "mul.e": _product(0x06A, _e(28)),  # the 64 bits of the product
        "mul.u": _product(0x068, _e(28)),
        "nop": _system(0x00),
        "or": _rr(0x0F, 0x0A),
        "or.c": _rc(0x8F, 0x0A, _CONST9),
        "rfe": _system(0x07),
        "rslcx": _system(0x09),
        "rsub": Instruction(0x8B | 0x08 << 21, (_d(28), _d(8), _CONST9_SIGNED)),
        "sh": _rr(0x0F, 0x00),
        "sh.c": _rc(0x8F, 0x00, _CONST9_SIGNED),  # to the right where negative
        "sha": _rr(0x0F, 0x01),
        "sha.c": _rc(0x8F, 0x01, _CONST9_SIGNED),
        "st.a": _store(0x26, _a(8)),
        "st.b": _store(0x20, _d(8)),
        "st.h": _store(0x22, _d(8)),
        "st.w": _store(0x24, _d(8)),
        "sub": _rr(0x0B, 0x08),
        "svlcx": _system(0x08),
        "xor": _rr(0x0F, 0x0C),
        "xor.c": _rc(0x8F, 0x0C, _CONST9),
    }
)

CSFRS: Mapping[str, int] = MappingProxyType(
    {"pcxi": 0xFE00, "psw": 0xFE04, "biv": 0xFE20, "btv": 0xFE24, "isp": 0xFE28, "icr": 0xFE2C, "fcx": 0xFE38, "lcx": 0xFE3C}
)


def encode(mnemonic: str, values: tuple[int, ...], pc: int) -> bytes:
    """The machine code of an instruction at `pc`; a jump's operand is its target. ConfigError when an operand does not fit."""
    instruction = INSTRUCTIONS[mnemonic]
    word = instruction.opcode
    for operand, value in zip(instruction.operands, values, strict=True):
        word |= _field(mnemonic, operand, value, pc)
    return word.to_bytes(SIZE, "little")


def _field(mnemonic: str, operand: Operand, value: int, pc: int) -> int:
    if operand.kind == "pc":
        if (value - pc) % 2:
            raise ConfigError(f"{mnemonic} at {pc:#x} goes to {value:#x}, which is odd")
        value = (value - pc) // 2
    lowest, limit = (-1 << operand.bits - 1, 1 << operand.bits - 1) if operand.signed else (0, 1 << operand.bits)
    if not lowest <= value < limit or (operand.kind == "e" and value % 2):
        raise ConfigError(f"{mnemonic} at {pc:#x} has operand {value}, must be {lowest}..{limit - 1}")
    return operand.place(value & (1 << operand.bits) - 1)
