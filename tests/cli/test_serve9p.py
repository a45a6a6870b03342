"""`emu serve-9p` as other programs meet it: a socket, and its errors in one line."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.p9 import wire
from tests.devices.p9.test_stream import ATTACH, VERSION, reply
from tests.live.machines import WAIT, wait_for

ROOT = Path(__file__).parents[2]


def serve(*words: str) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "emu.cli.main", "serve-9p", *words)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The socket of a server of `tmp_path`."""
    process = serve(str(tmp_path), "--listen", f"unix:{tmp_path / 'socket'}")
    wait_for((tmp_path / "socket").exists, "the server listens")
    yield tmp_path / "socket"
    process.terminate()
    process.communicate(timeout=WAIT)


def test_clients_are_served_at_the_same_time_and_the_socket_is_the_users_own(served: Path) -> None:
    assert served.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for client in (first, second):
            client.settimeout(WAIT)
            client.connect(str(served))
            client.sendall(VERSION)
        for client in (first, second):
            client.sendall(ATTACH)
            assert [reply(client)[0] for _ in range(2)] == [wire.Type.VERSION + 1, wire.Type.ATTACH + 1]

    other = serve(str(served.parent), "--listen", f"unix:{served}")
    assert other.communicate(timeout=WAIT)[1] == f"emu: error: --listen unix:{served}: Address already in use\n"
    assert other.returncode == 1


def test_what_is_no_directory_is_told(tmp_path: Path) -> None:
    process = serve(str(tmp_path / "none"), "--listen", f"unix:{tmp_path / 'socket'}")
    assert process.communicate(timeout=WAIT)[1] == f"emu: error: share {tmp_path / 'none'}: No such file or directory\n"
    assert process.returncode == 1
