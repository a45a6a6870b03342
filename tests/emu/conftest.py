"""Machines whose guests are a few instructions, and what several of the tests need."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.config import DriveConfig, MachineConfig, ShareConfig
from emu.machine import Machine
from targets import find_target
from tests.devices.fakes import MemoryChardev

MIB = 1 << 20
SPIN = bytes.fromhex("6f000000")  # j .
Build = Callable[..., Machine]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds machines whose kernel is `code`."""
    machines: list[Machine] = []

    def begin(
        code: bytes = SPIN,
        *,
        incoming: bool = False,
        drives: tuple[DriveConfig, ...] = (),
        shares: tuple[ShareConfig, ...] = (),
    ) -> Machine:
        (tmp_path / "kernel").write_bytes(code)
        config = MachineConfig(
            target="riscv64",
            memory=16 * MIB,
            kernel=tmp_path / "kernel",
            drives=drives,
            shares=shares,
            snapshots=tmp_path / "snapshots",
        )
        machines.append(Machine(config, find_target("riscv64"), MemoryChardev(), incoming=incoming))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power does not fail here, and a disk that is to survive that would take most of the time."""
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def drive(tmp_path: Path) -> DriveConfig:
    (tmp_path / "disk").write_bytes(bytes(4096))
    return DriveConfig(path=str(tmp_path / "disk"), id="drive0")
