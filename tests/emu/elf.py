"""A small ELF file with symbols, made by hand: no compiler is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping

EM_X86_64, EM_AARCH64, EM_RISCV = 62, 183, 243
HEADER, PROGRAM, SECTION, SYMBOL = (
    struct.Struct(layout) for layout in ("<16sHHIQQQIHHHHHH", "<IIQQQQQQ", "<IIQQQQIIQQ", "<IBBHQQ")
)
NAMES = b"\0.text\0.symtab\0.strtab\0"


def elf_with_symbols(address: int, code: bytes, symbols: Mapping[str, int], machine: int = EM_RISCV) -> bytes:
    """An executable for a 64-bit machine: `code` at `address`, entered there, and labels in it by their offsets."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
    table = SYMBOL.pack(0, 0, 0, 0, 0, 0)
    for name, offset in symbols.items():
        table += SYMBOL.pack(strings.index(b"\0" + name.encode() + b"\0") + 1, 0x10, 0, 1, address + offset, 0)
    start = HEADER.size + PROGRAM.size
    parts = [code, table, strings, NAMES]
    offsets = [start + sum(map(len, parts[:index])) for index in range(len(parts) + 1)]
    sections = [
        SECTION.pack(*[0] * 10),
        SECTION.pack(1, 1, 6, address, offsets[0], len(code), 0, 0, 4, 0),  # PROGBITS, ALLOC | EXECINSTR
        SECTION.pack(7, 2, 0, 0, offsets[1], len(table), 3, 1, 8, SYMBOL.size),
        SECTION.pack(15, 3, 0, 0, offsets[2], len(strings), 0, 0, 1, 0),
        SECTION.pack(15, 3, 0, 0, offsets[3], len(NAMES), 0, 0, 1, 0),
    ]
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    sizes = (HEADER.size, PROGRAM.size, 1, SECTION.size, len(sections), 4)
    header = HEADER.pack(ident, 2, machine, 1, address, HEADER.size, offsets[4], 0, *sizes)
    program = PROGRAM.pack(1, 5, start, address, address, len(code), len(code), 4)
    return header + program + b"".join(parts) + b"".join(sections)
