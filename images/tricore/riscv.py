"""GCC's code for RISC-V as TriCore's: a relocatable object for RV32EM becomes sections for the assembler.

There is a compiler for C on RISC-V and none for TriCore, and RV32E's fifteen registers fit TriCore's sixteen. An instruction
becomes one to three of TriCore's:

    x0              d0, which is kept 0
    ra, sp          a11, a10, where TriCore has them as well
    x5..x15         d5..d15
    scratch         d1..d4, a15

Calls are jumps with a link, not TriCore's CALL: the callee saves as RISC-V's ABI says, and no context is spent. Data stay as
they are, but for the addresses in them. Chapter numbers are those of The RISC-V Instruction Set Manual, volume I.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from types import MappingProxyType

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from emu.errors import ConfigError
from images.tricore.assembler import Align, Code, Data, Item, Label, Reference, Section, Value

RA, SP = 1, 2
FIRST_IN_D, REGISTERS = 5, 16
A_OF = {RA: 11, SP: 10}
POINTER = 15  # a15: the address of an access, or of a jump
SCRATCH = (1, 2)  # d1, d2: operands that are not in a data register
IMMEDIATE, PRODUCT = 3, 2  # d3: a constant; d2 and d3: the 64 bits of a product
CONST9, OFF10 = 1 << 8, 1 << 9  # limits of signed constants and offsets

R_32, R_BRANCH, R_JAL, R_CALL, R_CALL_PLT, R_HI20, R_LO12_I, R_LO12_S = 1, 16, 17, 18, 19, 26, 27, 28
SHF_ALLOC, SHF_EXECINSTR = 2, 4
SHT_NOBITS = "SHT_NOBITS"
INSTRUCTION = 4  # bytes


@dataclass(frozen=True, slots=True)
class _Word:
    """An instruction's fields (2.2, 2.3)."""

    word: int

    def bits(self, low: int, count: int) -> int:
        return self.word >> low & (1 << count) - 1

    def signed(self, value: int, bits: int) -> int:
        return (value ^ 1 << bits - 1) - (1 << bits - 1)

    @property
    def rd(self) -> int:
        return self.bits(7, 5)

    @property
    def rs1(self) -> int:
        return self.bits(15, 5)

    @property
    def rs2(self) -> int:
        return self.bits(20, 5)

    @property
    def imm_i(self) -> int:
        return self.signed(self.bits(20, 12), 12)

    @property
    def imm_s(self) -> int:
        return self.signed(self.bits(25, 7) << 5 | self.bits(7, 5), 12)

    @property
    def imm_b(self) -> int:
        return self.signed(self.bits(31, 1) << 12 | self.bits(7, 1) << 11 | self.bits(25, 6) << 5 | self.bits(8, 4) << 1, 13)

    @property
    def imm_j(self) -> int:
        return self.signed(
            self.bits(31, 1) << 20 | self.bits(12, 8) << 12 | self.bits(20, 1) << 11 | self.bits(21, 10) << 1, 21
        )


LOADS = {0: "ld.b", 1: "ld.h", 2: "ld.w", 4: "ld.bu", 5: "ld.hu"}  # by funct3 (2.6)
STORES = {0: "st.b", 1: "st.h", 2: "st.w"}
BRANCHES = {0: "jeq", 1: "jne", 4: "jlt", 5: "jge", 6: "jlt.u", 7: "jge.u"}  # 2.5
OPERATIONS = {  # by funct7 and funct3 (2.4, 7.1)
    (0x00, 0): "add",
    (0x20, 0): "sub",
    (0x00, 1): "sll",
    (0x00, 2): "lt",
    (0x00, 3): "lt.u",
    (0x00, 4): "xor",
    (0x00, 5): "srl",
    (0x20, 5): "sra",
    (0x00, 6): "or",
    (0x00, 7): "and",
    (0x01, 0): "mul",
    (0x01, 1): "mulh",
    (0x01, 3): "mulhu",
}
WITH_CONSTANT = {0: "add", 2: "lt", 3: "lt.u", 4: "xor", 6: "or", 7: "and"}  # by funct3
SHIFTS = {"sll": "sh", "srl": "sh", "sra": "sha"}


