"""A 68040 on the small board, its devices where QEMU's m68k `virt` has them. A guest finds the device tree's address in a0."""

from __future__ import annotations

from emu.board import Wiring
from targets.goldfish import GoldfishBoard, Places
from targets.m68k.cpu import M68kCpu

PLACES = Places(
    ram=0,
    pic=0xFF00_0000,
    timer=0xFF00_6000,
    uart=0xFF00_8000,
    syscon=0xFF00_9000,
    virtio=0xFF01_0000,
    machine="EM_68K",
)


def m68k_board(wiring: Wiring) -> GoldfishBoard:
    """The board of the target `m68k`."""
    return GoldfishBoard(wiring, isa="m68k", places=PLACES, cpu=lambda engine, _clock: M68kCpu(engine), big_endian=True)
