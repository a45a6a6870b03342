"""The boards, by name. One folder for each ISA, the same file names in each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from emu.board import Board, Wiring
from emu.errors import ConfigError
from targets.mips.board import MipsBoard
from targets.ppc.board import PpcBoard
from targets.riscv64.board import VirtBoard

TARGETS: dict[str, Callable[[Wiring], Board]] = {
    "mips": partial(MipsBoard, isa="mips"),
    "mips64": partial(MipsBoard, isa="mips64"),
    "mips64el": partial(MipsBoard, isa="mips64el"),
    "mipsel": partial(MipsBoard, isa="mipsel"),
    "ppc": partial(PpcBoard, isa="ppc"),
    "ppc64": partial(PpcBoard, isa="ppc64"),
    "riscv64": VirtBoard,
}


def find_target(name: str) -> Callable[[Wiring], Board]:
    """The builder of a target's board; an unknown name is a ConfigError that lists the known ones."""
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is unknown, must be one of {', '.join(TARGETS)}")
    return TARGETS[name]
