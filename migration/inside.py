"""savevm and loadvm inside a disk image: while the state of one moment is written, the guest goes on.

    held:     devices dumped, RAM copied by copy-on-write, disks frozen      milliseconds
    running:  RAM and devices into the image, then the snapshot's entry      the snapshot is there, whole, or is not

The state is a stream (stream.py) of MAGIC, VERSION, CONFIG, a MAP for each block of RAM, SECTIONs, DESCRIPTION, END. A block's
RAM lies behind its MAP from the image's next cluster on, so that clusters that are zero take no space, and the frames go on at
the cluster behind it. As in a file (mapped.py), no hash covers RAM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from emu.errors import StreamError
from migration.channel import Buffer
from migration.protocols import PAGE, Guest, NewSnapshot, Pause, RamBlock, RamCopy, SavedState
from migration.received import check_same_machine, receive
from migration.sections import Section, describe_sections, dump_sections, plan_load
from migration.snapshot import OnProgress, SaveReport, check_may_be, replaced
from migration.stream import Kind, StreamReader, StreamWriter
from migration.vmstate import Wire

STEP = 4 << 20  # bytes of RAM at a time; whole clusters, which have 2 MiB at most


def save_inside(guest: Guest, place: NewSnapshot, on_progress: OnProgress) -> SaveReport:
    """Save the guest as it is now; it runs on before this returns. On an error there is no snapshot."""
    check_may_be(guest, "saved")
    place.prepare()
    began = time.monotonic()
    savables = guest.savables()
    ran = guest.hold(Pause.SAVE_VM)
    try:
        sections = guest.call(lambda: dump_sections(savables))
        ram = guest.copy_ram()
        try:
            place.freeze()
        except BaseException:
            ram.close()
            raise
    finally:
        guest.release(run=ran)
    pause = time.monotonic() - began
    sink = _StateSink(place)
    try:
        # By now more pages may be there than in the copy, never fewer.
        steps = [(block, _present_steps(block)) for block in guest.ram_blocks()]
        _write(guest, sections, sink, ram, steps, on_progress, run=ran)
        ram.close()
        place.keep(sink.end())
    except BaseException:
        place.thaw()
        raise
    finally:
        ram.close()
    return SaveReport(pause, time.monotonic() - began, sink.position)


def _present_steps(block: RamBlock) -> list[int]:
    """The offsets of those STEPs of a block that may hold something."""
    flags = np.zeros(-(-block.size // STEP), np.bool_)
    for first, count in block.present().tolist():
        flags[first * PAGE // STEP : -(-(first + count) * PAGE // STEP)] = True
    return [int(index) * STEP for index in np.flatnonzero(flags)]


def _write(
    guest: Guest,
    sections: Sequence[Section],
    sink: _StateSink,
    ram: RamCopy,
    blocks: Sequence[tuple[RamBlock, list[int]]],
    on_progress: OnProgress,
    *,
    run: bool,
) -> None:
    writer = StreamWriter(sink)
    writer.start()
    writer.frame(Kind.CONFIG, {"machine": dict(guest.configuration()), "two-way": False})
    done, total = 0, sum(len(steps) for _block, steps in blocks) * STEP
    for block, steps in blocks:
        writer.frame(Kind.MAP, {"block": block.name, "size": block.size})
        start = sink.align()
        for offset in steps:
            sink.put(start + offset, ram.read(block.name, offset // PAGE, min(STEP, block.size - offset)))
            done += STEP
            on_progress(done, total)
        sink.skip(block.size)
    for section in sections:
        writer.frame(Kind.SECTION, section.to_wire())
    writer.frame(Kind.DESCRIPTION, {"sections": describe_sections(guest.savables())})
    writer.frame(Kind.END, {"run": run})


class _StateSink:
    """Frames one after the other, and RAM at its places between them."""

    def __init__(self, place: NewSnapshot) -> None:
        self._place = place
        self._frames = bytearray()  # from a cluster's start on, not written yet
        self.position = 0  # where the next frame goes

    def write(self, *buffers: Buffer) -> None:
        """Take frames."""
        for buffer in buffers:
            self._frames += buffer
            self.position += len(buffer)

    def align(self) -> int:
        """Write the frames so far, and go on at the next cluster: where that is."""
        length = len(self._frames)
        start = self.position - length
        self.put(start, self._frames)
        self._frames = bytearray()
        self.position = start + self._whole(length)
        return self.position

    def put(self, position: int, data: bytearray | memoryview) -> None:
        """Write data at a cluster's start, and zeroes up to a cluster's end."""
        length = self._whole(len(data))
        if length > len(data):
            data = bytearray(data) + bytes(length - len(data))
        self._place.put_state(position, data)

    def skip(self, length: int) -> None:
        """Leave the clusters out that RAM lies in."""
        self.position += self._whole(length)

    def end(self) -> int:
        """Write what is left: the size of the state."""
        size = self.position
        self.align()
        self.position = size
        return size

    def _whole(self, length: int) -> int:
        return -(-length // self._place.cluster_size) * self._place.cluster_size


@dataclass(frozen=True, slots=True)
class StateRegion:
    """RAM in a state."""

    saved: SavedState
    position: int

    def fill(self, block: RamBlock) -> None:
        """Give a block, which is all zero, its content."""
        data = block.words.reshape(-1).data.cast("B")
        for position, length in self.saved.data_runs(self.position, block.size):
            offset = position - self.position
            self.saved.readv(position, [data[offset : offset + length]])


class StateSource:
    """The frames of a state one after the other, for a StreamReader."""

    def __init__(self, saved: SavedState) -> None:
        self._saved = saved
        self._position = 0

    def read_into(self, view: memoryview) -> None:
        """Fill `view`."""
        if self._position + len(view) > self._saved.size:
            left = self._saved.size - self._position
            raise StreamError(f"the state ends {len(view) - left} bytes short of the {len(view)} expected")
        self._saved.readv(self._position, [view])
        self._position += len(view)

    def find(self, size: Wire, expected: int, name: str) -> StateRegion:
        """The region behind a MAP frame that was just read; reading goes on behind it."""
        if size != expected:
            raise StreamError(f"MAP frame: {name} has {size!r:.40} bytes in the stream, must have {expected}")
        cluster = self._saved.cluster_size
        start = -(-self._position // cluster) * cluster
        self._position = start + -(-expected // cluster) * cluster
        if self._position > self._saved.size:
            raise StreamError(f"MAP frame: {name} needs a state of {self._position} bytes, it has {self._saved.size}")
        return StateRegion(self._saved, start)


def load_inside(guest: Guest, saved: SavedState, apply_disks: Callable[[], None], *, label: str) -> None:
    """Replace the guest by a saved one; running before, it runs after. A refused state changes nothing.

    When disks or RAM cannot be read to their end, the guest stays paused: `replaced`.
    """
    check_may_be(guest, "replaced")
    source = StateSource(saved)
    reader = StreamReader(source)
    reader.start()
    check_same_machine(reader.expect(Kind.CONFIG).fields().get("machine"), guest.configuration(), uuid=False)
    state = receive(reader, guest.ram_blocks(), label=label, find=source.find, ram_now=False)
    plan = plan_load(guest.savables(), state.sections)

    def commit() -> None:
        plan.commit()
        guest.loaded()

    with replaced(guest, plan.states):
        apply_disks()
        for block, region in state.regions:
            block.discard()
            region.fill(block)
        guest.call(commit)
