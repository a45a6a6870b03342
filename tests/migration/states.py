"""Every state there is, found by walking the packages, and values of it, good and bad."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import devices
import emu
import migration
import targets
from emu.errors import StateError
from migration.vmstate import State, Wire, describe, dump, parse

T = TypeVar("T")
Schema = dict[str, Any]
BUILT = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
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


STATES = [cls for cls in classes(State) if hasattr(cls, "VMSTATE")]  # else it is what several have in common

every_state = pytest.mark.parametrize("cls", STATES, ids=lambda cls: cls.__name__)


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
