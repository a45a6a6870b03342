"""Disks on a file of random bytes, and shared directories."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devices.virtio.workers import Executor
from tests.devices.virtio.disk import CONTENT, Disk
from tests.devices.virtio.share import FILE, Begin, Share


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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(FILE)
    return tmp_path


@pytest.fixture
def begin(root: Path) -> Iterator[Begin]:
    shares: list[Share] = []

    def new(executor: Executor, **options: bool) -> Share:
        shares.append(Share(root, executor, **options))
        return shares[-1]

    yield new
    for share in shares:
        share.driver.device.reset()
        share.files.close()
