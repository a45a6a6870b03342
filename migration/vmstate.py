"""The vmstate language: one declaration is a state's type, reset value, wire form, limits and equality.

    @dataclass(slots=True, kw_only=True)
    class RtcState(State):
        VMSTATE: ClassVar[VMState] = VMState("rtc", version=2, minimum=1)
        alarm: int = u64()
        flags: int = u8(0x10, max=0x1F)
        trim: int = u16(since=2)                        # a version 1 stream leaves it at its reset value
        fifo: bytes = blob(max_len=16)
        loopback: LoopState = subsection(LoopState)     # on the wire only while it differs from its reset value

A state is plain data. `dump` turns it into msgpack-able values; `parse` builds a new object from values that come from
outside, trusting nothing: every error is a StateError that names section.field, value and bound. Version rule: fields are only
ever added, with `since=`; one that goes away raises `minimum`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, TypeAlias, TypeVar, cast

from emu.errors import StateError

Wire: TypeAlias = "int | bool | bytes | str | list[Wire] | dict[str, Wire] | None"
StateT = TypeVar("StateT", bound="State")

SUBSECTIONS = "subsections"  # reserved key in a dumped state
_METADATA = "vmstate"


@dataclass(frozen=True, slots=True)
class VMState:
    """Name and version of a section; this build reads versions `minimum` to `version` and writes `version`."""

    name: str
    version: int
    minimum: int

    def check_version(self, version: int) -> None:
        """Raise StateError when this build cannot read `version`."""
        if not self.minimum <= version <= self.version:
            raise StateError(
                f"{self.name} has version {version} in the stream, this build reads {self.minimum}..{self.version}"
            )


class State:
    """Base of every state: a slotted, keyword-only dataclass whose fields come from this module."""

    __slots__ = ()
    VMSTATE: ClassVar[VMState]

    def check(self) -> None:
        """Raise StateError when fields that are each in bounds do not fit together."""


class Codec(ABC):
    """How one field goes to the wire and comes back."""

    since: int = 1

    def dump(self, value: object, path: str) -> Wire:
        """The wire form of `value`; a value this codec would refuse to parse is refused here too."""
        self.parse(cast(Wire, value), path)
        return cast(Wire, value)

    @abstractmethod
    def parse(self, wire: Wire, path: str) -> object:
        """The field's value; raises StateError naming `path`, value and bound."""

    @abstractmethod
    def describe(self) -> Wire:
        """The field's schema for the description at a stream's end."""


@dataclass(frozen=True, slots=True)
class _Integer(Codec):
    bits: int
    maximum: int
    since: int = 1

    def parse(self, wire: Wire, path: str) -> int:
        if type(wire) is not int:
            raise StateError(f"{path} is {_short(wire)}, must be an integer")
        if not 0 <= wire <= self.maximum:
            raise StateError(f"{path} is {wire:#x}, must be 0..{self.maximum:#x}")
        return wire

    def dump(self, value: object, path: str) -> Wire:
        # A device may keep a member of an IntEnum; the wire has plain numbers.
        return self.parse(int(value) if isinstance(value, IntEnum) else cast(Wire, value), path)

    def describe(self) -> Wire:
        return {"type": f"u{self.bits}", "max": self.maximum}


@dataclass(frozen=True, slots=True)
class _Flag(Codec):
    since: int = 1

    def parse(self, wire: Wire, path: str) -> bool:
        if type(wire) is not bool:
            raise StateError(f"{path} is {_short(wire)}, must be true or false")
        return wire

    def describe(self) -> Wire:
        return {"type": "flag"}


@dataclass(frozen=True, slots=True)
class _Blob(Codec):
    min_len: int
    max_len: int
    since: int = 1

    def parse(self, wire: Wire, path: str) -> bytes:
        if not isinstance(wire, bytes):
            raise StateError(f"{path} is {_short(wire)}, must be bytes")
        if not self.min_len <= len(wire) <= self.max_len:
            raise StateError(f"{path} has {len(wire)} bytes, must have {self.min_len}..{self.max_len}")
        return wire

    def dump(self, value: object, path: str) -> Wire:
        return self.parse(bytes(cast(bytes, value)), path)

    def describe(self) -> Wire:
        return {"type": "blob", "min_len": self.min_len, "max_len": self.max_len}


@dataclass(frozen=True, slots=True)
class _Text(Codec):
    max_len: int
    since: int = 1

    def parse(self, wire: Wire, path: str) -> str:
        if not isinstance(wire, str):
            raise StateError(f"{path} is {_short(wire)}, must be text")
        if len(wire) > self.max_len:
            raise StateError(f"{path} has {len(wire)} characters, must have 0..{self.max_len}")
        return wire

    def describe(self) -> Wire:
        return {"type": "text", "max_len": self.max_len}


