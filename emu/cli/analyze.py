"""`emu analyze FILE`: a snapshot or a recorded migration stream as JSON, without the machine.

    {"version": 1, "bytes": …, "machine": {…}, "two-way": …, "ram": {block: {…}},
     "disks": {drive: {…}}, "sections": [{"name", "type", "version", "fields"}, …], "description": {…}, "end": {…}, "error": …}

Bytes are hexadecimal. A damaged stream gives all that stood before the damage, and `error`. Of a qcow2 image it is the states
of the snapshots in it:

    {"snapshots": [{"id", "tag", "state": one of the above, or null for a disk alone}, …]}
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from emu.cli.report import FAILED, report_error
from emu.errors import EmuError, StreamError
from emu.snapshots import states_inside
from migration.channel import listen, parse_uri
from migration.inside import StateSource
from migration.mapped import find_region
from migration.protocols import PAGE, SavedState
from migration.received import MAX_SECTIONS
from migration.snapshot import SnapshotInfo
from migration.stream import VERSION, Frame, Kind, Source, StreamReader
from migration.vmstate import Wire

if TYPE_CHECKING:
    from migration.protocols import StepHook

Find = Callable[[int, str], int]  # the size and name of a MAP frame that was just read: where its region is

MAX_DEPTH = 32  # levels of a value that are shown: states nest 3 deep, a hostile stream 1000
SHORT_BYTES = 32  # bytes of a blob, characters of a text and items of a list shown without --full
MAX_BLOCKS = 64  # RAM blocks, or disks; a machine has a few


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE[,offset=N]", help="what savevm or migrate file: wrote, or a qcow2 image")
    parser.add_argument("--full", action="store_true", help="do not shorten long values")


def execute(arguments: argparse.Namespace, _hook: StepHook | None) -> int:
    """Print the analysis; 1 when the stream is damaged."""
    with _states_inside(arguments.file) as states:
        if states is None:
            shown = _analyze_file(arguments.file, full=arguments.full)
            errors = [shown.get("error")]
        else:
            inside = [None if state is None else _analyze_state(state, full=arguments.full) for _info, state in states]
            shown = {
                "snapshots": [
                    {"id": info.id, "tag": info.tag, "state": now} for (info, _), now in zip(states, inside, strict=True)
                ]
            }
            errors = [state.get("error") for state in inside if state is not None]
    json.dump(shown, sys.stdout, indent=2)
    print(flush=True)
    for error in filter(None, errors):
        report_error(str(error))
    return FAILED if any(errors) else 0


def _states_inside(file: str) -> contextlib.AbstractContextManager[Sequence[tuple[SnapshotInfo, SavedState | None]] | None]:
    """None when it is no image, but a stream."""
    path = Path(file)
    return states_inside(file) if path.is_file() and path.stat().st_size else contextlib.nullcontext()


def _analyze_file(file: str, *, full: bool) -> dict[str, object]:
    with (
        contextlib.closing(listen(parse_uri(f"file:{file}"))) as listener,
        contextlib.closing(listener.accept()) as channel,
    ):
        return _analyze(channel, lambda size, name: find_region(channel, size, size, name).offset, full=full)


def _analyze_state(saved: SavedState, *, full: bool) -> dict[str, object]:
    source = StateSource(saved)
    return _analyze(source, lambda size, name: source.find(size, size, name).position, full=full)


def _analyze(source: Source, find: Find, *, full: bool) -> dict[str, object]:
    analysis = Analysis(find, full=full)
    try:
        analysis.read(source)
    except EmuError as exc:
        return analysis.as_json() | {"error": str(exc)}
    return analysis.as_json()


@dataclass(slots=True)
class BlockSummary:
    """What a stream holds of one RAM block, in frames or mapped."""

    frames: int = 0
    pages: int = 0  # with their data, each time they were sent
    zero_pages: int = 0
    mapped_bytes: int = 0
    mapped_at: int | None = None  # offset in the file, or in the state that is inside an image


@dataclass(slots=True)
class DiskSummary:
    """What a stream holds of one disk that moves along."""

    frames: int = 0
    bytes: int = 0  # each time they were sent
    zero_runs: int = 0


@dataclass(slots=True)
class Analysis:
    """What was read so far."""

    find: Find
    full: bool = False
    bytes_read: int = 0
    config: dict[str, Wire] | None = None
    ram: dict[str, BlockSummary] = field(default_factory=dict)
    disks: dict[str, DiskSummary] = field(default_factory=dict)
    sections: list[Wire] = field(default_factory=list)
    description: Wire = None
    end: Wire = None

    def read(self, source: Source) -> None:
        """Read a stream to its END; raises StreamError where it is damaged, with everything before that in place."""
        reader = StreamReader(source)
        try:
            reader.start()
            while self.end is None:
                self._take(reader.next())
        finally:
            self.bytes_read = reader.bytes_read

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.CONFIG:
                self.config = frame.fields()
            case Kind.RAM:
                fields, data = frame.fields_and_data()
                block = self._block(fields)
                block.frames += 1
                block.pages += len(data) // PAGE
                zero = fields.get("zero")
                block.zero_pages += len(zero) // 4 if isinstance(zero, bytes) else 0
            case Kind.DISK:
                fields, data = frame.fields_and_data()
                disk = self._disk(fields)
                disk.frames += 1
                disk.bytes += len(data)
                zero = fields.get("zero")
                disk.zero_runs += len(zero) // 8 if isinstance(zero, bytes) else 0
            case Kind.MAP:
                fields = frame.fields()
                size = fields.get("size")
                if type(size) is not int or not 0 < size < 1 << 63:
                    raise StreamError(f"MAP frame: size is {size!r:.40}, must be a number of bytes")
                if "disk" in fields:
                    fields["block"] = f"disk {fields['disk']!r:.80}"
                place = self.find(size, str(fields.get("block")))
                block = self._block(fields)
                block.mapped_bytes, block.mapped_at = size, place
            case Kind.SECTION:
                if len(self.sections) >= MAX_SECTIONS:
                    raise StreamError(f"the stream has more than {MAX_SECTIONS} sections")
                self.sections.append(frame.fields())
            case Kind.ROUND:
                pass
            case Kind.DESCRIPTION:
                self.description = frame.fields()
            case Kind.END:
                self.end = frame.fields()
            case _:
                raise StreamError(f"got a {frame.kind.name} frame in the middle of the state")

    def _block(self, fields: dict[str, Wire]) -> BlockSummary:
        name = fields.get("block")
        if not isinstance(name, str) or (name not in self.ram and len(self.ram) >= MAX_BLOCKS):
            raise StreamError(f"RAM block {name!r:.40} is none of the first {MAX_BLOCKS} with a name")
        return self.ram.setdefault(name, BlockSummary())

    def _disk(self, fields: dict[str, Wire]) -> DiskSummary:
        name = fields.get("disk")
        if not isinstance(name, str) or (name not in self.disks and len(self.disks) >= MAX_BLOCKS):
            raise StreamError(f"disk {name!r:.40} is none of the first {MAX_BLOCKS} with a name")
        return self.disks.setdefault(name, DiskSummary())

    def as_json(self) -> dict[str, object]:
        """All of it in plain values."""
        config = self.config or {}
        return {
            "version": VERSION,
            "bytes": self.bytes_read,
            "machine": self._plain(config.get("machine"), MAX_DEPTH),
            "two-way": self._plain(config.get("two-way"), MAX_DEPTH),
            "ram": {name: asdict(block) for name, block in self.ram.items()},
            **({"disks": {name: asdict(disk) for name, disk in self.disks.items()}} if self.disks else {}),
            "sections": [self._plain(section, MAX_DEPTH) for section in self.sections],
            "description": self._plain(self.description, MAX_DEPTH),
            "end": self._plain(self.end, MAX_DEPTH),
        }

    def _plain(self, value: object, depth: int) -> object:
        """A value that JSON has, shortened unless all is wanted."""
        shown = None if self.full else SHORT_BYTES
        match value:
            case None | bool() | int():
                return value
            case bytes():
                rest = "" if shown is None or len(value) <= shown else f"… ({len(value)} bytes)"
                return value[:shown].hex() + rest
            case str():
                return value if shown is None or len(value) <= 4 * shown else f"{value[: 4 * shown]}… ({len(value)} characters)"
            case _ if depth == 0:
                return f"… (nested more than {MAX_DEPTH} deep)"
            case list():
                items = [self._plain(item, depth - 1) for item in value[:shown]]
                return items if shown is None or len(value) <= shown else [*items, f"… ({len(value)} items)"]
            case dict():
                return {str(key): self._plain(item, depth - 1) for key, item in value.items()}
            case _:
                return repr(value)
