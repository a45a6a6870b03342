"""A share between a directory with secrets around it, and its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
