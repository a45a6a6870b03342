"""What several of the tests need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.emu.block.nbd.server import FakeServer


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., FakeServer]]:
    """Starts servers in this process: fake(option=...)."""
    servers: list[FakeServer] = []

    def start(**options: object) -> FakeServer:
        servers.append(FakeServer(tmp_path / f"fake{len(servers)}", **options))  # type: ignore[arg-type]  # passed on as they are
        return servers[-1]

    yield start
    for server in servers:
        server.close()
