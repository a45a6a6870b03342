"""The block device: every request type against a real file, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.blkrequest import HEADER, MAX_RANGE_SECTORS, MAX_RANGES, RANGE, SECTOR, BlkStatus, Feature, Type
from devices.virtio.device import RING_FEATURES
from devices.virtio.mmio import Interrupt, Reg
from tests.devices.virtio.disk import CONTENT, SECTORS, WRITEBACK, Disk
from tests.devices.virtio.driver import EVERYTHING, HeldExecutor


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
