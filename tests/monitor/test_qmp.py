"""QMP itself: negotiation, framing, events, the socket."""

from __future__ import annotations

import json
import socket
import stat
import threading
from pathlib import Path

import pytest
from qemu.qmp.legacy import QEMUMonitorProtocol

from emu.errors import ConfigError
from emu.monitor import qmp as qmp_module
from emu.monitor.client import qmp_call
from emu.monitor.command import Context
from emu.monitor.qmp import MAX_CLIENTS, MAX_LINE, QmpServer
from tests.monitor.clients import WAIT, RawClient, events, generic, not_found
from tests.monitor.fakes import UUID, FakeMachine, LoopThread


def test_the_greeting_names_a_version_that_clients_know(server: QmpServer) -> None:
    greeting = RawClient(server, negotiate=False).greeting["QMP"]
    assert greeting["version"]["qemu"] == {"major": 10, "minor": 0, "micro": 0}
    assert greeting["version"]["package"].startswith("emu ")
    assert greeting["capabilities"] == []


def test_before_negotiation_every_other_command_is_refused(server: QmpServer) -> None:
    client = RawClient(server, negotiate=False)
    expecting = not_found("Expecting capabilities negotiation with 'qmp_capabilities'")
    assert [client.ask(b'{"execute": "stop"}'), client.ask(b'{"execute": "nonsense"}')] == [expecting, expecting]


def test_negotiation_happens_once(raw: RawClient) -> None:
    again = raw.ask(b'{"execute": "qmp_capabilities"}')
    assert raw.answers == [{"return": {}}]
    assert again == not_found("Capabilities negotiation is already complete, command ignored")


def test_a_capability_that_is_not_there_leaves_the_client_outside(server: QmpServer) -> None:
    client = RawClient(server, negotiate=False)
    assert client.ask(b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}') == generic(
        "Capability 'oob' not available"
    )
    assert "error" in client.ask(b'{"execute": "query-status"}')


@pytest.mark.parametrize("echoed", ["a", 1, 1.5, None, [1, {"b": False}], {"c": "\U0001f600"}])
def test_any_id_is_echoed_with_answers_and_errors(raw: RawClient, echoed: object) -> None:
    good = raw.ask(json.dumps({"execute": "query-uuid", "id": echoed}).encode())
    bad = raw.ask(json.dumps({"execute": "nonsense", "id": echoed}).encode())
    assert good == {"return": {"UUID": UUID}, "id": echoed}
    assert bad == not_found("The command nonsense has not been found") | {"id": echoed}


@pytest.mark.parametrize(
    ("message", "desc"),
    [
        (b"[1]", "QMP input must be a JSON object"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b'{"execute": 1}', "QMP input member 'execute' must be a string"),
        (b'{"execute": "stop", "arguments": []}', "QMP input member 'arguments' must be an object"),
        (b'{"execute": "stop", "x": 1}', "QMP input member 'x' is unexpected"),
        (b'{"exec-oob": "stop"}', "QMP input member 'exec-oob' is unexpected"),
        (b'{"execute": "stop", "arguments": {"now": 1}}', "Parameter 'now' is unexpected"),
        (b'{"execute": "migrate-continue"}', "Parameter 'state' is missing"),
        (b'{"execute": "migrate-continue", "arguments": {"state": "x"}}', "Parameter 'state' does not accept value 'x'"),
    ],
)
def test_a_message_that_is_no_command_is_refused_in_qemus_words(raw: RawClient, message: bytes, desc: str) -> None:
    assert raw.ask(message + b"\n") == generic(desc)


@pytest.mark.parametrize(
    "junk",
    [
        b"{bad",
        b"}",
        b'{"execute"',
        b'"',
        b"\xff\xfe",
        b"NaN",
        b"[" * 60_000,
        b"9" * 6000,
        b'{"a": 1, "a": 2}',
    ],
)  # fmt: skip  # a line for each case
def test_after_malformed_json_the_connection_lives_on(raw: RawClient, junk: bytes) -> None:
    raw.send(junk + b"\n" + b'{"execute": "query-name", "id": "mark"}\n')
    refused, answered = raw.receive(), raw.receive()
    assert str(refused["error"]["desc"]).startswith("JSON parse error, ")
    assert answered == {"return": {"name": "guest"}, "id": "mark"}


def test_what_stands_before_the_malformed_part_of_a_line_is_carried_out(raw: RawClient) -> None:
    raw.send(b'{"execute": "query-name", "id": 1} } {"execute": "query-name", "id": 2}\n')
    raw.send(b'{"execute": "query-name", "id": 3}\n')
    answers = [raw.receive() for _answer in range(3)]
    assert [answer.get("id") for answer in answers] == [1, None, 3]
    assert str(answers[1]["error"]["desc"]).startswith("JSON parse error, ")


