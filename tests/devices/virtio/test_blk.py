"""The block device: every request type against a real file, what it refuses, and requests in flight."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.blk import (
    HEADER,
    MAX_RANGE_SECTORS,
    MAX_RANGES,
    MAX_READ_AT_ONCE,
    RANGE,
    SECTOR,
    BlkStatus,
    Feature,
    Type,
    VirtioBlk,
    VirtioBlkState,
)
from devices.virtio.device import RING_EVENT_IDX, RING_FEATURES, VERSION_1, Status
from devices.virtio.mmio import Interrupt, Reg
from devices.virtio.workers import Executor
from emu.block.image import Image, open_image
from emu.errors import ImageError, ImageErrorKind, StateError
from migration.vmstate import dump, parse
from tests.devices.virtio.driver import EVERYTHING, Driver, HeldExecutor, InlineExecutor, Memory, Posts, Sent

SECTORS = 256
CONTENT = os.urandom(SECTORS * SECTOR)
WRITEBACK = 32  # offset in the configuration space
WAIT = 10  # seconds; only a hang takes so long


class CountingImage:
    """An image that notes the calls made to it and can be told to fail."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self.calls: list[str] = []
        self.broken = False
        self.cached = False  # whether the host has everything in its cache

    def readv_cached(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        return self.cached and self._image.readv_cached(offset, buffers)

    def close(self) -> None:
        self._image.close()

    def __getattr__(self, name: str) -> object:
        if name not in ("readv", "writev", "flush", "discard", "write_zeroes"):
            return getattr(self._image, name)
        self.calls.append(name)
        if self.broken:
            raise ImageError(ImageErrorKind.IO, self._image.path, f"{name} failed")
        return getattr(self._image, name)


class Disk:
    """A block device, its file, and the driver of a guest that uses it."""

    def __init__(self, path: Path, *, read_only: bool = False, executor: Executor | None = None) -> None:
        self.path = path
        self.image = CountingImage(open_image(str(path), "raw", read_only=read_only, active=True))
        self.posts = Posts()
        self.memory = Memory()
        self.driver = Driver(self.new_device(executor or InlineExecutor()), self.memory)

    def new_device(self, executor: Executor) -> VirtioBlk:
        return VirtioBlk(
            "disk0",
            self.memory,
            self.image,  # type: ignore[arg-type]
            executor=executor,
            post=self.posts,
            serial="SERIAL-0123456789-TOO-LONG",
        )

    def start(self, *, features: int = EVERYTHING & ~RING_EVENT_IDX, size: int = 256) -> Disk:
        self.driver.start(features=features, size=size)
        return self

    def send(self, kind: int, sector: int = 0, payload: Sequence[bytes] = (), room: Sequence[int] = ()) -> Sent:
        """Make a request available; its status byte is the last of its room."""
        return self.driver.add([HEADER.pack(kind, 0, sector), *payload], [*room, 1], indirect=True)

    def ask(self, kind: int, sector: int = 0, payload: Sequence[bytes] = (), room: Sequence[int] = ()) -> tuple[int, bytes]:
        """Carry a request out; its status and data."""
        sent = self.send(kind, sector, payload, room)
        self.driver.kick()
        self.posts.run()
        [(head, length)] = self.driver.used()
        answer = self.driver.content(sent)
        assert head == sent.head
        assert 1 <= length <= len(answer)
        return answer[-1], answer[:-1]

    def config(self, layout: str, offset: int) -> int:
        return self.driver.bus.read(Reg.CONFIG + offset, struct.calcsize(layout))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def disk(path: Path) -> Disk:
    return Disk(path).start()


@pytest.fixture
def read_only_disk(path: Path) -> Disk:
    return Disk(path, read_only=True).start()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_configuration_space_tells_the_disk(disk: Disk) -> None:
    assert disk.config("<Q", 0) == SECTORS
    assert disk.config("<I", 12) == 254  # seg_max: the queue without header and status
    assert disk.config("<I", 20) == 512  # blk_size
    assert disk.config("<B", 24) == 3  # 4 KiB physical blocks
    assert disk.config("<H", 26) == 8  # min_io_size in blocks
    assert disk.config("<B", 32) == 1  # writeback
    assert disk.config("<H", 34) == 1  # num_queues
    assert disk.config("<I", 36) == MAX_RANGE_SECTORS
    assert disk.config("<I", 40) == MAX_RANGES
    assert disk.config("<I", 44) == 8  # discard_sector_alignment
    assert disk.config("<I", 48) == MAX_RANGE_SECTORS
    assert disk.config("<I", 52) == MAX_RANGES
    assert disk.config("<B", 56) == 1  # write_zeroes_may_unmap
    assert disk.config("<I", 60) == 0


def test_features_of_a_writable_and_a_read_only_disk(disk: Disk, path: Path) -> None:
    disk.image.close()
    read_only = Disk(path, read_only=True)

    both = {Feature.SEG_MAX, Feature.BLK_SIZE, Feature.FLUSH, Feature.TOPOLOGY, Feature.CONFIG_WCE}
    offered = {feature for feature in Feature if disk.driver.offered() >> feature & 1}
    offered_read_only = {feature for feature in Feature if read_only.driver.offered() >> feature & 1}

    assert offered == both | {Feature.DISCARD, Feature.WRITE_ZEROES}
    assert offered_read_only == both | {Feature.RO}


def test_read_fills_pieces_of_any_size(disk: Disk) -> None:
    status, data = disk.ask(Type.IN, 3, room=[1, 511, 1000, 24])

    assert status == BlkStatus.OK
    assert data == CONTENT[3 * SECTOR : 6 * SECTOR]


def test_write_takes_pieces_of_any_size(disk: Disk, path: Path) -> None:
    status, _ = disk.ask(Type.OUT, 2, [b"a" * 5, b"b" * 1000, b"c" * 19])

    assert status == BlkStatus.OK
    assert path.read_bytes()[2 * SECTOR : 4 * SECTOR] == b"a" * 5 + b"b" * 1000 + b"c" * 19


def test_header_and_status_may_be_anywhere(disk: Disk, path: Path) -> None:
    header = HEADER.pack(Type.OUT, 0, 1)
    sent = disk.driver.add([header[:3], header[3:] + b"x" * 12, b"y" * 500], [1])

    disk.driver.kick()
    disk.posts.run()

    assert disk.driver.content(sent) == bytes([BlkStatus.OK])
    assert path.read_bytes()[SECTOR : 2 * SECTOR] == b"x" * 12 + b"y" * 500


def test_status_is_the_last_byte_of_a_common_buffer(disk: Disk) -> None:
    sent = disk.driver.add([HEADER.pack(Type.IN, 0, 0)], [SECTOR + 1])

    disk.driver.kick()
    disk.posts.run()

    assert disk.driver.used() == [(sent.head, SECTOR + 1)]
    assert disk.driver.content(sent) == CONTENT[:SECTOR] + bytes([BlkStatus.OK])


def test_memory_is_told_what_workers_wrote(path: Path) -> None:
    held = HeldExecutor()
    disk = Disk(path, executor=held).start()
    sent = disk.send(Type.IN, 0, room=[SECTOR, SECTOR])
    disk.driver.kick()
    held.run()
    before = list(disk.memory.told)

    disk.posts.run()

    assert before == []
    assert disk.memory.told == sent.writable


def test_get_id_is_the_serial_cut_to_20_bytes(disk: Disk) -> None:
    assert disk.ask(Type.GET_ID, room=[20]) == (BlkStatus.OK, b"SERIAL-0123456789-TO")


def test_get_id_in_a_larger_or_smaller_buffer(disk: Disk) -> None:
    assert disk.ask(Type.GET_ID, room=[3, 30]) == (BlkStatus.OK, b"SERIAL-0123456789-TO" + bytes(13))
    assert disk.ask(Type.GET_ID, room=[6]) == (BlkStatus.OK, b"SERIAL")


def test_flush_reaches_the_image(disk: Disk) -> None:
    disk.ask(Type.OUT, 0, [bytes(SECTOR)])
    status, _ = disk.ask(Type.FLUSH)

    assert status == BlkStatus.OK
    assert disk.image.calls == ["writev", "flush"]


@pytest.mark.parametrize("flags", [0, 1])
def test_write_zeroes_zeroes_its_ranges(disk: Disk, path: Path, flags: int) -> None:
    status, _ = disk.ask(Type.WRITE_ZEROES, 0, [RANGE.pack(1, 2, flags) + RANGE.pack(10, 1, flags)])

    after = path.read_bytes()
    assert status == BlkStatus.OK
    assert after[:SECTOR] == CONTENT[:SECTOR]
    assert after[SECTOR : 3 * SECTOR] == bytes(2 * SECTOR)
    assert after[3 * SECTOR : 10 * SECTOR] == CONTENT[3 * SECTOR : 10 * SECTOR]
    assert after[10 * SECTOR : 11 * SECTOR] == bytes(SECTOR)


def test_discard_gives_the_range_back(disk: Disk, path: Path) -> None:
    status, _ = disk.ask(Type.DISCARD, 0, [RANGE.pack(0, SECTORS, 0)])

    assert status == BlkStatus.OK
    assert path.stat().st_blocks == 0


@pytest.mark.parametrize(
    ("ranges", "status"),
    [
        pytest.param(b"", BlkStatus.IOERR, id="none"),
        pytest.param(RANGE.pack(0, 1, 0)[:15], BlkStatus.IOERR, id="cut"),
        pytest.param(RANGE.pack(0, 1, 0) * (MAX_RANGES + 1), BlkStatus.IOERR, id="too-many"),
        pytest.param(RANGE.pack(0, MAX_RANGE_SECTORS + 1, 0), BlkStatus.IOERR, id="too-long"),
        pytest.param(RANGE.pack(SECTORS - 1, 2, 0), BlkStatus.IOERR, id="beyond"),
        pytest.param(RANGE.pack((1 << 64) - 1, 1, 0), BlkStatus.IOERR, id="wraps"),
        pytest.param(RANGE.pack(0, 1, 0) + RANGE.pack(SECTORS, 1, 0), BlkStatus.IOERR, id="second-beyond"),
        pytest.param(RANGE.pack(0, 1, 2), BlkStatus.UNSUPP, id="unknown-flag"),
    ],
)
@pytest.mark.parametrize("kind", [Type.DISCARD, Type.WRITE_ZEROES])
def test_bad_ranges_are_refused_before_any_is_touched(disk: Disk, path: Path, kind: Type, ranges: bytes, status: int) -> None:
    answer, _ = disk.ask(kind, 0, [ranges])

    assert answer == status
    assert path.read_bytes() == CONTENT


def test_discard_with_the_unmap_flag_is_unsupported(disk: Disk) -> None:
    assert disk.ask(Type.DISCARD, 0, [RANGE.pack(0, 1, 1)]) == (BlkStatus.UNSUPP, b"")


@pytest.mark.parametrize("kind", [Type.DISCARD, Type.WRITE_ZEROES])
def test_request_of_a_feature_not_negotiated_is_unsupported(disk: Disk, kind: Type) -> None:
    disk.start(features=RING_FEATURES)

    assert disk.ask(kind, 0, [RANGE.pack(0, 1, 0)]) == (BlkStatus.UNSUPP, b"")


@pytest.mark.parametrize("kind", [2, 3, 5, 10, 12, 14, 0x8000_0000, 0xFFFF_FFFF])
def test_unknown_request_is_unsupported(disk: Disk, kind: int) -> None:
    assert disk.ask(kind) == (BlkStatus.UNSUPP, b"")


@pytest.mark.parametrize("sector", [SECTORS, SECTORS - 1, (1 << 64) - 1, 1 << 55])
def test_transfer_beyond_the_disk_is_an_error(disk: Disk, path: Path, sector: int) -> None:
    read, _ = disk.ask(Type.IN, sector, room=[2 * SECTOR])
    write, _ = disk.ask(Type.OUT, sector, [bytes(2 * SECTOR)])

    assert (read, write) == (BlkStatus.IOERR, BlkStatus.IOERR)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [1, 511, 513])