class Translator:
    """Translates one section of code."""

    def __init__(self, code: bytes, relocations: Mapping[int, tuple[int, Reference]], labels: Mapping[int, list[str]]) -> None:
        """`relocations` by offset: type and what is meant; `labels` by offset: names that belong there."""
        self._code = code
        self._relocations = relocations
        self._labels = labels
        self.items: list[Item] = []

    def translate(self) -> Section:
        """All of it. ConfigError names offset and word of an instruction that is not known."""
        at = 0
        while at < len(self._code):
            self.items += [Label(name) for name in (place(at), *self._labels.get(at, ()))]
            word = _Word(int.from_bytes(self._code[at : at + INSTRUCTION], "little"))
            kind, meant = self._relocations.get(at, (0, None))
            if kind in (R_CALL, R_CALL_PLT) and meant is not None:
                self._call(at, meant)
                at += INSTRUCTION  # auipc and jalr are one
            else:
                handler = HANDLERS.get(word.bits(0, 7))
                if handler is None or not handler(self, word, at, meant):
                    raise ConfigError(f"no TriCore code for the RISC-V instruction {word.word:#010x} at {at:#x}")
            at += INSTRUCTION
        return Section(self.items)

    def _emit(self, mnemonic: str, *operands: Value) -> None:
        self.items.append(Code(mnemonic, operands))

    # Registers

    def _source(self, register: int, scratch: int) -> int:
        """The data register that has its value; `scratch` if it must be brought there."""
        if register in A_OF:
            self._emit("mov.d", scratch, A_OF[register])
            return scratch
        return _data_register(register)

    def _set(self, register: int, emit: Callable[[int], None]) -> bool:
        """Have `emit` write a data register, and bring it to where `register` is."""
        if register in A_OF:
            emit(SCRATCH[0])
            self._emit("mov.a", A_OF[register], SCRATCH[0])
        elif register:
            emit(_data_register(register))
        return True

    def _pointer(self, base: int, offset: Value, limit: int = OFF10) -> tuple[int, Value]:
        """An address register and an offset for an access to `base` + `offset`."""
        if base in A_OF:
            register = A_OF[base]
        else:
            register = POINTER
            self._emit("mov.a", POINTER, _data_register(base))
        if isinstance(offset, int) and -limit <= offset < limit:
            return register, offset
        self._emit("lea", POINTER, register, offset)
        return POINTER, 0

    def _constant(self, register: int, value: int) -> None:
        """Put any number in a data register."""
        if -0x8000 <= value < 0x8000:
            self._emit("mov", register, value)
            return
        low = (value & 0xFFFF ^ 0x8000) - 0x8000
        self._emit("movh", register, value - low >> 16 & 0xFFFF)
        if low:
            self._emit("addi", register, register, low)

    # Instructions, each with its opcode's handler: whether it is known

    def _lui(self, word: _Word, _at: int, meant: Reference | None) -> bool:
        def put(register: int) -> None:
            if meant is None:
                self._constant(register, word.word & 0xFFFF_F000)
                return
            self._emit("movh", register, Reference(meant.name, meant.addend, "hi20.hi"))
            self._emit("addi", register, register, Reference(meant.name, meant.addend, "hi20.lo"))

        return self._set(word.rd, put)

    def _jal(self, word: _Word, at: int, meant: Reference | None) -> bool:
        target = meant or Reference(place(at + word.imm_j))
        if word.rd not in (0, RA):
            return False
        self._emit("jl" if word.rd else "j", target)
        return True

    def _call(self, at: int, meant: Reference) -> None:
        link = _Word(int.from_bytes(self._code[at + INSTRUCTION : at + 2 * INSTRUCTION], "little")).rd
        self._emit("jl" if link == RA else "j", meant)

    def _jalr(self, word: _Word, _at: int, _meant: Reference | None) -> bool:
        if word.imm_i or word.rd not in (0, RA):
            return False
        register, _ = self._pointer(word.rs1, 0)
        self._emit("jli" if word.rd else "ji", register)
        return True

    def _branch(self, word: _Word, at: int, meant: Reference | None) -> bool:
        mnemonic = BRANCHES.get(word.bits(12, 3))
        if mnemonic is None:
            return False
        first, second = self._source(word.rs1, SCRATCH[0]), self._source(word.rs2, SCRATCH[1])
        self._emit(mnemonic, first, second, meant or Reference(place(at + word.imm_b)))
        return True

    def _load(self, word: _Word, _at: int, meant: Reference | None) -> bool:
        mnemonic = LOADS.get(word.bits(12, 3))
        if mnemonic is None:
            return False
        register, offset = self._pointer(word.rs1, _low(meant) or word.imm_i)
        if word.rd in A_OF and mnemonic == "ld.w":
            self._emit("ld.a", A_OF[word.rd], register, offset)
            return True
        return self._set(word.rd, lambda to: self._emit(mnemonic, to, register, offset))

    def _store(self, word: _Word, _at: int, meant: Reference | None) -> bool:
        mnemonic = STORES.get(word.bits(12, 3))
        if mnemonic is None:
            return False
        register, offset = self._pointer(word.rs1, _low(meant) or word.imm_s)
        if word.rs2 in A_OF and mnemonic == "st.w":
            self._emit("st.a", register, offset, A_OF[word.rs2])
        else:
            self._emit(mnemonic, register, offset, self._source(word.rs2, SCRATCH[1]))
        return True

    def _with_constant(self, word: _Word, _at: int, meant: Reference | None) -> bool:
        function, value = word.bits(12, 3), word.imm_i
        if function in (1, 5):
            name = OPERATIONS.get((word.bits(25, 7), function))
            return name in SHIFTS and self._shift_by(SHIFTS[name], word, word.rs2 if function == 1 else -word.rs2)
        name = WITH_CONSTANT[function]
        if name == "add":
            return self._add_constant(word, _low(meant) or value)
        first = self._source(word.rs1, SCRATCH[0])
        # TriCore's constants are unsigned but for lt's, and lt.u has none here: a negative one needs a register.
        if (name == "lt" and -CONST9 <= value < CONST9) or (name in ("and", "or", "xor") and 0 <= value < 2 * CONST9):
            return self._set(word.rd, lambda to: self._emit(f"{name}.c", to, first, value))
        self._constant(IMMEDIATE, value)
        return self._set(word.rd, lambda to: self._emit(name, to, first, IMMEDIATE))

    def _add_constant(self, word: _Word, value: Value) -> bool:
        if word.rs1 in A_OF and word.rd in A_OF:
            self._emit("lea", A_OF[word.rd], A_OF[word.rs1], value)
            return True
        if word.rs1 not in A_OF and value == 0:
            return self._set(word.rd, lambda to: self._emit("mov.r", to, _data_register(word.rs1)))
        first = self._source(word.rs1, SCRATCH[0])
        return self._set(word.rd, lambda to: self._emit("addi", to, first, value))

    def _shift_by(self, mnemonic: str, word: _Word, left: int) -> bool:
        first = self._source(word.rs1, SCRATCH[0])
        return self._set(word.rd, lambda to: self._emit(f"{mnemonic}.c", to, first, left))

    def _operation(self, word: _Word, _at: int, _meant: Reference | None) -> bool:
        name = OPERATIONS.get((word.bits(25, 7), word.bits(12, 3)))
        if name is None:
            return False
        first, second = self._source(word.rs1, SCRATCH[0]), self._source(word.rs2, SCRATCH[1])
        if name in SHIFTS:
            self._emit("and.c", IMMEDIATE, second, 31)
            if name != "sll":
                self._emit("rsub", IMMEDIATE, IMMEDIATE, 0)
            return self._set(word.rd, lambda to: self._emit(SHIFTS[name], to, first, IMMEDIATE))
        if name in ("mulh", "mulhu"):
            self._emit("mul.e" if name == "mulh" else "mul.u", PRODUCT, first, second)
            return self._set(word.rd, lambda to: self._emit("mov.r", to, PRODUCT + 1))
        return self._set(word.rd, lambda to: self._emit(name, to, first, second))


