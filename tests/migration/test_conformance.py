"""One suite over every state and every device there is: what one of them promises, all keep.

States and devices are found by walking the packages, so that a new one is held to this without being named here; a new device
is asked for a line in DEVICES.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import devices
import emu
import migration
import targets
from devices.clint import Clint
from devices.cmos import Cmos
from devices.generic_timer import GenericTimer
from devices.gicv2 import GicV2
from devices.goldfish_pic import GoldfishPic
from devices.goldfish_rtc import GoldfishRtc
from devices.i8254 import Pit
from devices.i8259 import PicPair
from devices.ns16550 import Ns16550
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from devices.pci import PciHost
from devices.pcpower import PcPower
from devices.pl011 import Pl011
from devices.pl031 import Pl031
from devices.plic import Plic
from devices.syscon import Syscon
from devices.tc1797_scu import Tc1797Scu
from devices.virtio.blk import VirtioBlk
from devices.virtio.mmio import VirtioMmio
from devices.virtio.p9 import VirtioP9
from devices.virtio.pci import VirtioPci
from devices.virtio.rng import VirtioRng
from emu.block.image import Image, open_image
from emu.device import Device
from emu.engine.core import Engine
from emu.errors import StateError, StreamError
from emu.irq import IrqLine
from migration.blockers import Blockers
from migration.stream import unpack
from migration.vmstate import State, Wire, describe, dump, parse
from targets.riscv.cpu import RiscvCpu
from targets.riscv.sbi import Sbi
from tests.devices.fakes import FakeClock, MemoryChardev
from tests.devices.virtio.driver import InlineExecutor, Memory, Posts

T = TypeVar("T")
Schema = dict[str, Any]
BUILT = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
SCRATCH = tempfile.TemporaryDirectory(prefix="emu-conformance-")  # gone with the process
LONGEST_DRAWN = 64  # bytes beyond the shortest; longer ones show nothing more


# What there is


def modules() -> Iterator[ModuleType]:
    for package in (devices, emu, migration, targets):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def classes(base: type[T]) -> list[type[T]]:
    """Every class below `base`, each from the module that defines it."""
    found = {
        value
        for module in modules()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value is not base and value.__module__ == module.__name__
    }
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


STATES = classes(State)
EVERY_DEVICE = cast("list[type[Device[Any]]]", classes(Device))
CONCRETE = [cls for cls in EVERY_DEVICE if not any(issubclass(other, cls) for other in EVERY_DEVICE if other is not cls)]

every_state = pytest.mark.parametrize("cls", STATES, ids=lambda cls: cls.__name__)


def no_line() -> IrqLine:
    return IrqLine(lambda _level: None)


@functools.cache
def share() -> HostFs:
    return HostFs(Path(SCRATCH.name), readonly=True, mapped=False)


@functools.cache
def disk() -> Image:
    path = Path(SCRATCH.name) / "disk"
    path.write_bytes(bytes(1 << 20))
    return open_image(str(path), "raw", read_only=False, active=True)


@functools.cache
def hart() -> RiscvCpu:
    return RiscvCpu(Engine("riscv64"), FakeClock())


def make_p9() -> VirtioP9:
    blockers = Blockers()
    session = Session(share(), lambda: blockers.add("The share is mounted."))
    return VirtioP9("p9", Memory(), Server(session), tag="host0", executor=InlineExecutor(), post=Posts())


def make_sbi() -> Sbi:
    return Sbi(
        "sbi",
        cpu=hart(),
        clock=FakeClock(),
        memory=Memory(),
        console=MemoryChardev(),
        power_off=lambda _code: None,
        request_reset=lambda: None,
    )


DEVICES: dict[type[Device[Any]], Callable[[], Device[Any]]] = {
    Clint: lambda: Clint("clint", msip=no_line(), mtip=no_line(), clock=FakeClock()),
    GenericTimer: lambda: GenericTimer("timer", FakeClock(), physical=no_line(), virtual=no_line()),
    GicV2: lambda: GicV2("gic", no_line()),
    GoldfishPic: lambda: GoldfishPic("pic", no_line()),
    GoldfishRtc: lambda: GoldfishRtc("rtc", no_line(), FakeClock()),
    Ns16550: lambda: Ns16550("serial", no_line(), MemoryChardev(), FakeClock()),
    Pl011: lambda: Pl011("serial", no_line(), MemoryChardev(), FakeClock()),
    Pl031: lambda: Pl031("rtc", no_line(), FakeClock()),
    Cmos: lambda: Cmos("rtc", no_line(), FakeClock()),
    PciHost: lambda: PciHost("pci", 0xC000_0000, [no_line() for _ in range(4)]),
    PcPower: lambda: PcPower("power", on_power_off=lambda _code: None, on_reset=lambda: None),
    PicPair: lambda: PicPair("pic", no_line()),
    Pit: lambda: Pit("pit", no_line(), FakeClock()),
    Plic: lambda: Plic("plic", no_line(), no_line()),
    Sbi: make_sbi,
    Syscon: lambda: Syscon("test", on_power_off=lambda _code: None, on_reset=lambda: None),
    Tc1797Scu: lambda: Tc1797Scu("scu", on_idle=lambda: None),
    VirtioBlk: lambda: VirtioBlk("blk", Memory(), disk(), executor=InlineExecutor(), post=Posts()),
    VirtioMmio: lambda: VirtioMmio("slot", VirtioRng("rng", Memory()), no_line()),
    VirtioPci: lambda: VirtioPci("function", VirtioRng("rng", Memory()), no_line()),
    VirtioP9: make_p9,
    VirtioRng: lambda: VirtioRng("rng", Memory()),
}


# Values, good and bad, made from the schema that a stream carries


def good(schema: Schema) -> st.SearchStrategy[Wire]:
    """Values of a field that are in bounds."""
    kind = schema["type"]
    if kind == "flag":
        return st.booleans()
    if kind == "blob":
        return st.binary(min_size=schema["min_len"], max_size=min(schema["max_len"], schema["min_len"] + LONGEST_DRAWN))
    if kind == "text":
        return st.text(st.characters(codec="utf-8"), max_size=min(schema["max_len"], LONGEST_DRAWN))
    if kind == "optional":
        return st.none() | good(schema["item"])
    if kind == "list":
        return st.lists(
            good(schema["item"]), min_size=schema["min_len"], max_size=min(schema["max_len"], schema["min_len"] + 4)
        )
    if kind == "struct":
        return st.fixed_dictionaries({name: good(field) for name, field in schema["fields"].items()})
    if kind == "subsection":
        fields = st.fixed_dictionaries({name: good(field) for name, field in schema["fields"].items()})
        return fields.map(lambda values: [schema["version"], values])
    assert kind in ("u8", "u16", "u32", "u64"), f"what values has a field of type {kind}?"
    return st.sampled_from([0, 1, schema["max"]]) | st.integers(0, schema["max"])


def bad(schema: Schema, path: str, reset: Wire) -> Iterator[tuple[str, Wire]]:
    """Values of a field that no stream may hold, each with the path its error must begin with."""
    kind = schema["type"]
    yield path, 0.5
    if kind == "flag":
        yield from ((path, value) for value in (0, 1, None, b"\1"))
    elif kind == "blob":
        yield from ((path, value) for value in (bytes(schema["max_len"] + 1), "text", None))
        yield from ((path, bytes(size)) for size in {schema["min_len"] - 1} - {-1})
    elif kind == "text":
        yield from ((path, value) for value in ("x" * (schema["max_len"] + 1), b"bytes", None))
    elif kind == "optional":
        yield from ((at, value) for at, value in bad(schema["item"], path, 0) if value is not None)
    elif kind == "list":
        items = cast("list[Wire]", reset)
        yield from ((path, value) for value in ([None] * (schema["max_len"] + 1), None, {}))
        yield from ((path, items[:size]) for size in {schema["min_len"] - 1} - {-1})
        for first in items[:1]:
            yield from ((at, [value, *items[1:]]) for at, value in bad(schema["item"], f"{path}[0]", first))
    elif kind == "struct":
        yield from ((path, value) for value in (None, []))
        yield from bad_fields(schema["fields"], path, cast("dict[str, Wire]", reset))
    else:
        yield from ((path, value) for value in (schema["max"] + 1, -1, True, "0", None, [0]))


def bad_fields(fields: Schema, path: str, reset: dict[str, Wire]) -> Iterator[tuple[str, Wire]]:
    """Maps of fields with one wrong value each."""
    for name, schema in fields.items():
        if schema["type"] == "subsection":
            continue
        for at, value in bad(schema, f"{path}.{name}", reset[name]):
            yield at, {**reset, name: value}


def accepted(cls: type[State], wire: Wire) -> bool:
    try:
        parse(cls, cls.VMSTATE.version, wire)
    except StateError:
        return False
    return True


@st.composite
def consistent(draw: st.DrawFn, cls: type[State]) -> Wire:
    """A section a guest might have sent: values in bounds, put in one after the other as far as `check` lets them together."""
    wire: dict[str, Wire] = dump(cls())
    for name, schema in cast(Schema, describe(cls)).items():
        value = draw(good(schema))
        if schema["type"] == "subsection":
            candidate: dict[str, Wire] = {**wire, "subsections": {**cast(Schema, wire.get("subsections", {})), name: value}}
        else:
            candidate = {**wire, name: value}
        if accepted(cls, candidate):
            wire = candidate
    return wire


garbage: st.SearchStrategy[Wire] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


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


# Devices


def test_every_device_is_tested() -> None:
    movable = {cls for cls in CONCRETE if cls.STATE is not None}

    assert movable == set(DEVICES), "DEVICES must say how to build each device that has a state"


def test_every_device_that_cannot_move_says_why_in_a_sentence() -> None:
    reasons = [cls.UNMIGRATABLE for cls in CONCRETE if cls.STATE is None]

    assert [reason for reason in reasons if not (reason[0].isupper() and reason.endswith("."))] == []


def test_device_without_state_or_reason_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="Forgetful must set either STATE or UNMIGRATABLE"):
        type("Forgetful", (Device,), {})


every_device = pytest.mark.parametrize("make", DEVICES.values(), ids=[cls.__name__ for cls in DEVICES])


@every_device
def test_fresh_devices_are_in_the_same_state_before_and_after_a_reset(make: Callable[[], Device[Any]]) -> None:
    device = make()
    fresh = dump(device.save())

    device.reset()

    assert dump(device.save()) == fresh == dump(make().save())


@every_device
@given(data=st.data())
@BUILT
def test_device_in_any_state_can_be_moved(make: Callable[[], Device[Any]], data: st.DataObject) -> None:
    here, there = make(), make()
    cls = cast("type[State]", here.STATE)
    here.load(parse(cls, cls.VMSTATE.version, data.draw(consistent(cls))))

    sent = dump(here.save())
    there.load(parse(cls, cls.VMSTATE.version, unpack(memoryview(msgpack.packb(sent)), "SECTION")))

    assert dump(there.save()) == sent


@every_device
@given(data=st.data())
@BUILT
def test_device_in_any_state_can_be_reset(make: Callable[[], Device[Any]], data: st.DataObject) -> None:
    device = make()
    fresh = dump(device.save())
    cls = cast("type[State]", device.STATE)
    device.load(parse(cls, cls.VMSTATE.version, {**cast(Schema, data.draw(consistent(cls))), **kept_by_reset(cls)}))

    device.reset()

    assert dump(device.save()) == fresh


def kept_by_reset(cls: type[State]) -> dict[str, Wire]:
    """What stays as it was: input that is on the line, outside the device, and how far a real-time clock was set."""
    return {name: value for name, value in dump(cls()).items() if name in ("backlog", "offset")}
