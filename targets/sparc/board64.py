"""An UltraSPARC II on the small board, devices where its own boards have I/O. A guest finds the tree's address in o0."""

from __future__ import annotations

from emu.board import Wiring
from emu.clock import Clock
from emu.engine.core import Engine
from targets.goldfish import GoldfishBoard, Places
from targets.sparc.cpu64 import Sparc64Cpu

PLACES = Places(
    ram=0,
    pic=0x1FE_0000_0000,
    timer=0x1FE_0000_2000,
    uart=0x1FE_0000_4000,
    syscon=0x1FE_0000_6000,
    virtio=0x1FE_0001_0000,
    machine="EM_SPARCV9",
)


def sparc64_board(wiring: Wiring) -> GoldfishBoard:
    """The board of the target `sparc64`."""
    cpus: list[Sparc64Cpu] = []

    def build(engine: Engine, clock: Clock) -> Sparc64Cpu:
        cpus.append(Sparc64Cpu(engine, clock))
        return cpus[0]

    board = GoldfishBoard(wiring, isa="sparc64", places=PLACES, cpu=build, big_endian=True)
    cpus[0].memory = board.memory
    return board
