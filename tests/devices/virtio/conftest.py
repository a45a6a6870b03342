"""Disks on a file of random bytes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.devices.virtio.disk import CONTENT, Disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def disk(path: Path) -> Disk:
    return Disk(path).start()


@pytest.fixture
def read_only_disk(path: Path) -> Disk:
    return Disk(path, read_only=True).start()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
