"""Disks that move with their guest (`migrate -b` and `-i`): blocks of 64 KiB in the same stream as RAM, 4 MiB a frame.

    source                                             destination
    CONFIG: which disks, what is behind each ---------> own its images; those with the source's image behind them made empty
    DISK, DISK, … ROUND -------------------------------> (all that the disk has, while the guest writes on)
           <------------------------------------------- ROUND: on disk
    DISK and RAM, ROUND -------------------------------> (for every round: what was written meanwhile)
    DISK, … (the guest is held, its requests are done)

A frame's map has `disk`, a drive's id; `blocks`, the numbers of those whose data follows; and `zero`, first and count of each
run of blocks that are zero. The disk's last block is filled up with zeroes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from emu.errors import MigrationError, StreamError
from migration.pages import page_numbers
from migration.protocols import BLOCK, MovedDisk
from migration.settings import DiskMode
from migration.stream import MAX_DISK, Frame, Kind, StreamWriter
from migration.vmstate import Wire

BLOCKS_PER_FRAME = MAX_DISK // BLOCK
ZERO_RUNS_PER_FRAME = 4096  # 32 KiB of numbers
Flags: TypeAlias = NDArray[np.bool_]  # one for each block of a disk
AfterFrame: TypeAlias = Callable[[int], None]  # hears the bytes that were sent


def runs_of(flags: Flags) -> NDArray[np.int64]:
    """Runs [first block, count] of those that are set."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return np.stack((edges[::2], edges[1::2] - edges[::2]), axis=1)


def _pieces(flags: Flags) -> Iterator[list[tuple[int, int]]]:
    """The runs of those that are set, as many blocks at a time as fit into a frame."""
    piece: list[tuple[int, int]] = []
    room = BLOCKS_PER_FRAME
    for first, count in runs_of(flags).tolist():
        while count:
            part = min(count, room)
            piece.append((first, part))
            first, count, room = first + part, count - part, room - part
            if not room:
                yield piece
                piece, room = [], BLOCKS_PER_FRAME
    if piece:
        yield piece


@dataclass(slots=True)
class DiskCounters:
    """What `query-migrate` shows of the disks, in bytes."""

    total: int = 0
    remaining: int = 0
    transferred: int = 0


class DiskSender:
    """Sends one disk."""

    def __init__(self, disk: MovedDisk, writer: StreamWriter, counters: DiskCounters) -> None:
        self._disk = disk
        self._writer = writer
        self._counters = counters
        self._staging = np.empty((BLOCKS_PER_FRAME, BLOCK), np.uint8)
        self._packed = np.empty_like(self._staging)

    def send(self, flags: Flags, after_frame: AfterFrame) -> None:
        """Send the blocks whose flags are set, as they are when they are read."""
        for piece in _pieces(flags):
            at = 0
            for first, count in piece:
                self._disk.read(first, self._staging[at : at + count].reshape(-1).data)
                at += count
            numbers = page_numbers(np.array(piece, np.int64))
            blocks = self._staging[:at]
            filled = blocks.view(np.uint64).any(axis=1)
            data = blocks if filled.all() else np.compress(filled, blocks, axis=0, out=self._packed[: np.count_nonzero(filled)])
            zero = np.stack((numbers[~filled], np.ones(at - len(data), np.int64)), axis=1)
            self._frame(numbers[filled], zero, data.reshape(-1).data, after_frame)
            self._counters.remaining = max(0, self._counters.remaining - at * BLOCK)

    def send_zeroes(self, flags: Flags, after_frame: AfterFrame) -> None:
        """Have the blocks whose flags are set made zero."""
        runs = runs_of(flags)
        for start in range(0, len(runs), ZERO_RUNS_PER_FRAME):
            part = runs[start : start + ZERO_RUNS_PER_FRAME]
            self._frame(np.empty(0, np.int64), part, memoryview(b""), after_frame)
            self._counters.remaining = max(0, self._counters.remaining - int(part[:, 1].sum()) * BLOCK)

    def _frame(self, blocks: NDArray[np.int64], zero: NDArray[np.int64], data: memoryview, after_frame: AfterFrame) -> None:
        before = self._writer.bytes_written
        fields: dict[str, Wire] = {
            "disk": self._disk.name,
            "blocks": blocks.astype("<u4").tobytes(),
            "zero": zero.astype("<u4").tobytes(),
        }
        self._writer.frame(Kind.DISK, fields, data)
        size = self._writer.bytes_written - before
        self._counters.transferred += size
        after_frame(size)


