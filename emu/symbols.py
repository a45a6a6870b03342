"""Names of guest code, from the symbol tables of the ELF files it was started from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

from emu.guestimage import ELF_MAGIC

CODE_TYPES = ("STT_FUNC", "STT_NOTYPE")  # a label in assembler has no type
SHF_EXECINSTR = 4


class Symbols:
    """Finds the symbol that an address belongs to."""

    def __init__(self, symbols: Iterable[tuple[int, int, str]]) -> None:
        """`symbols` are address, end of the code it may name, and name."""
        self._symbols = sorted(symbols)
        self._starts = [start for start, _end, _name in self._symbols]

    def name(self, address: int) -> str:
        """`symbol+0xoffset`; empty when there is no symbol."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return ""
        start, end, name = self._symbols[index]
        return f"{name}+{address - start:#x}" if address < end else ""


def load_symbols(paths: Iterable[Path | None]) -> Symbols:
    """The symbols of those files that are ELF files and have any."""
    return Symbols(symbol for path in paths if path is not None for symbol in _symbols_of(path))


def _symbols_of(path: Path) -> Iterator[tuple[int, int, str]]:
    from elftools.common.exceptions import ELFError  # 20 ms that only a log with symbols has to wait for
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with path.open("rb") as file:
            if file.read(4) != ELF_MAGIC:
                return
            elf = ELFFile(file)
            table = elf.get_section_by_name(".symtab")
            if not isinstance(table, SymbolTableSection):
                return
            code = {
                index: section["sh_addr"] + section["sh_size"]
                for index, section in enumerate(elf.iter_sections())
                if section["sh_flags"] & SHF_EXECINSTR
            }
            for symbol in table.iter_symbols():
                named = symbol.name and not symbol.name.startswith(("$", "."))  # those mark what is code and what data
                if named and symbol["st_shndx"] in code and symbol["st_info"]["type"] in CODE_TYPES:
                    yield symbol["st_value"], code[symbol["st_shndx"]], symbol.name
    except (ELFError, OSError):
        return  # a guest that has started from it does not end for its names