def test_transfer_of_part_of_a_sector_is_an_error(disk: Disk, path: Path, size: int) -> None:
    read, _ = disk.ask(Type.IN, 0, room=[size])
    write, _ = disk.ask(Type.OUT, 0, [bytes(size)])

    assert (read, write) == (BlkStatus.IOERR, BlkStatus.IOERR)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("header", [[], [b"x"], [bytes(15)]])
def test_short_header_is_an_error(disk: Disk, header: list[bytes]) -> None:
    sent = disk.driver.add(header, [1])

    disk.driver.kick()
    disk.posts.run()

    assert disk.driver.used() == [(sent.head, 1)]
    assert disk.driver.content(sent) == bytes([BlkStatus.IOERR])


def test_request_without_room_for_its_status_asks_for_a_reset(disk: Disk) -> None:
    disk.driver.add([HEADER.pack(Type.FLUSH, 0, 0)], [])

    disk.driver.kick()

    assert disk.driver.needs_reset
    assert disk.driver.take_interrupt() == Interrupt.CONFIG_CHANGE


def test_disk_whose_file_ends_in_part_of_a_sector_ends_before_it(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(1000))
    disk = Disk(path).start()

    assert disk.config("<Q", 0) == 1
    assert disk.ask(Type.IN, 1, room=[SECTOR])[0] == BlkStatus.IOERR


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(Type.OUT, bytes(SECTOR)), (Type.DISCARD, RANGE.pack(0, 1, 0)), (Type.WRITE_ZEROES, RANGE.pack(0, 1, 0))],
)
def test_read_only_disk_is_not_changed(read_only_disk: Disk, path: Path, kind: Type, payload: bytes) -> None:
    status, _ = read_only_disk.ask(kind, 0, [payload])

    assert status != BlkStatus.OK
    assert path.read_bytes() == CONTENT