@dataclass(frozen=True, slots=True)
class _Optional(Codec):
    item: Codec
    since: int = 1

    def parse(self, wire: Wire, path: str) -> object:
        return None if wire is None else self.item.parse(wire, path)

    def dump(self, value: object, path: str) -> Wire:
        return None if value is None else self.item.dump(value, path)

    def describe(self) -> Wire:
        return {"type": "optional", "item": self.item.describe()}


@dataclass(frozen=True, slots=True)
class _Sequence(Codec):
    item: Codec
    min_len: int
    max_len: int
    since: int = 1

    def _check_length(self, length: int, path: str) -> None:
        if not self.min_len <= length <= self.max_len:
            raise StateError(f"{path} has {length} items, must have {self.min_len}..{self.max_len}")

    def parse(self, wire: Wire, path: str) -> list[object]:
        if not isinstance(wire, list):
            raise StateError(f"{path} is {_short(wire)}, must be a list")
        self._check_length(len(wire), path)
        return [self.item.parse(value, f"{path}[{index}]") for index, value in enumerate(wire)]

    def dump(self, value: object, path: str) -> Wire:
        values = cast("list[object]", value)
        self._check_length(len(values), path)
        return [self.item.dump(item, f"{path}[{index}]") for index, item in enumerate(values)]

    def describe(self) -> Wire:
        return {"type": "list", "min_len": self.min_len, "max_len": self.max_len, "item": self.item.describe()}


@dataclass(frozen=True, slots=True)
class _Nested(Codec):
    cls: type[State]
    since: int = 1

    def parse(self, wire: Wire, path: str) -> State:
        return _parse_fields(self.cls, wire, self.cls.VMSTATE.version, path)

    def dump(self, value: object, path: str) -> Wire:
        return _dump_fields(cast(State, value), path)

    def describe(self) -> Wire:
        return {"type": "struct", "fields": describe(self.cls)}


@dataclass(frozen=True, slots=True)
class _Subsection(_Nested):
    def describe(self) -> Wire:
        return {"type": "subsection", "version": self.cls.VMSTATE.version, "fields": describe(self.cls)}


# Declarations: each returns a dataclass field, typed as the value it holds, as dataclasses.field() itself does.


def _declare(codec: Codec, reset: Callable[[], object]) -> object:
    value = reset()
    if isinstance(value, (list, State)):
        return dataclasses.field(default_factory=reset, metadata={_METADATA: codec})
    return dataclasses.field(default=value, metadata={_METADATA: codec})


def _integer(bits: int, reset: int, maximum: int | None, since: int) -> int:
    codec = _Integer(bits, (1 << bits) - 1 if maximum is None else maximum, since)
    return cast(int, _declare(codec, lambda: reset))


def u8(reset: int = 0, *, max: int | None = None, since: int = 1) -> int:  # noqa: A002 - reads as the limit it is
    """An unsigned 8-bit integer, at most `max`."""
    return _integer(8, reset, max, since)


def u16(reset: int = 0, *, max: int | None = None, since: int = 1) -> int:  # noqa: A002
    """An unsigned 16-bit integer, at most `max`."""
    return _integer(16, reset, max, since)


def u32(reset: int = 0, *, max: int | None = None, since: int = 1) -> int:  # noqa: A002
    """An unsigned 32-bit integer, at most `max`."""
    return _integer(32, reset, max, since)


def u64(reset: int = 0, *, max: int | None = None, since: int = 1) -> int:  # noqa: A002
    """An unsigned 64-bit integer, at most `max`."""
    return _integer(64, reset, max, since)


def flag(reset: bool = False, *, since: int = 1) -> bool:
    """A truth value."""
    return cast(bool, _declare(_Flag(since), lambda: reset))


def blob(reset: bytes = b"", *, max_len: int, min_len: int = 0, since: int = 1) -> bytes:
    """Between `min_len` and `max_len` bytes; a bytearray may stand in its place while the device works."""
    return cast(bytes, _declare(_Blob(min_len, max_len, since), lambda: reset))


def text(reset: str = "", *, max_len: int, since: int = 1) -> str:
    """At most `max_len` characters."""
    return cast(str, _declare(_Text(max_len, since), lambda: reset))


def optional_u64(*, since: int = 1) -> int | None:
    """An unsigned 64-bit integer or None, which is the reset value."""
    return cast("int | None", _declare(_Optional(_Integer(64, (1 << 64) - 1), since), lambda: None))


def _integers(bits: int, length: int, reset: int, maximum: int | None, since: int) -> list[int]:
    item = _Integer(bits, (1 << bits) - 1 if maximum is None else maximum)
    return cast("list[int]", _declare(_Sequence(item, length, length, since), lambda: [reset] * length))


def u8s(length: int, reset: int = 0, *, max: int | None = None, since: int = 1) -> list[int]:  # noqa: A002
    """Exactly `length` unsigned 8-bit integers."""
    return _integers(8, length, reset, max, since)


