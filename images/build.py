"""Builds the tiny guest for each ISA with Debian's cross compilers; the same sources and compiler give the same bytes.

`python -m images.build` writes images/*-tiny.elf; `python -m images.build --check` writes nothing and compares.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emu.errors import ConfigError, EmuError
from images.tricore.link import link

IMAGES = Path(__file__).parent
SOURCES = IMAGES / "tiny"

BUILD_LIMIT = 120.0  # seconds; it takes two


@dataclass(frozen=True, slots=True, kw_only=True)
class Isa:
    """How one ISA's image is made."""

    folders: tuple[str, ...]  # of its port, in images/tiny
    compiler: str
    package: str  # Debian's, named when the compiler is missing
    link_address: int
    flags: tuple[str, ...]
    libraries: tuple[str, ...] = ()  # behind the sources
    link: Callable[[bytes, list[Path], int], bytes] | None = None  # makes the image of object, assembly and address; None: ld


MIPS_FLAGS = ("-mno-abicalls", "-G0", "-msoft-float", "-mno-mips16", "-mno-dsp")


def _mips(name: str, abi: str) -> Isa:
    """MIPS release 2, 32 or 64 bits, either byte order."""
    wide = "64" in name
    return Isa(
        folders=("mips", "goldfish") if wide else ("mips", "goldfish", "div64"),
        compiler=f"{name}-linux-{abi}-gcc",
        package=f"gcc-{name}-linux-{abi}",
        link_address=0x10_0000,
        flags=(
            *MIPS_FLAGS,
            *(("-march=mips64r2", "-mabi=64") if wide else ("-march=mips32r2", "-mabi=32")),
            f'-DARCH_NAME="{name}"',
        ),
    )


ISAS: dict[str, Isa] = {
    "i386": Isa(
        folders=("i386", "pc"),
        compiler="i686-linux-gnu-gcc",
        package="gcc-i686-linux-gnu",
        link_address=0x10_0000,
        flags=("-march=i686", "-mgeneral-regs-only", "-fcf-protection=none", "-DVIRTIO_PCI"),
        libraries=("-lgcc",),  # 64-bit division
    ),
    "mips": _mips("mips", "gnu"),
    "mips64": _mips("mips64", "gnuabi64"),
    "mips64el": _mips("mips64el", "gnuabi64"),
    "mipsel": _mips("mipsel", "gnu"),
    "ppc": Isa(
        folders=("ppc", "goldfish", "div64"),
        compiler="powerpc-linux-gnu-gcc",
        package="gcc-powerpc-linux-gnu",
        link_address=0x10_0000,
        flags=("-mcpu=7400", "-mno-altivec", "-msoft-float", "-msdata=none", '-DARCH_NAME="ppc"'),
    ),
    "ppc64": Isa(
        folders=("ppc", "goldfish"),
        compiler="powerpc64-linux-gnu-gcc",
        package="gcc-powerpc64-linux-gnu",
        link_address=0x10_0000,
        flags=("-mcpu=power9", "-mabi=elfv2", "-mno-altivec", "-mno-vsx", "-msoft-float", '-DARCH_NAME="ppc64"'),
    ),
    "riscv32": Isa(
        folders=("riscv",),
        compiler="riscv64-linux-gnu-gcc",
        package="gcc-riscv64-linux-gnu",
        link_address=0x8040_0000,  # where Linux's Image goes too
        flags=("-march=rv32imac_zicsr", "-mabi=ilp32", "-mcmodel=medany", "-Wl,--no-relax", "-Wl,-melf32lriscv"),
    ),
    "riscv64": Isa(
        folders=("riscv",),
        compiler="riscv64-linux-gnu-gcc",
        package="gcc-riscv64-linux-gnu",
        link_address=0x8020_0000,  # where Linux's Image goes too
        flags=("-march=rv64imac_zicsr", "-mabi=lp64", "-mcmodel=medany", "-Wl,--no-relax"),
    ),
    "m68k": Isa(
        folders=("m68k", "goldfish", "div64"),
        compiler="m68k-linux-gnu-gcc",
        package="gcc-m68k-linux-gnu",
        link_address=0x1000,
        flags=("-mcpu=68040",),
    ),
    "sparc": Isa(
        folders=("sparc", "goldfish", "div64", "bswap"),
        compiler="sparc64-linux-gnu-gcc",
        package="gcc-sparc64-linux-gnu",
        link_address=0x4000_1000,
        flags=("-m32", "-mcpu=leon3", "-mflat"),
    ),
    "sparc64": Isa(
        folders=("sparc64", "goldfish", "bswap"),
        compiler="sparc64-linux-gnu-gcc",
        package="gcc-sparc64-linux-gnu",
        link_address=0x10_0000,  # a multiple of 32 KiB, as its trap table's address
        flags=("-m64", "-mcpu=ultrasparc", "-mcmodel=medlow", "-mno-fpu", "-mflat"),
    ),
    "s390x": Isa(
        folders=("s390x", "goldfish"),
        compiler="s390x-linux-gnu-gcc",
        package="gcc-s390x-linux-gnu",
        link_address=0x1_0000,
        flags=("-march=z10", "-msoft-float"),
    ),
    "tricore": Isa(
        folders=("tricore", "goldfish", "div64"),
        compiler="riscv64-linux-gnu-gcc",
        package="gcc-riscv64-linux-gnu",
        link_address=0x8010_0000,
        flags=("-march=rv32em", "-mabi=ilp32e", "-mno-div", "-mcmodel=medlow", "-mno-relax", "-fno-jump-tables"),
        link=link,
    ),
    "arm64": Isa(
        folders=("armvirt", "arm64"),
        compiler="aarch64-linux-gnu-gcc",
        package="gcc-aarch64-linux-gnu",
        link_address=0x4020_0000,  # where Linux's Image goes too
        flags=("-march=armv8-a", "-mgeneral-regs-only", "-mstrict-align", "-mno-outline-atomics"),
    ),
    "arm": Isa(
        folders=("armvirt", "arm"),
        compiler="arm-linux-gnueabihf-gcc",
        package="gcc-arm-linux-gnueabihf",
        link_address=0x4020_0000,
        flags=("-march=armv7-a+fp", "-marm", "-mgeneral-regs-only", "-mno-unaligned-access"),
        libraries=("-lgcc",),  # division
    ),
    "x86_64": Isa(
        folders=("x86_64", "pc"),
        compiler="x86_64-linux-gnu-gcc",
        package="gcc",
        link_address=0x10_0000,
        flags=("-m64", "-mno-red-zone", "-mgeneral-regs-only", "-fcf-protection=none", "-DVIRTIO_PCI"),
    ),
}