def test_read_only_disk_is_read_and_flushed(read_only_disk: Disk) -> None:
    assert read_only_disk.ask(Type.IN, 0, room=[SECTOR]) == (BlkStatus.OK, CONTENT[:SECTOR])
    assert read_only_disk.ask(Type.FLUSH) == (BlkStatus.OK, b"")


def test_image_error_is_told_to_the_guest(disk: Disk) -> None:
    disk.image.broken = True

    statuses = [disk.ask(kind, room=[SECTOR])[0] for kind in (Type.IN, Type.FLUSH)]
    disk.image.broken = False

    assert statuses == [BlkStatus.IOERR, BlkStatus.IOERR]
    assert disk.ask(Type.IN, 0, room=[SECTOR])[0] == BlkStatus.OK


@pytest.mark.parametrize(
    ("features", "writeback", "calls"),
    [
        pytest.param(EVERYTHING, 1, ["writev"], id="writeback"),
        pytest.param(EVERYTHING, 0, ["writev", "flush"], id="writethrough-chosen"),
        pytest.param(RING_FEATURES, 1, ["writev", "flush"], id="driver-knows-no-flush"),
        pytest.param(RING_FEATURES | 1 << Feature.FLUSH, 0, ["writev"], id="driver-cannot-choose"),
    ],
)
def test_write_is_on_disk_when_the_driver_counts_on_it(disk: Disk, features: int, writeback: int, calls: list[str]) -> None:
    disk.start(features=features)
    disk.driver.bus.write(Reg.CONFIG + WRITEBACK, 1, writeback)

    disk.ask(Type.OUT, 0, [bytes(SECTOR)])

    assert disk.image.calls == calls


