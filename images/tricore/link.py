"""An ELF file for TriCore of the guest's C, compiled for RISC-V, and its assembly: what tiny.ld is to the other ISAs."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from images.tricore.assembler import Align, Section, joined, read_source
from images.tricore.riscv import read_object

PAGE = 0x4000  # TriCore's: code and data share none
EM_TRICORE = 44
PT_LOAD, READ_EXECUTE, READ_WRITE = 1, 5, 6
ET_EXEC, EV_CURRENT = 2, 1
IDENT = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")  # 32 bits, little-endian
HEADER, SEGMENT = struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<IIIIIIII")
FILE_ALIGN = 0x1000


@dataclass(frozen=True, slots=True)
class _Segment:
    base: int
    data: bytes
    size: int  # in memory
    flags: int


def link(compiled: bytes, assembly: list[Path], address: int) -> bytes:
    """The ELF file, its code from `address` on; ConfigError names what cannot be translated, encoded or found."""
    parts = [*(read_source(path) for path in assembly), read_object(compiled)]

    def gather(*prefixes: str) -> Section:
        names = sorted({name for part in parts for name in part if name.startswith(prefixes)})
        return joined(part[name] for name in names for part in parts if name in part)

    code = joined([gather(".text"), gather(".rodata", ".srodata")])
    data, bss = gather(".data", ".sdata"), joined([gather(".bss", ".sbss"), Section([Align(8)])])

    names = {"image_start": address}
    code_end = code.place(address, names)
    names["text_end"] = data_base = code_end + -code_end % PAGE
    data_end = data.place(data_base, names)
    names["bss_start"] = bss_base = data_end + -data_end % 8
    names["bss_end"] = names["image_end"] = bss_end = bss.place(bss_base, names)
    return _elf(
        names["_start"],
        _Segment(address, code.assemble(address, names), code_end - address, READ_EXECUTE),
        _Segment(data_base, data.assemble(data_base, names), bss_end - data_base, READ_WRITE),
    )


def _elf(entry: int, *segments: _Segment) -> bytes:
    """An ELF file with no more than it needs to be loaded."""
    out = bytearray(HEADER.size + len(segments) * SEGMENT.size)
    for number, segment in enumerate(segments):
        out += bytes(-len(out) % FILE_ALIGN)
        place = len(out), segment.base, segment.base, len(segment.data), segment.size
        SEGMENT.pack_into(out, HEADER.size + number * SEGMENT.size, PT_LOAD, *place, segment.flags, FILE_ALIGN)
        out += segment.data
    sizes = HEADER.size, SEGMENT.size, len(segments), 0, 0, 0
    HEADER.pack_into(out, 0, IDENT, ET_EXEC, EM_TRICORE, EV_CURRENT, entry, HEADER.size, 0, 0, *sizes)
    return bytes(out)
