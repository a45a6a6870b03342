"""DISK frames: what of a disk goes into one, and what hostile ones come to."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import numpy as np
import pytest

from emu.errors import EmuError, StreamError
from migration.blocks import BLOCKS_PER_FRAME, DiskCounters, DiskSender, IncomingDisks, runs_of
from migration.channel import Buffer
from migration.protocols import BLOCK
from migration.stream import Frame, Kind, StreamReader, StreamWriter
from tests.migration.fakes import DISK_SIZE, FakeMovedDisk


class Recorded:
    """A stream in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, *buffers: Buffer) -> None:
        for buffer in buffers:
            self.data += memoryview(buffer).cast("B")

    def read_into(self, view: memoryview) -> None:
        view[:] = self.data[: len(view)]
        del self.data[: len(view)]

    def frames(self) -> Iterator[Frame]:
        reader = StreamReader(self)
        while self.data:
            yield reader.next()


def test_a_disk_of_many_runs_goes_in_frames_of_4_mib() -> None:
    disk, recorded = FakeMovedDisk(size=3 * BLOCKS_PER_FRAME * BLOCK), Recorded()
    disk.data[:] = b"x" * disk.size
    flags = np.ones(disk.blocks, np.bool_)
    flags[::7] = False

    DiskSender(disk, StreamWriter(recorded), DiskCounters()).send(flags, lambda _size: None)

    sizes = [len(frame.fields_and_data()[1]) // BLOCK for frame in recorded.frames()]
    assert sum(sizes) == np.count_nonzero(flags)
    assert max(sizes) == BLOCKS_PER_FRAME


def test_runs_are_what_is_set() -> None:
    assert runs_of(np.array([1, 1, 0, 1, 0, 0, 1], np.bool_)).tolist() == [[0, 2], [3, 1], [6, 1]]
    assert runs_of(np.zeros(3, np.bool_)).tolist() == []


def disk_frame(fields: dict[str, object], blocks: int = 0) -> Frame:
    """A DISK frame with the data of `blocks` blocks."""
    packed = msgpack.packb({"disk": "disk", "blocks": b"", "zero": b""} | fields)
    return Frame(Kind.DISK, memoryview(len(packed).to_bytes(4, "little") + packed + bytes(blocks * BLOCK)))


def numbers(*values: int) -> bytes:
    return np.array(values, "<u4").tobytes()


@pytest.mark.parametrize(
    ("fields", "blocks", "words"),
    [
        ({"disk": "root"}, 0, "disk 'root' is none of those that come: disk"),
        ({"disk": ["disk"]}, 0, "is none of those that come"),
        ({"blocks": numbers(21)}, 1, "block 21 is outside disk 'disk' of 21 blocks"),
        ({"blocks": numbers(0xFFFFFFFF)}, 1, "is outside disk"),
        ({"blocks": numbers(1)}, 0, "0 bytes of data for 1 blocks"),
        ({"blocks": b"abc"}, 0, "at most 64 numbers of 4 bytes"),
        ({"blocks": bytes(4 * 65)}, 65, "at most 64 numbers of 4 bytes"),
        ({"blocks": 7}, 0, "at most 64 numbers of 4 bytes"),
        ({"zero": numbers(20, 2)}, 0, "block 21 is outside disk"),
        ({"zero": numbers(0xFFFFFFFF, 0xFFFFFFFF)}, 0, "is outside disk"),
        ({"zero": numbers(1)}, 0, "in pairs"),
    ],
)
def test_a_hostile_disk_frame_is_refused_and_writes_nothing(fields: dict[str, object], blocks: int, words: str) -> None:
    disk = FakeMovedDisk()
    disk.change(0, b"x" * DISK_SIZE)
    before = bytes(disk.data)
    incoming = IncomingDisks([disk], {"disk": {"backing": None, "place": "elsewhere"}})

    with pytest.raises(StreamError, match=words):
        incoming.take(disk_frame(fields, blocks))

    assert disk.data == before


def test_a_disk_frame_is_refused_where_disks_are_shared() -> None:
    with pytest.raises(StreamError, match="none of those that come: none"):
        IncomingDisks([FakeMovedDisk()], None).take(disk_frame({}))


@pytest.mark.parametrize(
    "described", [7, {"disk": 1}, {"disk": {}}, {"disk": {"place": "x", "backing": 1}}, {"disk": {"backing": None}}]
)
def test_a_hostile_description_is_refused(described: object) -> None:
    with pytest.raises(EmuError, match=r"must be a map|another backing|no backing"):
        IncomingDisks([FakeMovedDisk()], described)  # type: ignore[arg-type]  # hostile


def test_the_last_block_is_as_long_as_the_disk_has_it() -> None:
    disk = FakeMovedDisk()
    IncomingDisks([disk], {"disk": {"backing": None, "place": "elsewhere"}}).take(
        disk_frame({"blocks": numbers(20), "zero": numbers(19, 2)}, 1)
    )
    assert len(disk.data) == DISK_SIZE
