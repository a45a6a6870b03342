"""The boards, by name. One folder for each ISA, the same file names in each."""

from __future__ import annotations

from collections.abc import Callable

from emu.board import Board, Wiring
from emu.errors import ConfigError
from targets.m68k.board import m68k_board
from targets.riscv64.board import VirtBoard

TARGETS: dict[str, Callable[[Wiring], Board]] = {
    "riscv64": VirtBoard,
    "m68k": m68k_board,
}


def find_target(name: str) -> Callable[[Wiring], Board]:
    """The builder of a target's board; an unknown name is a ConfigError that lists the known ones."""
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is unknown, must be one of {', '.join(TARGETS)}")
    return TARGETS[name]
