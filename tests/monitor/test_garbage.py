"""Whatever a client sends, it gets an answer, and the next one is served."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.monitor.command import Kind
from emu.monitor.commands import COMMANDS
from emu.monitor.qmp import MAX_LINE, QmpServer
from tests.monitor.clients import RawClient, generic
from tests.monitor.fakes import UUID

MARK = b'\n{"execute": "query-uuid", "id": "mark"}\n'
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
OF_KIND = {
    Kind.STRING: st.text(),
    Kind.BOOL: st.booleans(),
    Kind.INT: st.integers(-(1 << 65), 1 << 65),
    Kind.ARRAY: st.lists(JSON, max_size=4),
}


@st.composite
def commands(draw: st.DrawFn) -> dict[str, object]:
    """A known command with arguments of the right names, and mostly of the right types."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    chosen = [parameter for parameter in COMMANDS[name].parameters if draw(st.booleans())]
    arguments = {parameter.name: draw(OF_KIND[parameter.kind] | JSON) for parameter in chosen}
    return {"execute": name, "arguments": arguments}


def up_to_mark(client: RawClient) -> list[dict[str, object]]:
    return [*iter(client.receive, {"return": {"UUID": UUID}, "id": "mark"})]


@QUICK
@given(st.binary(max_size=300) | st.text('{}[]":,\\\n0aeu ', max_size=100).map(str.encode))
def test_garbage_gets_errors_and_the_connection_lives_on(server: QmpServer, garbage: bytes) -> None:
    client = RawClient(server)
    client.send(garbage + MARK)
    answers = up_to_mark(client)
    client.close()
    assert all(answer.keys() == {"error"} for answer in answers)


@QUICK
@given(commands())
def test_arguments_of_any_kind_never_meet_a_bug(server: QmpServer, message: dict[str, object]) -> None:
    client = RawClient(server)
    client.send(json.dumps(message).encode() + MARK)
    answers = up_to_mark(client)
    client.close()
    assert len([answer for answer in answers if "event" not in answer]) == 1
    assert "internal error" not in json.dumps(answers)


@QUICK
@given(JSON)
def test_any_json_is_answered_once(server: QmpServer, value: object) -> None:
    client = RawClient(server)
    client.send(json.dumps(value).encode() + MARK)
    answers = up_to_mark(client)
    client.close()
    assert [next(iter(answer)) for answer in answers] == ["error"]


@pytest.mark.parametrize("size", [MAX_LINE + 1, 10 * MAX_LINE])
def test_a_flood_without_a_newline_is_refused_once(raw: RawClient, size: int) -> None:
    raw.send(b"x" * size)
    refused = raw.receive()
    raw.send(b"x" * size + MARK)
    assert refused == generic(f"JSON parse error, a line is longer than {MAX_LINE} bytes")
    assert up_to_mark(raw) == []
