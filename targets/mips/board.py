"""The small board with a MIPS CPU: RAM from 0 on, devices below 512 MiB, so that kseg0 and kseg1 reach them all."""

from __future__ import annotations

from dataclasses import replace

from emu.board import Wiring
from targets.goldfish import GoldfishBoard, Places
from targets.mips.cpu import UNMAPPED, MipsCpu

PLACES = Places(
    machine="EM_MIPS",
    address_bits=UNMAPPED,
    ram=0,
    pic=0x1E00_0000,
    timer=0x1E00_1000,
    uart=0x1E00_2000,
    syscon=0x1E00_3000,
    virtio=0x1E00_4000,
)


class MipsBoard(GoldfishBoard):
    """Implements emu.board.Board."""

    def __init__(self, wiring: Wiring) -> None:
        isa = wiring.config.target
        places = replace(PLACES, bits=64 if "64" in isa else 32)
        super().__init__(wiring, isa=isa, places=places, cpu=MipsCpu, big_endian=not isa.endswith("el"))