def test_a_line_that_is_too_long_is_skipped_up_to_its_end(raw: RawClient) -> None:
    raw.send(b'{"execute": "' + b"x" * (4 * MAX_LINE) + b'"}\n{"execute": "query-name"}\n')
    assert raw.receive() == generic(f"JSON parse error, a line is longer than {MAX_LINE} bytes")
    assert raw.receive() == {"return": {"name": "guest"}}


def test_messages_need_no_newline_between_them(raw: RawClient) -> None:
    raw.send(b'{"execute": "query-name", "id": 1}{"execute": "query-name", "id": 2} {"execute": "query-')
    raw.send(b'name", "id": 3}')
    assert [raw.receive()["id"] for _answer in range(3)] == [1, 2, 3]


def test_clients_come_and_go_at_once(server: QmpServer) -> None:
    first, second = RawClient(server), RawClient(server)
    first.send(b'{"execute": "stop"')
    first.close()
    assert second.ask(b'{"execute": "query-name"}') == {"return": {"name": "guest"}}


def test_more_clients_than_the_bound_are_hung_up_on(server: QmpServer) -> None:
    clients = [RawClient(server) for _client in range(MAX_CLIENTS)]
    with socket.socket(socket.AF_UNIX) as late:
        late.settimeout(WAIT)
        late.connect(server.uri.removeprefix("unix:"))
        assert late.recv(1) == b""
    assert clients[0].ask(b'{"execute": "query-name"}') == {"return": {"name": "guest"}}


def test_a_client_that_reads_nothing_is_cut_off_and_the_others_stay(
    server: QmpServer, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_module, "MAX_UNSENT", 1000)
    deaf = RawClient(server)
    machine.events.emit("NOISE", {"text": "x" * (4 << 20)})
    other = RawClient(server)
    assert other.ask(b'{"execute": "query-name"}') == {"return": {"name": "guest"}}
    with pytest.raises((AssertionError, ConnectionError)):
        deaf.receive()


def test_events_wait_for_the_negotiation(server: QmpServer, machine: FakeMachine) -> None:
    client = RawClient(server, negotiate=False)
    machine.events.emit("RESET", {"guest": True})
    assert client.ask(b'{"execute": "qmp_capabilities"}') == {"return": {}}


def test_an_event_from_another_thread_arrives_with_its_data(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    thread = threading.Thread(target=machine.events.emit, args=("RESET", {"guest": True}))
    thread.start()
    assert events(qmp, 1) == [("RESET", {"guest": True})]
    thread.join()


def test_quit_is_answered_before_the_process_ends(raw: RawClient, ctx: Context, server: QmpServer, loop: LoopThread) -> None:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        loop.loop.call_soon_threadsafe(lambda: loop.loop.create_task(server.close()))

    ctx.quit = leave
    told = raw.ask(b'{"execute": "quit"}')
    answer = raw.receive()

    assert (told["event"], told["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    assert (answer, codes) == ({"return": {}}, [0])
    assert raw.hung_up()


def test_a_unix_socket_is_its_users_alone_and_goes_with_the_server(server: QmpServer, loop: LoopThread) -> None:
    path = Path(server.uri.removeprefix("unix:"))
    mode = stat.S_IMODE(path.stat().st_mode)
    loop.run(server.close())
    assert mode == 0o600
    assert not path.exists()


def test_a_socket_left_by_a_dead_process_is_replaced(ctx: Context, loop: LoopThread, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "left"))
    server = QmpServer(ctx, f"unix:{tmp_path / 'left'}")
    loop.run(server.start())
    assert qmp_call(tmp_path / "left", "query-name") == {"name": "guest"}
    loop.run(server.close())


def test_a_socket_where_somebody_listens_is_left_alone(ctx: Context, server: QmpServer, loop: LoopThread) -> None:
    with pytest.raises(ConfigError, match=r"QMP cannot be served at unix:.*: Address already in use"):
        loop.run(QmpServer(ctx, server.uri).start())
    assert qmp_call(server.uri.removeprefix("unix:"), "query-name") == {"name": "guest"}


def test_a_file_in_the_sockets_place_is_left_alone(ctx: Context, loop: LoopThread, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="Address already in use"):
        loop.run(QmpServer(ctx, f"unix:{tmp_path / 'file'}").start())
    assert (tmp_path / "file").read_text() == "kept"


def test_tcp_says_which_port_was_chosen(ctx: Context, loop: LoopThread) -> None:
    server = QmpServer(ctx, "tcp:127.0.0.1:0")
    loop.run(server.start())
    with QEMUMonitorProtocol(("127.0.0.1", int(server.uri.rpartition(":")[2]))) as client:
        client.connect()
        assert client.cmd("query-name") == {"name": "guest"}
    loop.run(server.close())


@pytest.mark.parametrize("uri", ["unix:", "tcp:1", "tcp:host:", "tcp:host:65536", "exec:cat", "x", ""])
def test_an_address_of_another_kind_is_refused(ctx: Context, uri: str) -> None:
    with pytest.raises(ConfigError, match="must be unix:PATH or tcp:HOST:PORT"):
        QmpServer(ctx, uri)
