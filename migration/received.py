"""What both a destination and `loadvm` do first: compare the machines, and read a state without changing a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from emu.errors import MigrationError, StreamError
from migration.pages import RamReceiver, find_block
from migration.protocols import DiskCopy, RamBlock
from migration.sections import Section
from migration.stream import Frame, Kind, StreamReader
from migration.vmstate import Wire

Region = TypeVar("Region")

MAX_SECTIONS = 4096  # a machine has tens of devices


def check_same_machine(theirs: Wire, ours: Mapping[str, Wire], *, uuid: bool) -> None:
    """Raise MigrationError naming the first thing that differs; the uuid counts only when asked."""
    if not isinstance(theirs, dict):
        raise StreamError("CONFIG frame: machine must be a map")
    ignored = () if uuid else ("uuid",)
    _compare("", _without(theirs, ignored), _without(ours, ignored))


def _without(configuration: Mapping[str, Wire], ignored: Sequence[str]) -> dict[str, Wire]:
    return {key: value for key, value in configuration.items() if key not in ignored}


def _compare(path: str, theirs: Wire, ours: Wire) -> None:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            where = f"{path}.{key}" if path else key
            if key not in theirs or key not in ours:
                side = "this machine" if key in ours else "the source"
                raise MigrationError(f"the machines differ: only {side} has {where}")
            _compare(where, theirs[key], ours[key])
    elif theirs != ours:
        raise MigrationError(f"the machines differ in {path}: the source has {theirs!r:.80}, this one has {ours!r:.80}")


@dataclass(slots=True)
class ReceivedState(Generic[Region]):
    """A state read to its END: RAM that came in frames is in place, all else only noted."""

    run: bool = False
    sections: list[Section] = field(default_factory=list)
    regions: list[tuple[RamBlock, Region]] = field(default_factory=list)
    disks: list[tuple[DiskCopy, Region]] = field(default_factory=list)


def find_disk(disks: Sequence[DiskCopy], name: Wire) -> DiskCopy:
    """The disk called `name`; an unknown one is a StreamError."""
    for disk in disks:
        if disk.name == name:
            return disk
    raise StreamError(f"the stream has a disk {name!r:.40}, none of this machine's is kept in snapshots under that name")


def receive(
    reader: StreamReader,
    blocks: Sequence[RamBlock],
    *,
    label: str,
    find: Callable[[Wire, int, str], Region],
    disks: Sequence[DiskCopy] = (),
    ram_now: bool,
    take_blocks: Callable[[Frame], None] | None = None,
    on_frame: Callable[[StreamReader], None] = lambda _reader: None,
    on_round: Callable[[], None] = lambda: None,
) -> ReceivedState[Region]:
    """Read frames up to END. RAM frames are applied as they come when `ram_now`, else refused: a guest is still in that RAM.

    `find(size, expected, name)` finds the region behind a MAP frame that says it has `size` bytes; `label` names the stream.
    `take_blocks` takes DISK frames, which no snapshot has.
    """
    receiver = RamReceiver(blocks)
    state: ReceivedState[Region] = ReceivedState()
    while True:
        frame = reader.next()
        match frame.kind:
            case Kind.RAM if ram_now:
                receiver.take(frame)
            case Kind.RAM:
                raise StreamError(f"{label} holds a migration stream, not a snapshot; start a machine with --incoming for it")
            case Kind.DISK if take_blocks is not None:
                take_blocks(frame)
            case Kind.MAP:
                fields = frame.fields()
                if "disk" in fields:
                    disk = find_disk(disks, fields["disk"])
                    state.disks.append((disk, find(fields.get("size"), disk.size, f"disk {disk.name}")))
                    continue
                block = find_block(blocks, fields.get("block"))
                state.regions.append((block, find(fields.get("size"), block.size, block.name)))
            case Kind.SECTION:
                state.sections.append(Section.from_wire(frame.fields()))
                if len(state.sections) > MAX_SECTIONS:
                    raise StreamError(f"the stream has more than {MAX_SECTIONS} sections")
            case Kind.ROUND:
                on_round()
            case Kind.DESCRIPTION:
                pass
            case Kind.END:
                run = frame.fields().get("run")
                if type(run) is not bool:
                    raise StreamError(f"END frame: run is {run!r:.40}, must be true or false")
                state.run = run
                if len(state.disks) != len(disks):
                    raise StreamError(f"the stream has {len(state.disks)} disks, this machine needs {len(disks)}")
                return state
            case _:
                raise StreamError(f"got a {frame.kind.name} frame in the middle of the state")
        on_frame(reader)
