"""A share between a directory with secrets around it, and its clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.p9.beneath import Resolve, best, by_names, by_openat2
from tests.devices.p9.client import Client

SECRET = b"secret"
NewClient = Callable[..., Client]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """The shared directory; beside it are a file `secret` and a directory `outside` with another."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    share = tmp_path / "share"
    share.mkdir()
    return share


@pytest.fixture
def connect(share: Path) -> Iterator[NewClient]:
    """Makes clients of the share: connect(readonly=True), connect(mapped=True), …"""
    clients: list[Client] = []

    def new(**options: object) -> Client:
        clients.append(Client(share, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield new
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: NewClient) -> Client:
    return connect()


@pytest.fixture(params=[by_openat2, by_names], ids=["openat2", "by-names"])
def resolve(request: pytest.FixtureRequest) -> Resolve:
    found: Resolve = request.param
    if found is by_openat2 and best() is not by_openat2:
        pytest.skip("this kernel has no openat2")
    return found


def witness(folder: Path, share: Path) -> list[object]:
    """All that is beside the share, as it is."""
    found: list[object] = []
    beside = [entry for entry in folder.iterdir() if entry != share]  # the share itself may be changing just now
    for path in sorted([*beside, *(below for entry in beside for below in entry.rglob("*"))]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found.append((path, content, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, os.listxattr(path)))
    return found
