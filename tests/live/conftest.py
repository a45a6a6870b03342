"""Machines of one test, all gone at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.machines import EmuProcess

Start = Callable[..., EmuProcess]

DISK_SIZE = 32 << 20  # sparse; room for the records that a guest writes while it is moved a hundred times


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty raw disk."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(DISK_SIZE)
    return path


@pytest.fixture
def start(tmp_path: Path, disk: Path) -> Iterator[Start]:
    """Starts `emu run riscv64-tiny` with the disk, unless `options` have theirs: start(name, *options, fault=None)."""
    machines: list[EmuProcess] = []

    def begin(name: str, *options: str, **how: object) -> EmuProcess:
        drive = () if "--drive" in options else ("--drive", str(disk))
        machine = EmuProcess(tmp_path, name, "riscv64-tiny", "--memory", "16M", *drive, *options, **how)  # type: ignore[arg-type]  # passed on as they are
        machines.append(machine)
        return machine

    yield begin
    for machine in machines:
        machine.close()