HANDLERS: Mapping[int, Callable[[Translator, _Word, int, Reference | None], bool]] = MappingProxyType(
    {  # by opcode (table 24.1)
        0x03: Translator._load,
        0x13: Translator._with_constant,
        0x23: Translator._store,
        0x33: Translator._operation,
        0x37: Translator._lui,
        0x63: Translator._branch,
        0x67: Translator._jalr,
        0x6F: Translator._jal,
    }
)


def _data_register(register: int) -> int:
    if register and not FIRST_IN_D <= register < REGISTERS:
        raise ConfigError(f"register x{register} has no place in TriCore's")
    return register


def _low(meant: Reference | None) -> Reference | None:
    """The signed low twelve bits."""
    return Reference(meant.name, meant.addend, "lo12") if meant else None


def place(offset: int) -> str:
    """The name of an instruction's place."""
    return f".text+{offset:#x}"


def read_object(file: bytes) -> dict[str, Section]:
    """The sections of a relocatable RV32E object: code translated, data with references, `.bss` as zeros."""
    elf = ELFFile(BytesIO(file))
    symbols = elf.get_section_by_name(".symtab")
    code = [number for number, section in enumerate(elf.iter_sections()) if section["sh_flags"] & SHF_EXECINSTR]
    if len(code) != 1 or not isinstance(symbols, SymbolTableSection):
        raise ConfigError(f"an object with {len(code)} sections of code, must have 1, and symbols")
    sections: dict[str, Section] = {}
    for number, section in enumerate(elf.iter_sections()):
        if not section["sh_flags"] & SHF_ALLOC:
            continue
        references = dict(_references(elf, section.name, symbols, code[0]))
        labels: dict[int, list[str]] = {}
        for symbol in symbols.iter_symbols():
            if symbol["st_shndx"] == number and symbol["st_info"]["bind"] == "STB_GLOBAL":
                labels.setdefault(symbol["st_value"], []).append(symbol.name)
        if number == code[0]:
            sections[section.name] = Translator(section.data(), references, labels).translate()
        else:
            data = bytes(section["sh_size"]) if section["sh_type"] == SHT_NOBITS else section.data()
            sections[section.name] = _data(section.name, section["sh_addralign"], data, references, labels)
    return sections


