"""A TC1797 on the small board, and its own system control unit. A guest finds the device tree's address in a4.

RAM is where its boards have flash: context save areas must lie in the first 4 MiB of a segment of 256 MiB.
"""

from __future__ import annotations

from devices.tc1797_scu import Tc1797Scu
from emu.board import Wiring
from emu.clock import Clock
from emu.engine.core import Engine
from targets.goldfish import PAGE, GoldfishBoard, Places
from targets.tricore.cpu import TriCoreCpu

PLACES = Places(
    ram=0x8000_0000,
    pic=0xE000_0000,
    timer=0xE000_4000,
    uart=0xE000_8000,
    syscon=0xE000_C000,
    virtio=0xE001_0000,
    machine="EM_TRICORE",
)
SCU = 0xF000_0000


def tricore_board(wiring: Wiring) -> GoldfishBoard:
    """The board of the target `tricore`."""
    cpus: list[TriCoreCpu] = []

    def build(engine: Engine, clock: Clock) -> TriCoreCpu:
        cpus.append(TriCoreCpu(engine, clock))
        return cpus[0]

    board = GoldfishBoard(wiring, isa="tricore", places=PLACES, cpu=build, big_endian=False)
    cpus[0].memory = board.memory
    board.attach(SCU, PAGE, Tc1797Scu(f"scu@{SCU:x}", on_idle=cpus[0].idle))
    return board