def test_configuration_is_read_only_but_for_writeback(disk: Disk) -> None:
    for offset in (0, 12, 20, 36, 56):
        disk.driver.bus.write(Reg.CONFIG + offset, 4, 0xFFFF_FFFF)
    disk.driver.bus.write(Reg.CONFIG + WRITEBACK, 1, 0xFE)
    disk.driver.bus.write(Reg.CONFIG + 0xFC, 4, 1)

    assert disk.config("<Q", 0) == SECTORS
    assert disk.config("<B", WRITEBACK) == 0


def test_completions_of_one_batch_share_one_interrupt(path: Path) -> None:
    held = HeldExecutor()
    disk = Disk(path, executor=held).start(features=VERSION_1)
    for sector in range(20):
        disk.driver.add([HEADER.pack(Type.IN, 0, sector)], [SECTOR, 1])
    disk.driver.kick()
    held.run()
    posted = len(disk.posts.waiting)

    disk.posts.run()

    assert posted == 1
    assert len(disk.driver.used()) == 20
    assert disk.driver.line.raised == 1


def test_256_requests_in_flight_all_come_back_right(path: Path, pool: ThreadPoolExecutor) -> None:
    disk = Disk(path, executor=pool).start()
    sent = [disk.send(Type.IN, sector, room=[SECTOR]) for sector in range(SECTORS)]

    disk.driver.kick()
    disk.driver.device.drain()

    assert sorted(disk.driver.used()) == sorted((request.head, SECTOR + 1) for request in sent)
    assert b"".join(disk.driver.content(request)[:-1] for request in sent) == CONTENT
    assert {disk.driver.content(request)[-1] for request in sent} == {BlkStatus.OK}


