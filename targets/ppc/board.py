"""The small board with a PowerPC CPU: RAM from 0 on, where the exception vectors are, and devices in the last 256 MiB."""

from __future__ import annotations

from dataclasses import replace

from emu.board import Wiring
from targets.goldfish import GoldfishBoard, Places
from targets.ppc.cpu import PpcCpu

PLACES = Places(
    machine="EM_PPC",
    ram=0,
    pic=0xF000_0000,
    timer=0xF000_1000,
    uart=0xF000_2000,
    syscon=0xF000_3000,
    virtio=0xF000_4000,
)


class PpcBoard(GoldfishBoard):
    """Implements emu.board.Board."""

    def __init__(self, wiring: Wiring) -> None:
        isa = wiring.config.target
        places = PLACES if isa == "ppc" else replace(PLACES, machine="EM_PPC64")
        super().__init__(wiring, isa=isa, places=places, cpu=PpcCpu, big_endian=True)
