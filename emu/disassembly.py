"""Machine code as text, by capstone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from emu.errors import ConfigError

if TYPE_CHECKING:
    from emu.engine.core import Engine

# Capstone's architecture, and its modes together, by the engine's name of an ISA; or of another kind of code that it has.
CAPSTONE: dict[str, tuple[str, tuple[str, ...]]] = {
    "arm": ("CS_ARCH_ARM", ("CS_MODE_ARM", "CS_MODE_LITTLE_ENDIAN")),
    "arm64": ("CS_ARCH_ARM64", ("CS_MODE_LITTLE_ENDIAN",)),
    "i386": ("CS_ARCH_X86", ("CS_MODE_32",)),
    "i8086": ("CS_ARCH_X86", ("CS_MODE_16",)),
    "m68k": ("CS_ARCH_M68K", ("CS_MODE_M68K_040", "CS_MODE_BIG_ENDIAN")),
    "mips": ("CS_ARCH_MIPS", ("CS_MODE_MIPS32", "CS_MODE_BIG_ENDIAN")),
    "mips64": ("CS_ARCH_MIPS", ("CS_MODE_MIPS64", "CS_MODE_BIG_ENDIAN")),
    "mips64el": ("CS_ARCH_MIPS", ("CS_MODE_MIPS64", "CS_MODE_LITTLE_ENDIAN")),
    "mipsel": ("CS_ARCH_MIPS", ("CS_MODE_MIPS32", "CS_MODE_LITTLE_ENDIAN")),
    "ppc": ("CS_ARCH_PPC", ("CS_MODE_32", "CS_MODE_BIG_ENDIAN")),
    "ppc64": ("CS_ARCH_PPC", ("CS_MODE_64", "CS_MODE_BIG_ENDIAN")),
    "riscv32": ("CS_ARCH_RISCV", ("CS_MODE_RISCV32", "CS_MODE_RISCVC")),
    "riscv64": ("CS_ARCH_RISCV", ("CS_MODE_RISCV64", "CS_MODE_RISCVC")),
    "s390x": ("CS_ARCH_SYSZ", ("CS_MODE_BIG_ENDIAN",)),
    "sparc": ("CS_ARCH_SPARC", ("CS_MODE_BIG_ENDIAN",)),
    "sparc64": ("CS_ARCH_SPARC", ("CS_MODE_V9", "CS_MODE_BIG_ENDIAN")),
    "thumb": ("CS_ARCH_ARM", ("CS_MODE_THUMB", "CS_MODE_LITTLE_ENDIAN")),
    "tricore": ("CS_ARCH_TRICORE", ("CS_MODE_TRICORE_162", "CS_MODE_LITTLE_ENDIAN")),
    "x86_64": ("CS_ARCH_X86", ("CS_MODE_64",)),
}
CS32, CS64 = 1 << 4, 1 << 15  # of QEMU's hflags
LONGEST = 16  # bytes; no instruction of any ISA is longer


class Disassembler:
    """Tells what machine code of one kind means."""

    def __init__(self, isa: str) -> None:
        """ConfigError when there is no disassembler for `isa`."""
        if isa not in CAPSTONE:
            raise ConfigError(f"no disassembler for {isa!r}, there are {', '.join(sorted(CAPSTONE))}")
        import capstone  # 25 ms that a guest nobody looks into does not have to wait for

        arch, modes = CAPSTONE[isa]
        self._engine = capstone.Cs(getattr(capstone, arch), sum(getattr(capstone, mode) for mode in modes))
        self._engine.skipdata = True  # what is no instruction becomes .byte

    def lines(self, address: int, code: bytes, count: int = 0) -> Iterator[str]:
        """A line for each instruction of `code`, which lies at `address`; `count` at most, if it is not 0."""
        for at, size, mnemonic, operands in self._engine.disasm_lite(code, address, count):
            data = code[at - address : at - address + size]
            yield f"0x{at:08x}:  {data.hex(' '):<11}  {mnemonic} {operands}".rstrip()


def code_of(engine: Engine) -> str:
    """The kind of code that the CPU is in, for `disassembler`; between slices or at a block's head."""
    match engine.isa:
        case "arm64" if engine.field("aarch64").value:
            return "arm64"
        case "arm" | "arm64":
            return "thumb" if engine.field("thumb").value else "arm"
        case "i386" | "x86_64":
            mode = engine.field("hflags").value
            return "x86_64" if mode & CS64 else "i386" if mode & CS32 else "i8086"
        case isa:
            return isa


@cache
def disassembler(isa: str) -> Disassembler:
    """The disassembler of a kind of code."""
    return Disassembler(isa)