FLAGS = (
    "-std=c11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-fno-asynchronous-unwind-tables",
    "-fno-tree-loop-distribute-patterns",  # memcpy's own loop must not become a call of memcpy
)
LINK_FLAGS = (
    "-static",
    "-no-pie",
    "-nostdlib",
    "-Wl,--discard-locals",  # functions keep their names, for whoever looks into the guest
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-z,noexecstack",
    "-Wl,-T,tiny.ld",
)


def image_path(name: str) -> Path:
    """Where the image of the ISA `name` belongs."""
    return IMAGES / f"{name}-tiny.elf"


def compile_image(name: str) -> bytes:
    """The ELF file of the ISA `name`, made from the sources; ConfigError if that cannot be done here."""
    isa = ISAS[name]
    compiler = shutil.which(isa.compiler)
    if compiler is None:
        raise ConfigError(f"{isa.compiler} is not installed; Debian's package is {isa.package}")
    sources = [
        str(path.relative_to(SOURCES)) for folder in (*isa.folders, ".") for path in sorted((SOURCES / folder).glob("*.[cS]"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "tiny.elf"
        # Objects of lasting names, for they get into the symbol table.
        command = [compiler, *FLAGS, *isa.flags, f"-ffile-prefix-map={SOURCES}=.", "-save-temps=obj"]
        if isa.link is None:
            command += [*LINK_FLAGS, f"-Wl,--defsym=LINK_ADDRESS={isa.link_address}"]
        else:
            command += ["-r", "-nostdlib", "-Wl,-melf32lriscv"]
        command += [*sources, *isa.libraries, "-o", str(output)]
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, timeout=BUILD_LIMIT, check=False)
        if done.returncode:
            raise ConfigError(f"{isa.compiler} ended with {done.returncode} on images/tiny for {name}:\n{done.stderr.rstrip()}")
        made = output.read_bytes()
        if isa.link is None:
            return made
        return isa.link(
            made, sorted(path for folder in isa.folders for path in (SOURCES / folder).glob("*.s")), isa.link_address
        )


def check_image(name: str) -> None:
    """Raises ConfigError unless the image of the ISA `name` is what its sources give."""
    path = image_path(name)
    built = compile_image(name)
    stored = path.read_bytes() if path.exists() else b""
    if stored != built:
        raise ConfigError(f"{path.name} has {len(stored)} bytes that differ from the {len(built)} its sources give here")


def main(arguments: list[str] | None = None) -> int:
    """Builds or checks all images, or those named; 0, or 1 and one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m images.build", description="Build the tiny guest.")
    parser.add_argument("isa", nargs="*", metavar="ISA", help=f"one of {', '.join(ISAS)}; all by default")
    parser.add_argument("--check", action="store_true", help="rebuild and compare with the stored images")
    options = parser.parse_args(arguments)
    names: list[str] = options.isa or list(ISAS)
    try:
        for name in names:
            if name not in ISAS:
                raise ConfigError(f"no ISA {name}; known are {', '.join(ISAS)}")
            if options.check:
                check_image(name)
            else:
                image_path(name).write_bytes(compile_image(name))
            print(f"{image_path(name).name}: {'same bytes' if options.check else 'written'}")
    except EmuError as error:
        print(f"images.build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