def u32s(length: int, reset: int = 0, *, max: int | None = None, since: int = 1) -> list[int]:  # noqa: A002
    """Exactly `length` unsigned 32-bit integers."""
    return _integers(32, length, reset, max, since)


def u64s(length: int, reset: int = 0, *, max: int | None = None, since: int = 1) -> list[int]:  # noqa: A002
    """Exactly `length` unsigned 64-bit integers."""
    return _integers(64, length, reset, max, since)


def struct(cls: type[StateT], *, since: int = 1) -> StateT:
    """A state inside a state, always on the wire. Its fields are for ever: what comes later goes in a subsection."""
    return cast(StateT, _declare(_Nested(cls, since), cls))


def structs(cls: type[StateT], *, max_len: int, min_len: int = 0, since: int = 1) -> list[StateT]:
    """Between `min_len` (also the number at reset) and `max_len` states of one class, whose fields are for ever too."""
    codec = _Sequence(_Nested(cls), min_len, max_len, since)
    return cast("list[StateT]", _declare(codec, lambda: [cls() for _ in range(min_len)]))


def subsection(cls: type[StateT]) -> StateT:
    """A state with a version of its own that is on the wire only while it differs from its reset value."""
    return cast(StateT, _declare(_Subsection(cls), cls))


# The two directions.


def codecs(cls: type[State]) -> dict[str, Codec]:
    """The declared fields of a state class, in order."""
    return {
        field.name: cast(Codec, field.metadata[_METADATA])
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every State subclass is a dataclass
    }


def dump(state: State) -> dict[str, Wire]:
    """The wire form of a state, at its current version; the same state gives the same values in the same order."""
    return _dump_fields(state, state.VMSTATE.name)


def parse(cls: type[StateT], version: int, wire: Wire) -> StateT:
    """Build and check a state of `cls` from what a stream holds; raises StateError, changes nothing."""
    return cast(StateT, _parse_section(cls, version, wire, cls.VMSTATE.name))


def describe(cls: type[State]) -> dict[str, Wire]:
    """The schema of a state class as plain values."""
    return {name: {"since": codec.since, **cast("dict[str, Wire]", codec.describe())} for name, codec in codecs(cls).items()}


def _dump_fields(state: State, path: str) -> dict[str, Wire]:
    wire: dict[str, Wire] = {}
    subsections: dict[str, Wire] = {}
    for name, codec in codecs(type(state)).items():
        value = getattr(state, name)
        if not isinstance(codec, _Subsection):
            wire[name] = codec.dump(value, f"{path}.{name}")
        elif value != codec.cls():
            subsections[name] = [codec.cls.VMSTATE.version, codec.dump(value, f"{path}.{name}")]
    if subsections:
        wire[SUBSECTIONS] = subsections
    state.check()
    return wire


def _parse_section(cls: type[State], version: int, wire: Wire, path: str) -> State:
    cls.VMSTATE.check_version(version)
    return _parse_fields(cls, wire, version, path)


def _parse_fields(cls: type[State], wire: Wire, version: int, path: str) -> State:
    if not isinstance(wire, dict):
        raise StateError(f"{path} is {_short(wire)}, must be a map of fields")
    values: dict[str, object] = {}
    declared = codecs(cls)
    sent = dict(wire)
    subsections = sent.pop(SUBSECTIONS, {})
    for name, codec in declared.items():
        if isinstance(codec, _Subsection) or codec.since > version:
            continue
        if name not in sent:
            raise StateError(f"{path}.{name} is missing")
        values[name] = codec.parse(sent.pop(name), f"{path}.{name}")
    if sent:
        raise StateError(f"{path}.{_short(next(iter(sent)))} is unknown to version {version}")
    values.update(_parse_subsections(declared, subsections, path))
    state = cls(**values)
    state.check()
    return state


def _parse_subsections(declared: Mapping[str, Codec], wire: Wire, path: str) -> dict[str, object]:
    if not isinstance(wire, dict):
        raise StateError(f"{path}.{SUBSECTIONS} is {_short(wire)}, must be a map")
    values: dict[str, object] = {}
    for name, entry in wire.items():
        codec = declared.get(name)
        if not isinstance(codec, _Subsection):
            raise StateError(f"{path} has an unknown subsection {_short(name)}")
        if not (isinstance(entry, list) and len(entry) == 2 and type(entry[0]) is int):
            raise StateError(f"{path}.{name} must be [version, fields]")
        values[name] = _parse_section(codec.cls, entry[0], entry[1], f"{path}.{name}")
    return values


def _short(wire: object) -> str:
    """A value from outside, for an error text: never longer than a line, and never spelt out as a whole, however deep it is."""
    if isinstance(wire, (list, dict)):
        return f"a {'list' if isinstance(wire, list) else 'map'} of {len(wire)}"
    shown = repr(wire[:40] if isinstance(wire, (str, bytes)) else wire)
    return shown if len(shown) <= 40 else shown[:37] + "..."
