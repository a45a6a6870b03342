"""The blocking client of `emu ctl`, `ls` and `pull`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.monitor import client as client_module
from emu.monitor.client import QmpCallError, qmp_call
from emu.monitor.qmp import QmpServer
from tests.monitor.fakes import FakeMachine

GREETING = b'{"QMP": {}}\r\n'
AGREED = b'{"return": {}}\r\n'


@pytest.fixture
def serve(tmp_path: Path) -> Callable[[bytes], Path]:
    """Make a server that says what it is given to whoever connects, and hangs up."""

    def start(said: bytes) -> Path:
        path = tmp_path / "broken"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen(1)

        def speak() -> None:
            with server, server.accept()[0] as peer:
                peer.sendall(said)
                peer.shutdown(socket.SHUT_WR)
                peer.makefile().read()

        threading.Thread(target=speak, daemon=True).start()
        return path

    return start


def path_of(server: QmpServer) -> Path:
    return Path(server.uri.removeprefix("unix:"))


def test_a_command_is_answered(server: QmpServer) -> None:
    assert qmp_call(path_of(server), "query-name") == {"name": "guest"}


def test_arguments_are_sent_and_events_are_read_past(server: QmpServer, machine: FakeMachine) -> None:
    assert qmp_call(str(path_of(server)), "human-monitor-command", {"command-line": "stop"}, timeout=10) == ""
    assert machine.calls == ["stop"]


def test_a_refusal_is_an_error_with_the_servers_words(server: QmpServer) -> None:
    with pytest.raises(QmpCallError) as refusal:
        qmp_call(path_of(server), "migrate-continue", {"state": "active"})
    assert str(refusal.value) == "the migration is in status none, it can be continued only in pre-switchover"


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QmpCallError, match="query-name: No such file or directory"):
        qmp_call(tmp_path / "nobody", "query-name")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"", "the QMP server hung up"),
        (GREETING, "the QMP server hung up"),
        (GREETING + AGREED, "the QMP server hung up"),
        (b"SSH-2.0\r\n", "the QMP server sent what is no JSON: b'SSH-2.0"),
        (b"[" * 90_000 + b"\n", r"the QMP server sent what is no JSON: b'\[\["),
        (b"[]\n", r"the QMP server sent no object: b'\[\]"),
        (GREETING + b"{}\n", "the server's answer has neither 'return' nor 'error'"),
        (GREETING + b'{"error": 1}\n', "the server's answer has neither 'return' nor 'error'"),
    ],
)
def test_a_server_that_speaks_no_qmp_is_one_line(serve: Callable[[bytes], Path], said: bytes, text: str) -> None:
    with pytest.raises(QmpCallError, match=text):
        qmp_call(serve(said), "query-name", timeout=10)


def test_an_answer_without_an_end_is_not_kept(serve: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER", 1000)
    with pytest.raises(QmpCallError, match="sent a line of more than 1000 bytes"):
        qmp_call(serve(b"x" * 5000), "query-name", timeout=10)


def test_a_server_that_says_nothing_runs_into_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen(1)
        with pytest.raises(QmpCallError, match="timed out"):
            qmp_call(tmp_path / "mute", "query-name", timeout=0.05)
