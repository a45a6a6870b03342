"""The journal checker finds every way in which a record can be wrong."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import ConfigError, ImageError, ImageErrorKind
from images.journal import FIRST_SECTOR, SECTOR, JournalFault, JournalReport, main, read_journal, scan_journal

MASK = (1 << 64) - 1
DISK_SECTORS = 64

counts = st.integers(min_value=2, max_value=20)


def stream(seed: int, words: int) -> list[int]:
    """xorshift64* as images/tiny/README.md states it, one word at a time."""
    state = seed ^ 0x9E3779B97F4A7C15
    out = []
    for _ in range(words):
        state ^= state >> 12
        state ^= state << 25 & MASK
        state ^= state >> 27
        out.append(state * 0x2545F4914F6CDD1D & MASK)
    return out


def record(number: int, time_ns: int = 5) -> bytes:
    body = struct.pack("<QQ61Q", number, time_ns, *stream(number, 61))
    return b"EMUJ" + struct.pack("<I", zlib.crc32(b"EMUJ\0\0\0\0" + body)) + body


def at(number: int) -> slice[int, int, None]:
    start = (FIRST_SECTOR + number - 1) * SECTOR
    return slice(start, start + SECTOR)


def disk(records: int) -> bytearray:
    image = bytearray(DISK_SECTORS * SECTOR)
    for number in range(1, records + 1):
        image[at(number)] = record(number, number * 1000)
    return image


def scan(image: bytearray) -> JournalReport:
    return scan_journal(lambda offset, length: bytes(image[offset : offset + length]), len(image))


@given(st.integers(min_value=0, max_value=DISK_SECTORS - FIRST_SECTOR))
def test_journal_of_any_length_is_intact(count: int) -> None:
    report = scan(disk(count))

    assert report == JournalReport(
        records=count, first_bad=None, fault=None, time_ns=tuple(1000 * number for number in range(1, count + 1))
    )


@given(counts, st.data())
def test_one_changed_bit_is_a_torn_record(count: int, data: st.DataObject) -> None:
    image = disk(count)
    number = data.draw(st.integers(1, count))
    offset = data.draw(st.integers(0, SECTOR - 1))
    image[at(number).start + offset] ^= 1 << data.draw(st.integers(0, 7))

    report = scan(image)

    assert (report.records, report.first_bad, report.fault) == (number - 1, number, JournalFault.TORN)


@given(counts, st.integers(min_value=4, max_value=SECTOR - 8))
def test_last_record_written_up_to_any_byte_is_torn(count: int, kept: int) -> None:
    image = disk(count)
    image[at(count)] = record(count)[:kept].ljust(SECTOR, b"\0")

    report = scan(image)

    assert (report.records, report.first_bad, report.fault) == (count - 1, count, JournalFault.TORN)


@given(counts, st.integers(min_value=4, max_value=SECTOR - 8))
def test_last_record_without_its_head_is_torn(count: int, lost: int) -> None:
    image = disk(count)
    image[at(count)] = record(count)[lost:].rjust(SECTOR, b"\0")

    report = scan(image)

    assert (report.records, report.first_bad, report.fault) == (count - 1, count, JournalFault.TORN)


@given(counts, st.data())
def test_blank_sector_before_the_last_record_is_a_lost_record(count: int, data: st.DataObject) -> None:
    image = disk(count)
    number = data.draw(st.integers(1, count - 1))
    image[at(number)] = bytes(SECTOR)

    report = scan(image)

    assert (report.records, report.first_bad, report.fault) == (number - 1, number, JournalFault.LOST)


@given(counts, st.data())
def test_skipped_number_is_a_lost_record(count: int, data: st.DataObject) -> None:
    image = disk(count)
    number = data.draw(st.integers(1, count))
    image[at(number)] = record(number + data.draw(st.integers(1, 1000)))

    report = scan(image)

    assert (report.records, report.first_bad, report.fault) == (number - 1, number, JournalFault.LOST)


@given(counts, st.data())
def test_earlier_number_again_is_a_doubled_record(count: int, data: st.DataObject) -> None:
    image = disk(count)
    number = data.draw(st.integers(2, count))
    image[at(number)] = record(data.draw(st.integers(1, number - 1)))

    report = scan(image)

    assert (report.records, report.first_bad, report.fault) == (number - 1, number, JournalFault.DOUBLED)


@given(counts, st.data())
def test_earlier_number_after_a_gap_is_a_doubled_record(count: int, data: st.DataObject) -> None:
    image = disk(count)
    image[at(count + 3)] = record(data.draw(st.integers(1, count)))

    report = scan(image)

    assert (report.records, report.first_bad, report.fault) == (count, count + 1, JournalFault.DOUBLED)


@given(st.integers(min_value=0, max_value=10), st.integers(min_value=0, max_value=MASK))
def test_other_data_after_the_end_is_no_fault(count: int, seed: int) -> None:
    image = disk(count)
    image[at(count + 1)] = struct.pack("<64Q", *stream(seed, 64))

    report = scan(image)

    assert (report.records, report.first_bad) == (count, None)


@pytest.mark.parametrize("number", [0, 1 << 63, MASK])
def test_number_that_no_journal_reaches_is_torn(number: int) -> None:
    image = disk(3)
    image[at(4)] = record(number)

    assert scan(image).fault is JournalFault.TORN


@pytest.mark.parametrize("size", [0, 1, FIRST_SECTOR * SECTOR, FIRST_SECTOR * SECTOR + SECTOR - 1])
def test_disk_too_small_for_a_record_has_none(size: int) -> None:
    assert scan(bytearray(size)).records == 0


def test_records_beyond_one_batch_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("images.journal._BATCH", 4 * SECTOR)
    path = tmp_path / "disk.raw"
    path.write_bytes(disk(30))

    assert read_journal(path).records == 30


def test_sparse_disk_with_partial_last_sector_is_read(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(disk(5) + b"EMUJ")

    assert str(read_journal(path)) == "5 records, intact"


def test_missing_disk_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file") as caught:
        read_journal(tmp_path / "none")

    assert caught.value.kind is ImageErrorKind.MISSING


def test_qcow2_is_refused_and_not_read_as_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(8192))

    with pytest.raises(ConfigError, match="qcow2"):
        read_journal(path)


def test_command_tells_the_first_bad_record_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.raw"
    image = disk(9)
    image[at(4)] = bytes(SECTOR)
    path.write_bytes(image)

    code = main([str(path)])

    assert (code, capsys.readouterr().out) == (1, f"{path}: 3 records, then record 4 is lost\n")
