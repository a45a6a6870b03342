"""The small board: which kernels and how much memory it takes, and how it starts them."""

from __future__ import annotations

import pytest

from emu.config import MachineConfig
from emu.errors import ConfigError
from emu.machine import Machine
from images import bundled
from targets import TARGETS, find_target
from targets.goldfish import GoldfishBoard
from tests.devices.fakes import MemoryChardev

MIB = 1 << 20
SMALL = [name for name in TARGETS if name.startswith(("mips", "ppc"))]


def build(target: str, kernel: str, memory: int = 16 * MIB) -> Machine:
    with bundled(f"{kernel}-tiny").kernel() as path:
        return Machine(MachineConfig(target=target, kernel=path, memory=memory), find_target(target), MemoryChardev())


@pytest.mark.parametrize("target", SMALL)
def test_the_tree_is_where_the_cpu_is_told_and_memory_is_what_was_asked_for(target: str) -> None:
    machine = build(target, target)
    board = machine.board
    assert isinstance(board, GoldfishBoard)
    tree = board.cpu.registers()[f"r{5 if target.startswith('mips') else 3}"] & 0x1FFF_FFFF

    assert board.memory.read(tree, 4) == b"\xd0\x0d\xfe\xed"
    assert tree + 4096 <= 16 * MIB
    machine.close()


@pytest.mark.parametrize("target", SMALL)
def test_ram_that_would_reach_the_devices_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=rf"memory is 8192 MiB, target {target} takes \d+ MiB at most"):
        build(target, target, memory=8192 * MIB)


def test_ram_that_is_not_made_of_whole_pages_of_the_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory is 16781312 bytes, must be a multiple of 8192 for sparc64"):
        build("sparc64", "sparc64", memory=16 * MIB + 4096)


@pytest.mark.parametrize(
    ("target", "kernel", "told"),
    [
        ("mips", "ppc", "is for EM_PPC, this machine needs EM_MIPS"),
        ("mips", "mipsel", "has 32 bits, little-endian, this machine needs another"),
        ("mips64", "mips", "has 32 bits, big-endian, this machine needs another"),
    ],
)
def test_a_kernel_for_another_cpu_is_refused(target: str, kernel: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(target, kernel)
