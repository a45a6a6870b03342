"""Data and holes of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.block.image import open_image
from emu.block.sparse import data_runs

MIB = 1 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """16 MiB with data in the fourth and the ninth."""
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 16 * MIB)
    os.pwrite(fd, b"\xff" * MIB, 3 * MIB)
    os.pwrite(fd, b"\xff" * MIB, 8 * MIB)
    yield fd
    os.close(fd)


def covers(runs: list[tuple[int, int]], offset: int) -> bool:
    return any(start <= offset < start + length for start, length in runs)


def test_all_data_is_in_the_runs(fd: int) -> None:
    runs = list(data_runs(fd, 0, 16 * MIB))

    assert covers(runs, 3 * MIB)
    assert covers(runs, 4 * MIB - 1)
    assert covers(runs, 8 * MIB)


def test_runs_stay_inside_the_range_asked_for(fd: int) -> None:
    runs = list(data_runs(fd, 3 * MIB + 4096, 8 * MIB + 4096))

    assert all(start >= 3 * MIB + 4096 and start + length <= 8 * MIB + 4096 for start, length in runs)
    assert covers(runs, 8 * MIB)


def test_a_device_that_knows_no_holes_is_one_run() -> None:
    fd = os.open("/dev/zero", os.O_RDONLY)

    runs = list(data_runs(fd, 0, 8192))
    os.close(fd)

    assert runs == [(0, 8192)]


@pytest.mark.usefixtures("fd")
def test_an_image_tells_its_data(tmp_path: Path) -> None:
    image = open_image(str(tmp_path / "disk"), "raw", read_only=True, active=False)

    runs = list(image.data_runs())
    image.close()

    assert covers(runs, 3 * MIB)


@pytest.mark.usefixtures("fd")
def test_a_cached_read_tells_whether_it_has_the_data(tmp_path: Path) -> None:
    image = open_image(str(tmp_path / "disk"), "raw", read_only=True, active=False)
    buffer = bytearray(8)

    cached = image.readv_cached(3 * MIB, [memoryview(buffer)])
    image.close()

    assert cached == (buffer == b"\xff" * 8)  # not every file system can answer at once
