"""A z/Architecture CPU on the small board. A guest finds the device tree's address in r2, and is entered in the 64-bit mode.

The architecture has no I/O by loads and stores; on this engine they reach the devices all the same, at addresses above RAM.
"""

from __future__ import annotations

from emu.board import Wiring
from emu.clock import Clock
from emu.engine.core import Engine
from targets.goldfish import GoldfishBoard, Places
from targets.s390x.cpu import S390xCpu

PLACES = Places(
    ram=0,
    pic=0x1_0000_0000,
    timer=0x1_0000_1000,
    uart=0x1_0000_2000,
    syscon=0x1_0000_3000,
    virtio=0x1_0001_0000,
    machine="EM_S390",
)


def s390x_board(wiring: Wiring) -> GoldfishBoard:
    """The board of the target `s390x`."""
    cpus: list[S390xCpu] = []

    def build(engine: Engine, _clock: Clock) -> S390xCpu:
        cpus.append(S390xCpu(engine))
        return cpus[0]

    board = GoldfishBoard(wiring, isa="s390x", places=PLACES, cpu=build, big_endian=True)
    cpus[0].memory = board.memory
    return board
