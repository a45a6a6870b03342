"""What a stream may look like when it is cut, damaged or made by an enemy: one sentence, and nothing has changed."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.errors import EmuError
from migration.channel import Channel
from migration.manager import Migrations
from migration.status import Status
from migration.stream import Kind, StreamReader, StreamWriter
from migration.vmstate import Wire
from tests.migration.fakes import FakeGuest, FakeHandover, FakeRam, pair

WAIT = 10
SMALL = 4  # pages of RAM in a stream that is cut at every byte


def make_guest() -> FakeGuest:
    here, _there = pair()
    here.ram = FakeRam(SMALL)
    here.ram.write(1, 99)
    here.machine = {**here.machine, "memory": here.ram.size}
    return here


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole stream of a small guest."""
    path = tmp_path_factory.mktemp("stream") / "stream"
    source = Migrations(make_guest())
    source.migrate(f"file:{path}")
    assert source.wait_over(WAIT)
    assert source.status is Status.COMPLETED
    return path.read_bytes()


def receive(data: bytes) -> tuple[FakeGuest, Migrations]:
    """Give `data` to a fresh machine and wait for what it makes of it."""
    guest = make_guest()
    guest.disks = FakeHandover(guest.disks._disk, active=False)
    guest.disks._disk.owner = None
    guest.running, guest.state = False, "inmigrate"
    for device in guest.devices:
        device.state.value = 1
    fd = os.memfd_create("stream")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    migrations = Migrations(guest)
    migrations.incoming(f"fd:{fd}")
    os.close(fd)
    assert migrations.wait_over(WAIT)
    return guest, migrations


def assert_refused(data: bytes) -> str:
    guest, migrations = receive(data)
    assert migrations.status is Status.FAILED
    assert [device.state.value for device in guest.devices] == [1, 1]
    assert not guest.disks.active
    assert guest.state == "inmigrate"
    assert migrations.error
    assert "\n" not in migrations.error
    assert len(migrations.error) < 400
    return migrations.error


def test_the_whole_stream_is_taken(stream: bytes) -> None:
    guest, migrations = receive(stream)
    assert migrations.error == ""
    assert [device.state.value for device in guest.devices] == [17, 1000]
    assert guest.running


def test_a_stream_cut_at_any_byte_is_refused(stream: bytes) -> None:
    page_data = stream.find(struct.pack("<Q", 99) * 16)
    cuts = [cut for cut in range(len(stream)) if not page_data + 8 < cut < page_data + 4080]
    assert len(cuts) > 400
    for cut in cuts:
        assert_refused(stream[:cut])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_found(stream: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(stream) * 8 - 1))
    damaged = bytearray(stream)
    damaged[position // 8] ^= 1 << position % 8
    assert_refused(bytes(damaged))


def test_another_version_is_refused_with_both_numbers(stream: bytes) -> None:
    assert "has version 9, this build reads 1" in assert_refused(stream[:8] + struct.pack("<I", 9) + stream[12:])


def test_something_else_is_not_a_stream() -> None:
    assert "not an emu stream" in assert_refused(b"\x7fELF" + bytes(100))


def frame(kind: int, payload: bytes, *, length: int | None = None) -> bytes:
    head = struct.pack("<BI", kind, len(payload) if length is None else length)
    return head + payload + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + payload))


def split(stream: bytes) -> list[tuple[int, bytes]]:
    frames, at = [], 12
    while at < len(stream):
        kind, size = struct.unpack_from("<BI", stream, at)
        frames.append((kind, stream[at + 5 : at + 5 + size]))
        at += 5 + size + 8
    return frames


