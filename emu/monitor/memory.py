"""Commands that look into the guest: `x`, `xp` and `print`, with QEMU's formats.

/FMT is a count, a format (x d u o c, i for instructions, s for strings) and a size (b h w g: 1, 2, 4, 8 bytes), each as needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from emu.disassembly import LONGEST, code_of, disassembler
from emu.inspect import read_physical, read_virtual
from emu.monitor.command import CommandError, Context
from emu.monitor.expression import evaluate
from emu.monitor.hardware import RegisterFile
from migration.vmstate import Wire

SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
FORMATS = "xduocis"
LINE = 16  # bytes
CHARACTERS = 8  # in a line
MOST = 1 << 16  # bytes or strings' bytes that one command shows
LONGEST_STRING = 200  # bytes, as gdb has it
NO_ACCESS = "Cannot access memory"

_FORMAT = re.compile(rf"(\d{{0,9}})([{FORMATS}bhwg]*)")
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "'": r"\'", '"': r"\""}


@dataclass(frozen=True, slots=True)
class Format:
    """How values are shown."""

    count: int = 1
    kind: str = "x"
    size: int = 4  # bytes


Read = Callable[[int, int], bytes]  # the readable part of so many bytes from an address on


def parse_format(text: str | None) -> Format:
    """What stands behind the slash; CommandError that tells what may."""
    match = _FORMAT.fullmatch(text or "")
    letters = match[2] if match else ""
    kinds = [letter for letter in letters if letter in FORMATS]
    sizes = [letter for letter in letters if letter in SIZES]
    if match is None or len(kinds) > 1 or len(sizes) > 1:
        raise CommandError(f"format '/{text:.40}' must be a count, one of {' '.join(FORMATS)} and one of {' '.join(SIZES)}")
    kind = kinds[0] if kinds else "x"
    size = SIZES[sizes[0]] if sizes else 1 if kind == "c" else 4
    count = int(match[1]) if match[1] else 1
    if count * (LONGEST if kind == "i" else LONGEST_STRING if kind == "s" else size) > MOST:
        raise CommandError(f"format '/{text}' asks for more than {MOST} bytes")
    return Format(count, kind, size)


def examine(ctx: Context, *, address: str, format: str | None = None) -> Wire:  # noqa: A002 - the parameter's name
    """Memory by virtual address, as the CPU sees it."""
    board = ctx.machine.board
    return _dump(ctx, address, format, lambda at, size: read_virtual(board.engine, board.memory, at, size))


def examine_physical(ctx: Context, *, address: str, format: str | None = None) -> Wire:  # noqa: A002
    """Memory by physical address."""
    memory = ctx.machine.board.memory
    return _dump(ctx, address, format, lambda at, size: read_physical(memory, at, size))


def print_value(ctx: Context, *, expression: str, format: str | None = None) -> Wire:  # noqa: A002
    """The value of an expression."""
    wanted = parse_format(format)
    if wanted.kind in "is" or wanted.count != 1:
        raise CommandError("print shows one value as x, d, u, o or c")
    value = ctx.machine.call(lambda: evaluate(expression, _registers(ctx)))
    return f"{value:#x}" if wanted.kind == "x" else _cell(value, Format(1, wanted.kind, 8)).strip()


def _registers(ctx: Context) -> Mapping[str, int]:
    return cast(RegisterFile, ctx.machine.board.cpu).registers()


def _dump(ctx: Context, address: str, format_text: str | None, read: Read) -> str:
    wanted = parse_format(format_text)
    board = ctx.machine.board

    def dump() -> list[str]:
        start = evaluate(address, _registers(ctx))
        if wanted.kind == "i":
            return _instructions(start, wanted.count, read, code_of(board.engine))
        if wanted.kind == "s":
            return _strings(start, wanted.count, read)
        return _values(start, wanted, read, "big" if board.big_endian else "little")

    return "\n".join(ctx.machine.call(dump))


def _instructions(start: int, count: int, read: Read, kind: str) -> list[str]:
    code = read(start, count * LONGEST)
    lines = list(disassembler(kind).lines(start, code, count))
    return lines if len(lines) == count else [*lines, NO_ACCESS]


def _strings(start: int, count: int, read: Read) -> list[str]:
    lines: list[str] = []
    for _string in range(count):
        data = read(start, LONGEST_STRING)
        if not data:
            return [*lines, NO_ACCESS]
        text, end, _rest = data.partition(b"\0")
        lines.append(f'{start:016x}: "{"".join(map(_character, text))}"{"" if end else "..."}')
        start += len(text) + len(end)
    return lines


def _values(start: int, wanted: Format, read: Read, order: Literal["big", "little"]) -> list[str]:
    size = wanted.size
    data = read(start, wanted.count * size)
    values = [int.from_bytes(data[at : at + size], order) for at in range(0, len(data) - size + 1, size)]
    step = CHARACTERS if wanted.kind == "c" else LINE // size
    lines = [
        f"{start + first * size:016x}:" + "".join(f" {_cell(value, wanted)}" for value in values[first : first + step])
        for first in range(0, len(values), step)
    ]
    return lines if len(values) == wanted.count else [*lines, NO_ACCESS]


def _cell(value: int, wanted: Format) -> str:
    bits = 8 * wanted.size
    match wanted.kind:
        case "d":
            return f"{value - (1 << bits if value >> bits - 1 else 0):{_digits(bits)}}"
        case "u":
            return f"{value:{_digits(bits)}}"
        case "o":
            return f"0{value:0{-(-bits // 3)}o}"
        case "c":
            return f"'{_character(value & 0xFF)}'"
        case _:
            return f"0x{value:0{bits // 4}x}"


def _digits(bits: int) -> int:
    """Columns of a decimal number, as QEMU counts them."""
    return -(-bits * 10 // 33)


def _character(byte: int) -> str:
    character = chr(byte)
    return _ESCAPES.get(character) or (character if 32 <= byte < 127 else f"\\x{byte:02x}")