@dataclass(slots=True)
class OutgoingDisks:
    """All disks of a guest that moves with them; none when they are shared."""

    disks: Sequence[MovedDisk]
    mode: DiskMode
    counters: DiskCounters = field(default_factory=DiskCounters)
    _backing: dict[str, str | None] = field(default_factory=dict)  # by disk; None where all that it holds goes
    _senders: list[DiskSender] = field(default_factory=list)
    _left: list[Flags] = field(default_factory=list)  # noted as changed and not sent yet

    def describe(self) -> dict[str, Wire]:
        """What CONFIG says of them: for each where it is, and what is behind it on both sides, None when all of it comes.

        Comes before `send_all`.
        """
        incremental = self.mode is DiskMode.INCREMENTAL
        self._backing = {disk.name: disk.backing() if incremental else None for disk in self.disks}
        return {disk.name: {"backing": self._backing[disk.name], "place": disk.place} for disk in self.disks}

    def send_all(self, writer: StreamWriter, after_frame: AfterFrame) -> None:
        """Send what the disks have, and watch them from now on."""
        self.counters.total = self.counters.remaining = sum(disk.size for disk in self.disks)
        self._senders = [DiskSender(disk, writer, self.counters) for disk in self.disks]
        for disk in self.disks:
            disk.watch()
        for disk, sender in zip(self.disks, self._senders, strict=True):
            if self._backing[disk.name] is None:
                filled = disk.filled()
                sender.send_zeroes(~filled, after_frame)
                sender.send(filled, after_frame)
            else:
                sender.send(disk.own(), after_frame)
        self._left = [disk.changed() for disk in self.disks]
        self._reckon()

    def note_changes(self) -> int:
        """Ask what was written meanwhile; the bytes that are to be sent now."""
        for left, disk in zip(self._left, self.disks, strict=True):
            left |= disk.changed()
        return self._reckon()

    def _reckon(self) -> int:
        self.counters.remaining = sum(int(np.count_nonzero(left)) for left in self._left) * BLOCK
        return self.counters.remaining

    def send_changes(self, after_frame: AfterFrame) -> None:
        """Send what was written until the last question."""
        for sender, left in zip(self._senders, self._left, strict=True):
            sender.send(left, after_frame)
            left[:] = False

    def stop(self) -> None:
        """Watch no more; harmless when done."""
        for disk in self.disks:
            disk.unwatch()


class IncomingDisks:
    """The disks that a stream brings, written as they come."""

    def __init__(self, disks: Sequence[MovedDisk], described: Wire) -> None:
        """`described` is what CONFIG says, or None when the disks are shared. MigrationError when these do not fit."""
        self._disks = {} if described is None else {disk.name: disk for disk in disks}
        self._based: list[MovedDisk] = []
        if described is None:
            return
        if not isinstance(described, dict):
            raise StreamError("CONFIG frame: disks must be a map")
        if set(described) != set(self._disks):
            theirs, ours = ", ".join(sorted(described)) or "none", ", ".join(sorted(self._disks)) or "none"
            raise MigrationError(f"the source sends the disks {theirs:.200}, this machine's that can be written are {ours}")
        for name, disk in self._disks.items():
            match described[name]:
                case {"place": str(place), "backing": (None | str()) as backing}:
                    self._check_other(disk, place)
                    if isinstance(backing, str):
                        self._check_backing(disk, backing)
                        self._based.append(disk)
                case other:
                    raise StreamError(f"CONFIG frame: disk {name!r} is {other!r:.60}, must be a map with its place and backing")

    @staticmethod
    def _check_other(disk: MovedDisk, theirs: str) -> None:
        if disk.place == theirs:
            raise MigrationError(
                f"drive {disk.name!r} is the same image here as on the source: "
                "disks that move with their guest (migrate -b) need images of their own on each side"
            )

    @staticmethod
    def _check_backing(disk: MovedDisk, theirs: str) -> None:
        ours = disk.backing()
        if ours is None:
            raise MigrationError(f"drive {disk.name!r} has no backing file here, the source sends what differs from one")
        if ours != theirs:
            raise MigrationError(f"drive {disk.name!r} has another backing file here than on the source, by size or content")

    @property
    def come(self) -> bool:
        """Whether there are any: the images here are then not the source's."""
        return bool(self._disks)

    def begin(self) -> None:
        """The images are ours: make those that get what differs from their backing files equal to these."""
        for disk in self._based:
            disk.make_empty()

    def take(self, frame: Frame) -> None:
        """Write one DISK frame."""
        fields, data = frame.fields_and_data()
        name = fields.get("disk")
        disk = self._disks.get(name) if isinstance(name, str) else None
        if disk is None:
            raise StreamError(f"DISK frame: disk {name!r:.40} is none of those that come: {', '.join(self._disks) or 'none'}")
        total = -(-disk.size // BLOCK)
        blocks = _numbers(fields, "blocks", BLOCKS_PER_FRAME)
        zero = _numbers(fields, "zero", 2 * max(ZERO_RUNS_PER_FRAME, BLOCKS_PER_FRAME)).reshape(-1, 2)
        ends = np.concatenate((blocks + 1, zero.sum(axis=1)))
        if len(ends) and int(ends.max()) > total:
            raise StreamError(f"DISK frame: block {int(ends.max()) - 1} is outside disk {disk.name!r} of {total} blocks")
        if len(data) != len(blocks) * BLOCK:
            raise StreamError(f"DISK frame has {len(data)} bytes of data for {len(blocks)} blocks")
        at = 0
        for neighbours in np.split(blocks, np.flatnonzero(np.diff(blocks) != 1) + 1):
            if len(neighbours):
                size = len(neighbours) * BLOCK
                disk.write(int(neighbours[0]), data[at : at + size])
                at += size
        for first, count in zero.tolist():
            if count:
                disk.zero(first, count)

    def flush(self) -> None:
        """Return when all that came is on disk."""
        for disk in self._disks.values():
            disk.flush()


def _numbers(fields: dict[str, Wire], key: str, most: int) -> NDArray[np.int64]:
    raw = fields.get(key)
    unit = 8 if key == "zero" else 4
    if not isinstance(raw, bytes) or len(raw) % unit or len(raw) > 4 * most:
        raise StreamError(f"DISK frame: {key} must be at most {most} numbers of 4 bytes{', in pairs' if unit == 8 else ''}")
    return np.frombuffer(raw, "<u4").astype(np.int64)