def rewrite(stream: bytes, kind: Kind, change: Callable[[dict[str, Wire]], None]) -> bytes:
    """Change the map of the first frame of `kind`, with its hash made right again."""
    frames = split(stream)
    index = next(index for index, (number, _payload) in enumerate(frames) if number == kind)
    if kind is Kind.RAM:
        size = struct.unpack_from("<I", frames[index][1])[0]
        fields = msgpack.unpackb(frames[index][1][4 : 4 + size])
        change(fields)
        packed = msgpack.packb(fields)
        payload = struct.pack("<I", len(packed)) + packed + frames[index][1][4 + size :]
    else:
        fields = msgpack.unpackb(frames[index][1])
        change(fields)
        payload = msgpack.packb(fields)
    frames[index] = (int(kind), payload)
    return stream[:12] + b"".join(frame(number, payload) for number, payload in frames)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (Kind.CONFIG, {"machine": 7}, "must be a map"),
        (Kind.RAM, {"block": "rom"}, "RAM block 'rom' is none of this machine's: ram"),
        (Kind.RAM, {"pages": struct.pack("<I", SMALL)}, f"page {SMALL} is outside block 'ram' of {SMALL} pages"),
        (Kind.RAM, {"pages": b"abc"}, "page numbers of 4 bytes"),
        (Kind.RAM, {"pages": b""}, "4096 bytes of data for 0 pages"),
        (Kind.RAM, {"zero": bytes(4 * 1025)}, "at most 1024 page numbers"),
        (Kind.RAM, {"zero": struct.pack("<I", 1 << 31)}, "is outside block"),
        (Kind.SECTION, {"version": 2}, "counter has version 2 in the stream, this build reads 1..1"),
        (Kind.SECTION, {"version": 0}, "counter has version 0 in the stream, this build reads 1..1"),
        (Kind.SECTION, {"version": "1"}, "do not fit"),
        (Kind.SECTION, {"extra": 1}, "must have name, type, version, fields"),
        (Kind.SECTION, {"name": "c"}, "no section 'a'"),
        (Kind.SECTION, {"name": "b"}, "section 'b' twice"),
        (Kind.SECTION, {"type": "clock"}, "holds a 'clock', this machine has a 'counter' there"),
        (Kind.SECTION, {"fields": {"value": 1001}}, "counter.value is 0x3e9, must be 0..0x3e8"),
        (Kind.SECTION, {"fields": {"value": True}}, "counter.value is True, must be an integer"),
        (Kind.SECTION, {"fields": {}}, "counter.value is missing"),
        (Kind.SECTION, {"fields": {"value": 1, "other": 2}}, "counter.'other' is unknown"),
        (Kind.SECTION, {"fields": [1]}, "must be a map of fields"),
        (Kind.END, {"run": 1}, "run is 1, must be true or false"),
    ],
)
def test_a_hostile_field_is_refused_by_name(kind: Kind, change: dict[str, Wire], words: str, stream: bytes) -> None:
    assert words in assert_refused(rewrite(stream, kind, lambda fields: fields.update(change)))


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (frame(99, b""), "frame kind is 99, must be one of"),
        (frame(int(Kind.CONFIG), b"", length=1 << 31), "CONFIG frame says it has 2147483648 bytes, at most"),
        (frame(int(Kind.READY), b"\x80"), "got a READY frame, expected CONFIG"),
        (frame(int(Kind.CONFIG), b"\xc1"), "not a msgpack map"),
        (frame(int(Kind.CONFIG), msgpack.packb([1])), "holds list, must be a map"),
        (frame(int(Kind.CONFIG), b"\x82\xa1a\x01\xa1a\x02"), "the key 'a' twice"),
        (frame(int(Kind.CONFIG), b"\x81\x01\x02"), "CONFIG frame"),
        (frame(int(Kind.CONFIG), b"\x80\x80"), "CONFIG frame"),
    ],
)
def test_a_hostile_frame_is_refused(tail: bytes, words: str, stream: bytes) -> None:
    assert words in assert_refused(stream[:12] + tail)


@pytest.mark.parametrize(
    ("payload", "words"),
    [(b"ab", "must have at least 4"), (struct.pack("<I", 1 << 20) + b"x", "says its map has 1048576 bytes, 1 are there")],
)
def test_a_hostile_ram_frame_is_refused(payload: bytes, words: str, stream: bytes) -> None:
    config = split(stream)[0]
    assert words in assert_refused(stream[:12] + frame(*config) + frame(int(Kind.RAM), payload))


def test_missing_and_strange_sections_are_refused(stream: bytes) -> None:
    frames = split(stream)
    without = [item for item in frames if item[0] != Kind.SECTION]
    assert "has no section 'a'" in assert_refused(stream[:12] + b"".join(frame(*item) for item in without))
    strange = frame(int(Kind.SECTION), msgpack.packb({"name": "zz", "type": "x", "version": 1, "fields": {}}))
    body = b"".join(frame(*item) for item in frames[:-1])
    assert "section 'zz' that this machine has no device for" in assert_refused(
        stream[:12] + body + strange + frame(*frames[-1])
    )


@settings(max_examples=200, deadline=None)
@given(garbage=st.binary(max_size=200))
def test_garbage_behind_the_header_is_refused(garbage: bytes) -> None:
    assert_refused(b"emu-vm\r\n" + struct.pack("<I", 1) + garbage)


def test_frames_round_trip_and_count_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    channel = Channel(None, os.open(path, os.O_RDWR | os.O_CREAT, 0o600), two_way=False, label="frames")
    writer = StreamWriter(channel)
    writer.start()
    writer.frame(Kind.RAM, {"block": "ram"}, memoryview(b"data"))
    writer.frame(Kind.END, {"run": True})
    channel.close()
    assert writer.bytes_written == path.stat().st_size

    reading = Channel(os.open(path, os.O_RDONLY), None, two_way=False, label="frames")
    reader = StreamReader(reading)
    reader.start()
    fields, data = reader.next().fields_and_data()
    assert (fields, bytes(data)) == ({"block": "ram"}, b"data")
    assert reader.expect(Kind.END).fields() == {"run": True}
    with pytest.raises(EmuError, match="ends 5 bytes short"):
        reader.next()
    reading.close()
