"""A small Linux program for each ISA, and how it is built (docs of what it does: probe.c).

`python -m tests.live.probe` makes the ELF files beside this one with Debian's cross compilers; they are kept, so that the tests
need none.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from emu.errors import ConfigError
from images.build import BUILD_LIMIT, FLAGS

FOLDER = Path(__file__).parent
LINK_FLAGS = ("-static", "-no-pie", "-nostdlib", "-s", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,noseparate-code")


@dataclass(frozen=True, slots=True)
class Isa:
    """How one ISA's program is made."""

    compiler: str
    package: str  # Debian's
    flags: tuple[str, ...]


ARM = "arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf"
ISAS: dict[str, Isa] = {
    "riscv64": Isa(
        "riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu", ("-march=rv64ima_zifencei", "-mabi=lp64", "-Wl,--no-relax")
    ),
    "arm64": Isa("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", ("-march=armv8-a", "-mgeneral-regs-only")),
    "amd64": Isa("x86_64-linux-gnu-gcc", "gcc", ("-m64", "-mgeneral-regs-only", "-fcf-protection=none")),
    "armhf": Isa(*ARM, ("-march=armv7-a+fp", "-marm", "-mgeneral-regs-only")),
    "thumb": Isa(*ARM, ("-march=armv7-a+fp", "-mthumb", "-mgeneral-regs-only")),
    "i386": Isa("i686-linux-gnu-gcc", "gcc-i686-linux-gnu", ("-march=i686", "-mgeneral-regs-only", "-fcf-protection=none")),
}


def probe_path(name: str) -> Path:
    """Where the program for the ISA `name` is."""
    return FOLDER / f"{name}.elf"


def compile_probe(name: str) -> bytes:
    """The ELF file for the ISA `name`, made from the sources; ConfigError if that cannot be done here."""
    return compile_program(FOLDER / "probe.c", name)


def compile_program(source: Path, name: str) -> bytes:
    """An ELF file for the ISA `name` of one C file and what it includes; ConfigError if that cannot be done here."""
    isa = ISAS[name]
    compiler = shutil.which(isa.compiler)
    if compiler is None:
        raise ConfigError(f"{isa.compiler} is not installed; Debian's package is {isa.package}")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "program")
        options = [*FLAGS, *isa.flags, *LINK_FLAGS, f"-ffile-prefix-map={source.parent}=."]
        command = [compiler, *options, source.name, "-o", str(output)]
        done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, timeout=BUILD_LIMIT, check=False)
        if done.returncode:
            raise ConfigError(
                f"{isa.compiler} ended with {done.returncode} on {source.name} for {name}:\n{done.stderr.rstrip()}"
            )
        return output.read_bytes()