def test_same_chain_again_and_again_is_bounded_by_the_queue(path: Path) -> None:
    disk = Disk(path, executor=HeldExecutor()).start(features=VERSION_1, size=4)
    sent = disk.driver.add([HEADER.pack(Type.IN, 0, 0)], [SECTOR, 1])
    disk.driver.kick()
    for _ in range(4):
        disk.driver.make_available(sent.head)
        disk.driver.kick()

    assert disk.driver.needs_reset


def test_flush_waits_for_no_write_but_covers_completed_ones(path: Path, pool: ThreadPoolExecutor) -> None:
    disk = Disk(path, executor=pool).start()
    for sector in range(64):
        disk.send(Type.OUT, sector, [bytes([sector]) * SECTOR])
    disk.driver.kick()
    disk.driver.device.drain()
    disk.send(Type.FLUSH)
    disk.driver.kick()
    disk.driver.device.drain()

    assert disk.image.calls == ["writev"] * 64 + ["flush"]
    assert path.read_bytes()[: 64 * SECTOR] == b"".join(bytes([sector]) * SECTOR for sector in range(64))


def test_a_small_read_from_the_hosts_cache_needs_no_worker(path: Path) -> None:
    disk = Disk(path, executor=HeldExecutor()).start()
    disk.image.cached = True

    status, data = disk.ask(Type.IN, 3, room=[4096])

    assert (status, data) == (BlkStatus.OK, CONTENT[3 * SECTOR : 3 * SECTOR + 4096])


def test_a_large_read_is_always_a_workers(path: Path) -> None:
    executor = HeldExecutor()
    disk = Disk(path, executor=executor).start()
    disk.image.cached = True
    disk.send(Type.IN, 0, room=[MAX_READ_AT_ONCE + SECTOR])

    disk.driver.kick()

    assert disk.driver.used() == []
    executor.run()
    disk.posts.run()
    assert len(disk.driver.used()) == 1


