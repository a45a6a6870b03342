"""The vmstate language itself: what a declaration means on the wire, and what a stream is told when it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import msgpack
import pytest

from emu.errors import StateError
from migration.vmstate import (
    State,
    VMState,
    Wire,
    blob,
    describe,
    dump,
    flag,
    optional_u64,
    parse,
    struct,
    structs,
    subsection,
    text,
    u8,
    u16,
    u32,
    u32s,
    u64,
)


class Level(IntEnum):
    HIGH = 3


@dataclass(slots=True, kw_only=True)
class LoopState(State):
    VMSTATE: ClassVar[VMState] = VMState("loop", version=3, minimum=2)
    depth: int = u8(1)
    gain: int = u8(9, since=3)


@dataclass(slots=True, kw_only=True)
class PointState(State):
    VMSTATE: ClassVar[VMState] = VMState("point", version=1, minimum=1)
    x: int = u16()
    y: int = u16()

    def check(self) -> None:
        if self.x > self.y:
            raise StateError(f"point.x is {self.x}, must be at most y ({self.y})")


@dataclass(slots=True, kw_only=True)
class SampleState(State):
    VMSTATE: ClassVar[VMState] = VMState("sample", version=3, minimum=2)
    count: int = u32(5)
    level: int = u8(max=7)
    on: bool = flag()
    fifo: bytes = blob(max_len=4)
    label: str = text("none", max_len=6)
    deadline: int | None = optional_u64()
    words: list[int] = u32s(2, 1)
    origin: PointState = struct(PointState)
    corners: list[PointState] = structs(PointState, min_len=1, max_len=2)
    trim: int = u64(77, since=3)
    loop: LoopState = subsection(LoopState)


POINT: dict[str, Wire] = {"x": 0, "y": 0}
RESET: dict[str, Wire] = {
    "count": 5,
    "level": 0,
    "on": False,
    "fifo": b"",
    "label": "none",
    "deadline": None,
    "words": [1, 1],
    "origin": POINT,
    "corners": [POINT],
    "trim": 77,
}


def refusal(fields: Wire, version: int = 3) -> str:
    with pytest.raises(StateError) as caught:
        parse(SampleState, version, fields)
    return str(caught.value)


# The wire form


def test_dump_has_every_field_in_its_order_and_no_subsection_at_reset() -> None:
    wire = dump(SampleState())

    assert wire == RESET
    assert list(wire) == list(RESET)


def test_state_comes_back_through_msgpack() -> None:
    state = SampleState(
        count=2**32 - 1,
        level=7,
        on=True,
        fifo=b"\x00\xff",
        label="größe",
        deadline=2**64 - 1,
        words=[0, 2**32 - 1],
        origin=PointState(x=1, y=2),
        corners=[PointState(), PointState(y=3)],
        trim=0,
        loop=LoopState(depth=8),
    )

    wire = msgpack.unpackb(msgpack.packb(dump(state)))

    assert parse(SampleState, 3, wire) == state


def test_equal_states_dump_to_the_same_bytes() -> None:
    here, there = SampleState(fifo=b"ab"), SampleState(fifo=bytearray(b"ab"))

    assert msgpack.packb(dump(here)) == msgpack.packb(dump(there))


def test_enumerated_value_is_a_plain_number_on_the_wire() -> None:
    wire = dump(SampleState(level=Level.HIGH))

    assert type(wire["level"]) is int
    assert parse(SampleState, 3, wire) == SampleState(level=Level.HIGH)


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_value_that_is_no_integer_is_not_dumped(value: object) -> None:
    with pytest.raises(StateError, match=r"sample\.level is .*, must be an integer"):
        dump(SampleState(level=value))  # type: ignore[arg-type]  # the point of the test


def test_fresh_states_share_nothing() -> None:
    one, other = SampleState(), SampleState()
    one.words[0] = 9
    one.origin.y = 9
    one.corners[0].y = 9
    one.loop.depth = 9

    assert other == SampleState()


def test_misspelt_field_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        SampleState().cuont = 1  # type: ignore[attr-defined]  # the point of the test


def test_parse_builds_a_new_state() -> None:
    state = SampleState()
    wire = dump(state)

    parsed = parse(SampleState, 3, wire)
    parsed.words[0] = 9

    assert state.words == [1, 1]
    assert wire == RESET


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (SampleState(level=8), "sample.level is 0x8, must be 0..0x7"),
        (SampleState(count=-1), "sample.count is -0x1, must be 0..0xffffffff"),
        (SampleState(fifo=bytes(5)), "sample.fifo has 5 bytes, must have 0..4"),
        (SampleState(words=[1]), "sample.words has 1 items, must have 2..2"),
        (SampleState(words=[1, 2**32]), "sample.words[1] is 0x100000000, must be 0..0xffffffff"),
        (SampleState(origin=PointState(x=2, y=1)), "point.x is 2, must be at most y (1)"),
    ],
)
def test_state_that_could_not_be_loaded_is_not_dumped(state: SampleState, text: str) -> None:
    with pytest.raises(StateError) as caught:
        dump(state)

    assert str(caught.value) == text


# Versions


def test_older_version_leaves_added_fields_at_reset() -> None:
    older = {name: value for name, value in RESET.items() if name != "trim"}

    assert parse(SampleState, 2, {**older, "count": 6}) == SampleState(count=6, trim=77)


def test_field_of_a_later_version_is_unknown_to_an_older_one() -> None:
    assert refusal(RESET, version=2) == "sample.'trim' is unknown to version 2"


@pytest.mark.parametrize("version", [1, 4, 0, -1, 2**64])
def test_version_out_of_range_is_refused_with_all_numbers(version: int) -> None:
    assert refusal(RESET, version) == f"sample has version {version} in the stream, this build reads 2..3"


# Subsections


def test_subsection_is_sent_only_while_it_differs_from_reset() -> None:
    different, same = SampleState(loop=LoopState(depth=2)), SampleState(loop=LoopState(depth=1))

    assert dump(different)["subsections"] == {"loop": [3, {"depth": 2, "gain": 9}]}
    assert "subsections" not in dump(same)


def test_absent_subsection_is_at_reset() -> None:
    assert parse(SampleState, 3, RESET).loop == LoopState()


def test_subsection_has_a_version_of_its_own() -> None:
    wire: dict[str, Wire] = {**RESET, "subsections": {"loop": [2, {"depth": 4}]}}

    assert parse(SampleState, 3, wire).loop == LoopState(depth=4, gain=9)


@pytest.mark.parametrize(
    ("subsections", "text"),
    [
        ({"pool": [1, {}]}, "sample has an unknown subsection 'pool'"),
        ({"count": [1, {}]}, "sample has an unknown subsection 'count'"),
        ({"loop": [3]}, "sample.loop must be [version, fields]"),
        ({"loop": [True, {}]}, "sample.loop must be [version, fields]"),
        ({"loop": {"depth": 1}}, "sample.loop must be [version, fields]"),
        ({"loop": [4, {}]}, "loop has version 4 in the stream, this build reads 2..3"),
        ({"loop": [1, {}]}, "loop has version 1 in the stream, this build reads 2..3"),
        ({"loop": [3, None]}, "sample.loop is None, must be a map of fields"),
        ({"loop": [3, {"depth": 256, "gain": 0}]}, "sample.loop.depth is 0x100, must be 0..0xff"),
        ({"loop": [3, {"depth": 1}]}, "sample.loop.gain is missing"),
        ([], "sample.subsections is a list of 0, must be a map"),
        (None, "sample.subsections is None, must be a map"),
    ],
)
def test_wrong_subsection_is_refused(subsections: Wire, text: str) -> None:
    assert refusal({**RESET, "subsections": subsections}) == text


# What is refused


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("count", 2**32, "sample.count is 0x100000000, must be 0..0xffffffff"),
        ("count", -1, "sample.count is -0x1, must be 0..0xffffffff"),
        ("count", True, "sample.count is True, must be an integer"),
        ("count", 1.0, "sample.count is 1.0, must be an integer"),
        ("level", 8, "sample.level is 0x8, must be 0..0x7"),
        ("on", 1, "sample.on is 1, must be true or false"),
        ("fifo", b"abcde", "sample.fifo has 5 bytes, must have 0..4"),
        ("fifo", "abc", "sample.fifo is 'abc', must be bytes"),
        ("label", "toolong", "sample.label has 7 characters, must have 0..6"),
        ("label", b"x", "sample.label is b'x', must be text"),
        ("deadline", 2**64, "sample.deadline is 0x10000000000000000, must be 0..0xffffffffffffffff"),
        ("words", [1], "sample.words has 1 items, must have 2..2"),
        ("words", [1, -1], "sample.words[1] is -0x1, must be 0..0xffffffff"),
        ("words", None, "sample.words is None, must be a list"),
        ("origin", {"x": 0}, "sample.origin.y is missing"),
        ("origin", {"x": 2, "y": 1}, "point.x is 2, must be at most y (1)"),
        ("origin", {"x": 0, "y": 0, "z": 0}, "sample.origin.'z' is unknown to version 1"),
        ("corners", [], "sample.corners has 0 items, must have 1..2"),
        ("corners", [POINT, {"x": 0, "y": 2**16}], "sample.corners[1].y is 0x10000, must be 0..0xffff"),
    ],
)
def test_wrong_field_is_refused_by_name_value_and_bound(field: str, value: Wire, text: str) -> None:
    assert refusal({**RESET, field: value}) == text


def test_missing_field_is_named() -> None:
    assert refusal({name: value for name, value in RESET.items() if name != "fifo"}) == "sample.fifo is missing"


def test_unknown_field_is_named() -> None:
    assert refusal({**RESET, "fufo": b""}) == "sample.'fufo' is unknown to version 3"


@pytest.mark.parametrize(
    ("fields", "shown"), [([], "a list of 0"), (None, "None"), (b"x" * 1000, "b'" + "x" * 35 + "..."), (7, "7")]
)
def test_section_that_is_no_map_is_refused(fields: Wire, shown: str) -> None:
    assert refusal(fields) == f"sample is {shown}, must be a map of fields"


def test_error_never_spells_out_what_came_in() -> None:
    deep: Wire = None
    for _ in range(100_000):
        deep = [deep]

    assert refusal({**RESET, "count": deep}) == "sample.count is a list of 1, must be an integer"


# The description


def test_description_names_type_and_limits_of_every_field() -> None:
    point: dict[str, Wire] = {
        "x": {"since": 1, "type": "u16", "max": 0xFFFF},
        "y": {"since": 1, "type": "u16", "max": 0xFFFF},
    }

    assert describe(SampleState) == {
        "count": {"since": 1, "type": "u32", "max": 0xFFFF_FFFF},
        "level": {"since": 1, "type": "u8", "max": 7},
        "on": {"since": 1, "type": "flag"},
        "fifo": {"since": 1, "type": "blob", "min_len": 0, "max_len": 4},
        "label": {"since": 1, "type": "text", "max_len": 6},
        "deadline": {"since": 1, "type": "optional", "item": {"type": "u64", "max": 2**64 - 1}},
        "words": {"since": 1, "type": "list", "min_len": 2, "max_len": 2, "item": {"type": "u32", "max": 0xFFFF_FFFF}},
        "origin": {"since": 1, "type": "struct", "fields": point},
        "corners": {"since": 1, "type": "list", "min_len": 1, "max_len": 2, "item": {"type": "struct", "fields": point}},
        "trim": {"since": 3, "type": "u64", "max": 2**64 - 1},
        "loop": {
            "since": 1,
            "type": "subsection",
            "version": 3,
            "fields": {
                "depth": {"since": 1, "type": "u8", "max": 255},
                "gain": {"since": 3, "type": "u8", "max": 255},
            },
        },
    }
