"""One suite over every state there is: what one of them promises, all keep.

A new one is held to this without being named here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import StateError, StreamError
from migration.stream import unpack
from migration.vmstate import State, Wire, describe, dump, parse
from tests.migration.states import BUILT, STATES, Schema, accepted, bad_fields, consistent, every_state, garbage


def refusal(cls: type[State], version: int, wire: Wire) -> str:
    with pytest.raises(StateError) as caught:
        parse(cls, version, wire)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


# Declarations


def test_there_is_something_to_test() -> None:
    assert {"ClintState", "Ns16550State", "PlicState", "Riscv32State", "Riscv64State", "ClockState"} <= {
        cls.__name__ for cls in STATES
    }


def test_every_state_has_a_name_of_its_own() -> None:
    names = [cls.VMSTATE.name for cls in STATES]

    assert sorted(names) == sorted(set(names))


@every_state
def test_versions_are_in_order(cls: type[State]) -> None:
    header = cls.VMSTATE

    assert 1 <= header.minimum <= header.version
    assert all(1 <= schema["since"] <= header.version for schema in cast(Schema, describe(cls)).values())


def nested_fields(fields: Schema) -> Iterator[tuple[str, Schema]]:
    """Fields of states inside states, which have no version of their own on the wire."""
    for schema in fields.values():
        inner = schema.get("item", schema)
        if inner["type"] == "struct":
            yield from inner["fields"].items()
            yield from nested_fields(inner["fields"])


@every_state
def test_states_inside_states_grow_by_subsections_alone(cls: type[State]) -> None:
    assert [name for name, schema in nested_fields(cast(Schema, describe(cls))) if schema["since"] > 1] == []


@every_state
def test_states_inside_states_carry_no_subsections(cls: type[State]) -> None:
    assert [name for name, schema in nested_fields(cast(Schema, describe(cls))) if schema["type"] == "subsection"] == []


# Round trips


@every_state
def test_fresh_state_equals_reset(cls: type[State]) -> None:
    wire = dump(cls())

    assert parse(cls, cls.VMSTATE.version, wire) == cls() == cls()
    assert "subsections" not in wire


@every_state
@given(data=st.data())
@BUILT
def test_built_state_round_trips_through_a_stream(cls: type[State], data: st.DataObject) -> None:
    state = parse(cls, cls.VMSTATE.version, data.draw(consistent(cls)))

    packed = msgpack.packb(dump(state))
    again = parse(cls, cls.VMSTATE.version, unpack(memoryview(packed), "SECTION"))

    assert again == state
    assert msgpack.packb(dump(again)) == packed


# Hostile streams


@every_state
def test_section_cut_at_any_byte_is_refused(cls: type[State]) -> None:
    packed = cast(bytes, msgpack.packb(dump(cls())))

    for size in range(len(packed)):
        with pytest.raises(StreamError):
            unpack(memoryview(packed)[:size], "SECTION")


@every_state
def test_one_wrong_field_at_a_time_is_refused_and_named(cls: type[State]) -> None:
    reset = dump(cls())

    for path, wire in bad_fields(cast(Schema, describe(cls)), cls.VMSTATE.name, reset):
        assert refusal(cls, cls.VMSTATE.version, wire).startswith(f"{path} ")


@every_state
def test_one_wrong_field_of_a_subsection_is_refused_and_named(cls: type[State]) -> None:
    reset = dump(cls())
    sent = {name: schema for name, schema in cast(Schema, describe(cls)).items() if schema["type"] == "subsection"}

    for name, schema in sent.items():
        fields = dump(getattr(cls(), name))
        for path, wire in bad_fields(schema["fields"], f"{cls.VMSTATE.name}.{name}", fields):
            section: dict[str, Wire] = {**reset, "subsections": {name: [schema["version"], wire]}}
            assert refusal(cls, cls.VMSTATE.version, section).startswith(f"{path} ")


@every_state
def test_missing_field_is_refused_and_named(cls: type[State]) -> None:
    reset = dump(cls())

    for name in reset:
        rest = {other: value for other, value in reset.items() if other != name}
        assert refusal(cls, cls.VMSTATE.version, rest) == f"{cls.VMSTATE.name}.{name} is missing"


@every_state
def test_unknown_field_is_refused_and_named(cls: type[State]) -> None:
    version = cls.VMSTATE.version

    text = refusal(cls, version, {**dump(cls()), "stowaway": 1})

    assert text == f"{cls.VMSTATE.name}.'stowaway' is unknown to version {version}"


@every_state
def test_unknown_subsection_is_refused_and_named(cls: type[State]) -> None:
    text = refusal(cls, cls.VMSTATE.version, {**dump(cls()), "subsections": {"stowaway": [1, {}]}})

    assert text == f"{cls.VMSTATE.name} has an unknown subsection 'stowaway'"


@every_state
@pytest.mark.parametrize("subsections", [None, [], 1, b"", [["loop", 1]]])
def test_malformed_subsections_are_refused(cls: type[State], subsections: Wire) -> None:
    text = refusal(cls, cls.VMSTATE.version, {**dump(cls()), "subsections": subsections})

    assert text.startswith(f"{cls.VMSTATE.name}.subsections is ")


@every_state
@pytest.mark.parametrize("entry", [None, {}, [], [1], [1, {}, {}], ["1", {}], [True, {}]])
def test_malformed_subsection_is_refused_and_named(cls: type[State], entry: Wire) -> None:
    names = [name for name, schema in cast(Schema, describe(cls)).items() if schema["type"] == "subsection"]

    for name in names:
        text = refusal(cls, cls.VMSTATE.version, {**dump(cls()), "subsections": {name: entry}})
        assert text == f"{cls.VMSTATE.name}.{name} must be [version, fields]"


@every_state
def test_version_outside_the_range_is_refused_with_all_numbers(cls: type[State]) -> None:
    header = cls.VMSTATE

    for version in (header.version + 1, header.minimum - 1):
        assert refusal(cls, version, dump(cls())) == (
            f"{header.name} has version {version} in the stream, this build reads {header.minimum}..{header.version}"
        )


@every_state
@given(data=st.data())
@BUILT
def test_garbage_is_refused_or_is_a_state(cls: type[State], data: st.DataObject) -> None:
    wire: dict[str, Wire] = dump(cls())
    spoilt = data.draw(st.sampled_from([*wire, "subsections", "stowaway"]))
    sections = data.draw(st.tuples(garbage, garbage.map(lambda value: {**wire, spoilt: value})))

    # Anything but a StateError would come through `accepted`, and what it accepts can be sent on.
    for section in filter(functools.partial(accepted, cls), sections):
        state = parse(cls, cls.VMSTATE.version, section)
        assert parse(cls, cls.VMSTATE.version, dump(state)) == state


@every_state
@given(packed=st.binary(max_size=64))
@BUILT
def test_random_bytes_are_refused(cls: type[State], packed: bytes) -> None:
    with pytest.raises((StateError, StreamError)):
        parse(cls, cls.VMSTATE.version, {**unpack(memoryview(packed), "SECTION"), "stowaway": 1})
