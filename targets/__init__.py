"""The boards, by name. One folder for each family of ISAs, the same file names in each."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import cast

from emu.board import Board, Wiring
from emu.errors import ConfigError

# Where each is; only what a machine is built of gets imported.
TARGETS = {
    "arm": "targets.arm.board:virt32",
    "arm64": "targets.arm.board:virt64",
    "i386": "targets.x86.board:PcBoard",
    "m68k": "targets.m68k.board:m68k_board",
    "mips": "targets.mips.board:MipsBoard",
    "mips64": "targets.mips.board:MipsBoard",
    "mips64el": "targets.mips.board:MipsBoard",
    "mipsel": "targets.mips.board:MipsBoard",
    "ppc": "targets.ppc.board:PpcBoard",
    "ppc64": "targets.ppc.board:PpcBoard",
    "riscv32": "targets.riscv.board:VirtBoard",
    "riscv64": "targets.riscv.board:VirtBoard",
    "s390x": "targets.s390x.board:s390x_board",
    "sparc": "targets.sparc.board:sparc_board",
    "sparc64": "targets.sparc.board64:sparc64_board",
    "tricore": "targets.tricore.board:tricore_board",
    "x86_64": "targets.x86.board:PcBoard",
}


def find_target(name: str) -> Callable[[Wiring], Board]:
    """The builder of a target's board; an unknown name is a ConfigError that lists the known ones."""
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is unknown, must be one of {', '.join(TARGETS)}")
    return cast(Callable[[Wiring], Board], resolve_name(TARGETS[name]))
