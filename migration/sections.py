"""Device sections: dump all; then on the other side parse all, check all, and only then commit all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Never, cast

from emu.errors import MigrationError, StateError, StreamError
from migration.protocols import Savable
from migration.vmstate import State, Wire, describe, dump, parse


@dataclass(frozen=True, slots=True)
class Section:
    """One section on the wire."""

    name: str  # the instance: "serial@10000000"
    type: str  # the state: "ns16550"
    version: int
    fields: Wire

    def to_wire(self) -> dict[str, Wire]:
        """The SECTION frame's map."""
        return {"name": self.name, "type": self.type, "version": self.version, "fields": self.fields}

    @classmethod
    def from_wire(cls, wire: dict[str, Wire]) -> Section:
        """Read a SECTION frame's map; a malformed one is a StreamError."""
        if set(wire) != {"name", "type", "version", "fields"}:
            raise StreamError(f"SECTION frame has the keys {sorted(wire)!r:.100}, must have name, type, version, fields")
        name, kind, version = wire["name"], wire["type"], wire["version"]
        if not (isinstance(name, str) and isinstance(kind, str) and type(version) is int):
            raise StreamError(f"SECTION frame: name {name!r:.40}, type {kind!r:.40} and version {version!r:.40} do not fit")
        return cls(name, kind, version, wire["fields"])


def _state_class(savable: Savable) -> type[State]:
    if savable.STATE is None:
        raise MigrationError(f"{savable.name} has no state that could be saved")
    return savable.STATE


def dump_sections(savables: Sequence[Savable]) -> list[Section]:
    """The state of everything, as it is now; called on the vCPU thread with the guest held."""
    sections = []
    for savable in savables:
        vmstate = _state_class(savable).VMSTATE
        sections.append(Section(savable.name, vmstate.name, vmstate.version, dump(savable.save())))
    return sections


@dataclass(frozen=True, slots=True)
class Plan:
    """States that were parsed and checked, not yet given to their devices."""

    states: tuple[tuple[Savable, State], ...]

    def commit(self) -> None:
        """Give every device its state; cannot fail. Called on the vCPU thread with the guest held."""
        for savable, state in self.states:
            savable.load(cast(Never, state))  # plan_load parsed it as the class this one declares


def plan_load(savables: Sequence[Savable], sections: Sequence[Section]) -> Plan:
    """Match sections with this machine's devices, parse and check them all; changes nothing."""
    by_name: dict[str, Section] = {}
    for section in sections:
        if section.name in by_name:
            raise StreamError(f"the stream has the section {section.name!r} twice")
        by_name[section.name] = section
    states = []
    for savable in savables:
        cls = _state_class(savable)
        found = by_name.pop(savable.name, None)
        if found is None:
            raise StreamError(f"the stream has no section {savable.name!r}, which this machine needs")
        if found.type != cls.VMSTATE.name:
            raise StateError(
                f"section {savable.name!r} holds a {found.type!r:.40}, this machine has a {cls.VMSTATE.name!r} there"
            )
        states.append((savable, parse(cls, found.version, found.fields)))
    if by_name:
        raise StreamError(f"the stream has a section {next(iter(by_name))!r:.60} that this machine has no device for")
    return Plan(tuple(states))


def describe_sections(savables: Sequence[Savable]) -> dict[str, Wire]:
    """The schema of every section, for people and tools that read a stream without the machine."""
    return {
        savable.name: {
            "type": _state_class(savable).VMSTATE.name,
            "version": _state_class(savable).VMSTATE.version,
            "fields": cast(Wire, describe(_state_class(savable))),
        }
        for savable in savables
    }