class SlowImage:
    """An image whose reads wait until the test lets them go."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self.reading = threading.Event()
        self.go_on = threading.Event()

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.reading.set()
        self.go_on.wait(WAIT)
        self._image.readv(offset, buffers)

    def __getattr__(self, name: str) -> object:
        return getattr(self._image, name)


def slow_disk(path: Path, pool: ThreadPoolExecutor) -> tuple[Disk, SlowImage]:
    disk = Disk(path, executor=pool)
    slow = SlowImage(disk.image)  # type: ignore[arg-type]
    disk.image = slow  # type: ignore[assignment]
    disk.driver = Driver(disk.new_device(pool), disk.memory)
    return disk.start(), slow


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_drain_returns_only_when_the_rings_show_the_completion(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    sent = disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    thread = in_background(disk.driver.device.drain)
    assert slow.reading.wait(WAIT)
    early = disk.driver.used()

    slow.go_on.set()
    thread.join(WAIT)

    assert early == []
    assert disk.driver.used() == [(sent.head, SECTOR + 1)]


def test_requests_that_are_done_in_a_moment_need_no_post(disk: Disk) -> None:
    for sector in range(20):
        disk.send(Type.IN, sector, room=[SECTOR])

    disk.driver.kick()

    assert disk.posts.waiting == []
    assert len(disk.driver.used()) == 20
    assert disk.driver.line.raised == 1


def test_post_that_comes_after_drain_changes_nothing(path: Path) -> None:
    held = HeldExecutor()
    disk = Disk(path, executor=held).start()
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    held.run()
    disk.driver.device.drain()
    state = dump(disk.driver.device.save())
    disk.driver.take_interrupt()

    disk.posts.run()

    assert dump(disk.driver.device.save()) == state
    assert disk.driver.take_interrupt() == 0


def test_other_requests_go_on_while_one_is_slow(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    assert slow.reading.wait(WAIT)
    second = disk.send(Type.FLUSH)
    disk.driver.kick()
    if not (first_back := disk.driver.used()):  # else it was done while the vCPU waited
        assert disk.posts.came.wait(WAIT)
        disk.posts.run()
        first_back = disk.driver.used()
    slow.go_on.set()
    disk.driver.device.drain()

    assert [head for head, _ in first_back] == [second.head]
    assert len(disk.driver.used()) == 1


def test_reset_lets_no_old_request_touch_the_new_rings(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    assert slow.reading.wait(WAIT)

    slow.go_on.set()
    disk.start()
    disk.posts.run()

    assert disk.driver.used() == []
    assert disk.driver.device.save().queues[0].used_idx == 0
    assert not disk.driver.line.level


def test_disabling_a_queue_waits_for_its_requests(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    sent = disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    assert slow.reading.wait(WAIT)
    slow.go_on.set()

    disk.driver.write(Reg.QUEUE_READY, 0)

    assert disk.driver.read(Reg.QUEUE_READY) == 0
    assert disk.driver.used() == [(sent.head, SECTOR + 1)]


def test_state_with_a_request_in_flight_is_refused(path: Path) -> None:
    disk = Disk(path, executor=HeldExecutor()).start()
    disk.send(Type.FLUSH)
    disk.driver.kick()

    with pytest.raises(StateError, match=r"virtio-blk\.queues\[0\] has 1 chains in flight, must have 0"):
        dump(disk.driver.device.save())


def test_fresh_device_goes_on_where_the_saved_one_was(disk: Disk) -> None:
    disk.driver.bus.write(Reg.CONFIG + WRITEBACK, 1, 0)
    disk.ask(Type.OUT, 7, [b"before the move".ljust(SECTOR)])
    old, transport = disk.driver.device, disk.driver.bus
    fresh = disk.new_device(InlineExecutor())
    fresh.load(parse(VirtioBlkState, 1, dump(old.save())))
    transport.device = fresh
    fresh.interrupts = transport
    disk.driver.take_interrupt()

    answer = disk.ask(Type.IN, 7, room=[SECTOR])

    assert answer == (BlkStatus.OK, b"before the move".ljust(SECTOR))
    assert disk.driver.take_interrupt() == Interrupt.USED_BUFFER
    assert disk.config("<B", WRITEBACK) == 0
    assert disk.driver.status & Status.DRIVER_OK


def test_bug_in_a_worker_stops_the_machine_not_the_drain(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.image, "readv", lambda *_: 1 / 0, raising=False)
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()

    disk.driver.device.drain()

    with pytest.raises(ZeroDivisionError):
        disk.posts.run()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.binary(max_size=40), max_size=4),
    st.lists(st.sampled_from([0, 1, 19, 512, 513, 1024]), max_size=4),
    st.sampled_from([0, 1, 4, 8, 11, 13, 99]),
    st.sampled_from([0, 1, SECTORS - 1, SECTORS, (1 << 64) - 1]),
    st.integers(0, 16),
)
def test_no_request_raises(
    tmp_path_factory: pytest.TempPathFactory, payload: list[bytes], room: list[int], kind: int, sector: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("blk") / "disk.img"
    path.write_bytes(bytes(SECTORS * SECTOR))
    disk = Disk(path).start()
    sent = disk.driver.add([HEADER.pack(kind, 0, sector)[:cut], *payload], room)

    disk.driver.kick()
    disk.posts.run()

    answered = disk.driver.used() == [] or disk.driver.content(sent)[-1] in list(BlkStatus)
    assert disk.driver.needs_reset or answered
    assert path.stat().st_size == SECTORS * SECTOR
    disk.image.close()
