from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu.qmp.legacy import QEMUMonitorProtocol

from emu.config import DriveConfig
from emu.monitor.command import Context
from emu.monitor.qmp import QmpServer
from tests.monitor.clients import RawClient
from tests.monitor.fakes import FakeMachine, LoopThread


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path, None, DriveConfig(path=str(tmp_path / "disk.raw"), id="drive0"))


@pytest.fixture
def exit_codes() -> list[int]:
    """What `quit` was called with."""
    return []


@pytest.fixture
def ctx(machine: FakeMachine, exit_codes: list[int]) -> Context:
    return Context(machine, exit_codes.append, started_at=1_700_000_000.5)


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture
def server(ctx: Context, loop: LoopThread, tmp_path: Path) -> Iterator[QmpServer]:
    server = QmpServer(ctx, f"unix:{tmp_path / 'qmp.sock'}", now_ns=lambda: 1_234_567_890_987_654_321)
    loop.run(server.start())
    yield server
    loop.run(server.close())


@pytest.fixture
def qmp(server: QmpServer) -> Iterator[QEMUMonitorProtocol]:
    """QEMU's own client, past the negotiation."""
    with QEMUMonitorProtocol(server.uri.removeprefix("unix:")) as client:
        client.connect()
        yield client


@pytest.fixture
def raw(server: QmpServer) -> Iterator[RawClient]:
    """A client that sends what it likes, past the negotiation."""
    client = RawClient(server)
    yield client
    client.close()
