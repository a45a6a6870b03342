"""Small Linux programs for the guests, made of C sources beside this file with Debian's cross compilers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

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


@cache
def compile_program(source: str, name: str) -> bytes:
    """An ELF file for the ISA `name` of one C file in this folder and what it includes; skips the test without a compiler."""
    isa, path = ISAS[name], FOLDER / source
    compiler = shutil.which(isa.compiler)
    if compiler is None:
        pytest.skip(f"{isa.compiler} ({isa.package}) is not installed")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "program")
        command = [compiler, *FLAGS, *isa.flags, *LINK_FLAGS, path.name, "-o", str(output)]
        done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=BUILD_LIMIT, check=False)
        assert not done.returncode, f"{isa.compiler} ended with {done.returncode} on {source}:\n{done.stderr.rstrip()}"
        return output.read_bytes()