def _data(
    name: str, align: int, data: bytes, references: Mapping[int, tuple[int, Reference]], labels: Mapping[int, list[str]]
) -> Section:
    """Data in pieces between the labels in it."""
    if any(kind != R_32 for kind, _ in references.values()):
        raise ConfigError(f"section {name} has relocations other than addresses")
    items: list[Item] = [Align(align), Label(name)]
    cuts = sorted({0, *labels, len(data)})
    for first, last in pairwise([*cuts, len(data)]):
        items += [Label(label) for label in labels.get(first, ())]
        within = tuple((at - first, reference) for at, (_, reference) in references.items() if first <= at < last)
        items.append(Data(data[first:last], within))
    return Section(items)


def _references(
    elf: ELFFile, section: str, symbols: SymbolTableSection, code: int
) -> Iterator[tuple[int, tuple[int, Reference]]]:
    """Offset, type and meaning of each relocation of a section."""
    table = elf.get_section_by_name(f".rela{section}")
    if not isinstance(table, RelocationSection):
        return
    for relocation in table.iter_relocations():
        symbol = symbols.get_symbol(relocation["r_info_sym"])
        number, value = symbol["st_shndx"], symbol["st_value"] + relocation["r_addend"]
        if number == "SHN_UNDEF":
            meant = Reference(symbol.name, relocation["r_addend"])
        elif number == code:
            meant = Reference(place(value))
        else:
            meant = Reference(elf.get_section(number).name, value)
        yield relocation["r_offset"], (relocation["r_info_type"], meant)
