"""The boards, by name. One folder for each ISA, the same file names in each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from emu.board import Board, Wiring
from emu.errors import ConfigError
from targets.riscv64.board import VirtBoard
from targets.x86.board import PcBoard

TARGETS: dict[str, Callable[[Wiring], Board]] = {
    "i386": partial(PcBoard, isa="i386"),
    "riscv64": VirtBoard,
    "x86_64": partial(PcBoard, isa="x86_64"),
}


def find_target(name: str) -> Callable[[Wiring], Board]:
    """The builder of a target's board; an unknown name is a ConfigError that lists the known ones."""
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is unknown, must be one of {', '.join(TARGETS)}")
    return TARGETS[name]
