"""What POSIX says of files, as a Linux program of 329 checks for each architecture that mounts shares (posix.c).

`python -m tests.live.posix` makes the ELF files beside this one, as those of tests/live/probe.
"""

from __future__ import annotations

from pathlib import Path

from tests.live.probe import compile_program

FOLDER = Path(__file__).parent
ARCHITECTURES = ("riscv64", "arm64", "amd64")


def posix_path(arch: str) -> Path:
    """Where the program for an architecture is."""
    return FOLDER / f"{arch}.elf"


def compile_posix(arch: str) -> bytes:
    """The ELF file for an architecture, made from the sources; ConfigError if that cannot be done here."""
    return compile_program(FOLDER / "posix.c", arch)
