"""Puts instructions, data and names together: sections of items become bytes at addresses.

What stands for a number may be a `Reference` to a name, for the whole of its address or the part that an instruction takes.

Text, as in images/tiny/tricore/start.s, has a label, an instruction or a directive in each line:

    name:                         a label
    lea %a15, [%a15] lo:name      operands: %d0..%d15, %a0..%a15, $csfr, numbers, names with hi: or lo:
    .align BYTES, .space BYTES, .word VALUE, .section NAME       # begins a comment
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from emu.errors import ConfigError
from images.tricore.isa import CSFRS, INSTRUCTIONS, SIZE, Operand, encode

WORD = 4


def _high(value: int) -> int:
    return value + 0x8000 >> 16 & 0xFFFF


def _low(value: int) -> int:
    return (value & 0xFFFF ^ 0x8000) - 0x8000


# `hi` is rounded, because `lo` is signed. RISC-V parts an address into twenty bits and signed twelve.
PARTS: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {
        "": lambda value: value,
        "hi": _high,
        "lo": _low,
        "hi20.hi": lambda value: _high(value + 0x800 & 0xFFFF_F000),
        "hi20.lo": lambda value: _low(value + 0x800 & 0xFFFF_F000),
        "lo12": lambda value: (value & 0xFFF ^ 0x800) - 0x800,
    }
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The address of `name` plus `addend`, or a part of it."""

    name: str
    addend: int = 0
    part: str = ""  # what of it: a name in PARTS

    def value(self, names: dict[str, int]) -> int:
        """As a number; ConfigError when nothing has the name."""
        if self.name not in names:
            raise ConfigError(f"nothing is called {self.name}")
        return PARTS[self.part](names[self.name] + self.addend & 0xFFFF_FFFF)


Value: TypeAlias = "int | Reference"


@dataclass(frozen=True, slots=True)
class Code:
    """One instruction."""

    mnemonic: str
    operands: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """A name for the place where it stands."""

    name: str


@dataclass(frozen=True, slots=True)
class Align:
    """Zeros up to the next multiple of `size`."""

    size: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes, and words in them that are references."""

    data: bytes
    references: tuple[tuple[int, Reference], ...] = ()


Item: TypeAlias = "Code | Label | Align | Data"


@dataclass(slots=True)
class Section:
    """Items one behind the other."""

    items: list[Item] = field(default_factory=list)

    def place(self, base: int, names: dict[str, int]) -> int:
        """Say where the labels are in a section that begins at `base`; its end."""
        at = base
        for item in self.items:
            match item:
                case Label():
                    if item.name in names:
                        raise ConfigError(f"two things are called {item.name}")
                    names[item.name] = at
                case _:
                    at += _size(item, at)
        return at

    def assemble(self, base: int, names: dict[str, int]) -> bytes:
        """The bytes of a section at `base`."""
        out = bytearray()
        for item in self.items:
            at = base + len(out)
            match item:
                case Code():
                    values = tuple(_number(value, names) for value in item.operands)
                    out += encode(item.mnemonic, values, at)
                case Data():
                    data = bytearray(item.data)
                    for offset, reference in item.references:
                        data[offset : offset + WORD] = reference.value(names).to_bytes(WORD, "little")
                    out += data
                case _:
                    out += bytes(_size(item, at))
        return bytes(out)


def _size(item: Item, at: int) -> int:
    match item:
        case Code():
            return SIZE
        case Data():
            return len(item.data)
        case Align():
            return -at % item.size
        case Label():
            return 0


def _number(value: Value, names: dict[str, int]) -> int:
    return value.value(names) if isinstance(value, Reference) else value


def read_source(path: Path) -> dict[str, Section]:
    """The sections of a source file by name; ConfigError names file and line of what is not understood."""
    sections = {".text": Section()}
    current = sections[".text"]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            if text.startswith(".section "):
                current = sections.setdefault(text.split()[1], Section())
            else:
                current.items.append(read_line(text))
        except (ConfigError, ValueError) as exc:
            raise ConfigError(f"{path.name}:{number}: {exc}") from exc
    return sections


def read_line(text: str) -> Item:
    """What one line means, with no comment on it; ConfigError when it is not understood."""
    word, _, rest = text.partition(" ")
    rest = rest.strip()
    if text.endswith(":"):
        return Label(text[:-1])
    match word:
        case ".align":
            return Align(int(rest, 0))
        case ".space":
            return Data(bytes(int(rest, 0)))
        case ".word":
            value = _value(rest)
            return Data(bytes(WORD), ((0, value),)) if isinstance(value, Reference) else Data(value.to_bytes(WORD, "little"))
    if word not in INSTRUCTIONS:
        raise ConfigError(f"no instruction {word}")
    wanted = INSTRUCTIONS[word].operands
    # [%a1] 4 are two operands, with no comma between them.
    written = [part for part in re.split(r"\s*,\s*|(?<=\])\s*", rest) if part]
    if len(written) != len(wanted):
        raise ConfigError(f"{word} has {len(written)} operands, must have {len(wanted)}")
    return Code(word, tuple(_operand(operand, part) for operand, part in zip(wanted, written, strict=True)))


def _operand(operand: Operand, text: str) -> Value:
    if operand.kind in ("d", "e", "a"):
        bank = "a" if operand.kind == "a" else "d"
        found = re.fullmatch(rf"\[?%{bank}(\d+)\]?", text)
        if found is None:
            raise ConfigError(f"{text} must be a register %{bank}0..%{bank}15")
        return int(found[1])
    if operand.kind == "csfr":
        if text.removeprefix("$") not in CSFRS:
            raise ConfigError(f"{text} must be one of {', '.join(f'${name}' for name in CSFRS)}")
        return CSFRS[text.removeprefix("$")]
    return _value(text)


def _value(text: str) -> Value:
    if text.lstrip("-")[:1].isdigit():
        return int(text, 0)
    part, _, name = text.rpartition(":")
    if part not in PARTS:
        raise ConfigError(f"{part}: must be one of {', '.join(PARTS)}")
    return Reference(name, part=part)


def joined(parts: Iterable[Section]) -> Section:
    """One section of all."""
    return Section([item for part in parts for item in part.items])
