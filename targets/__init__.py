"""The boards, by name. One folder for each family of ISAs, the same file names in each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from emu.board import Board, Wiring
from emu.errors import ConfigError
from targets.arm.board import virt32, virt64
from targets.m68k.board import m68k_board
from targets.mips.board import MipsBoard
from targets.ppc.board import PpcBoard
from targets.riscv.board import VirtBoard
from targets.s390x.board import s390x_board
from targets.sparc.board import sparc_board
from targets.sparc.board64 import sparc64_board
from targets.tricore.board import tricore_board
from targets.x86.board import PcBoard

TARGETS: dict[str, Callable[[Wiring], Board]] = {
    "arm": virt32,
    "arm64": virt64,
    "i386": partial(PcBoard, isa="i386"),
    "m68k": m68k_board,
    "mips": partial(MipsBoard, isa="mips"),
    "mips64": partial(MipsBoard, isa="mips64"),
    "mips64el": partial(MipsBoard, isa="mips64el"),
    "mipsel": partial(MipsBoard, isa="mipsel"),
    "ppc": partial(PpcBoard, isa="ppc"),
    "ppc64": partial(PpcBoard, isa="ppc64"),
    "riscv32": partial(VirtBoard, isa="riscv32"),
    "riscv64": partial(VirtBoard, isa="riscv64"),
    "s390x": s390x_board,
    "sparc": sparc_board,
    "sparc64": sparc64_board,
    "tricore": tricore_board,
    "x86_64": partial(PcBoard, isa="x86_64"),
}


def find_target(name: str) -> Callable[[Wiring], Board]:
    """The builder of a target's board; an unknown name is a ConfigError that lists the known ones."""
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is unknown, must be one of {', '.join(TARGETS)}")
    return TARGETS[name]
