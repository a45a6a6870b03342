"""A LEON3 on the small board, RAM and devices where its own boards have them. A guest finds the device tree's address in o0."""

from __future__ import annotations

from emu.board import Wiring
from targets.goldfish import GoldfishBoard, Places
from targets.sparc.cpu import SparcCpu

PLACES = Places(
    ram=0x4000_0000,
    pic=0x8000_0000,
    timer=0x8000_1000,
    uart=0x8000_2000,
    syscon=0x8000_3000,
    virtio=0x8001_0000,
    machine="EM_SPARC",
)


def sparc_board(wiring: Wiring) -> GoldfishBoard:
    """The board of the target `sparc`."""
    return GoldfishBoard(wiring, isa="sparc", places=PLACES, cpu=lambda engine, _clock: SparcCpu(engine), big_endian=True)
