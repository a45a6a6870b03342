"""Checks the journal that the tiny guest keeps on its disk: no record lost, doubled or torn (format: images/tiny/README.md).

`python -m images.journal DISK.raw` tells what it found and exits 1 unless the journal is intact.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emu.errors import ConfigError, EmuError, ImageError, ImageErrorKind

SECTOR = 512
FIRST_SECTOR = 8  # of record 1

_MAGIC = int.from_bytes(b"EMUJ", "little")
_RECORD = np.dtype([("magic", "<u4"), ("crc", "<u4"), ("number", "<u8"), ("time_ns", "<u8"), ("filler", "<u8", (61,))])
_BATCH = 32 << 20  # bytes looked at in one go, so that a large disk needs no more memory than this
_QCOW2 = b"QFI\xfb"
_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
_MULTIPLIER = np.uint64(0x2545_F491_4F6C_DD1D)


class JournalFault(Enum):
    """What is wrong with the first bad record."""

    TORN = "torn"  # the sector was written in part, or changed afterwards
    LOST = "lost"  # another record, or none, is in its place, and later ones exist
    DOUBLED = "doubled"  # an earlier record is there again


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalReport:
    """What a disk's journal proves: records 1 to `records` are there, once each and whole."""

    records: int
    first_bad: int | None  # the number of the record that should be there; None if the journal is intact
    fault: JournalFault | None
    time_ns: tuple[int, ...]  # guest time of each record; smaller than the one before it after a reboot

    @property
    def intact(self) -> bool:
        """True if nothing is lost, doubled or torn."""
        return self.first_bad is None

    def __str__(self) -> str:
        if self.fault is None:
            return f"{self.records} records, intact"
        return f"{self.records} records, then record {self.first_bad} is {self.fault.value}"


def read_journal(path: str | os.PathLike[str]) -> JournalReport:
    """The journal of a raw disk image; ImageError or ConfigError if it cannot be read as one."""
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if os.pread(file.fileno(), len(_QCOW2), 0) == _QCOW2:
                raise ConfigError(
                    f"{name}: is a qcow2 image; read it through the block layer and scan_journal, or convert it to raw"
                )
            return scan_journal(lambda offset, length: os.pread(file.fileno(), length, offset), size)
    except FileNotFoundError as exc:
        raise ImageError(ImageErrorKind.MISSING, name, "no such file") from exc
    except OSError as exc:
        raise ImageError(ImageErrorKind.IO, name, f"cannot be read: {exc.strerror}") from exc


def scan_journal(read: Callable[[int, int], bytes], size: int) -> JournalReport:
    """The journal of a disk of `size` bytes; `read(offset, length)` gives its content."""
    first = FIRST_SECTOR * SECTOR
    end = size // SECTOR * SECTOR
    places, numbers, times = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for offset in range(first, end, _BATCH):
        sectors = np.frombuffer(read(offset, min(_BATCH, end - offset)), _RECORD)
        marked = np.flatnonzero(sectors["magic"] == _MAGIC)
        found = sectors[marked]
        places.append(marked + (offset - first) // SECTOR + 1)
        numbers.append(np.where(_whole(found), found["number"], np.uint64(0)))
        times.append(found["time_ns"])
    place, number = np.concatenate(places), np.concatenate(numbers).astype(np.int64)

    ordinal = np.arange(1, len(place) + 1)
    wrong = np.flatnonzero((place != ordinal) | (number != ordinal))
    records = int(wrong[0]) if len(wrong) else len(place)
    beheaded = False
    if first + records * SECTOR < end:
        next_sector = np.frombuffer(read(first + records * SECTOR, SECTOR), _RECORD)
        beheaded = bool(np.any(next_sector["filler"] == _fillers(np.array([records + 1], np.uint64))))
    fault = _fault(place[records:], number[records:], records + 1, beheaded)
    times_ns = tuple(int(time) for time in np.concatenate(times)[:records])
    return JournalReport(records=records, first_bad=None if fault is None else records + 1, fault=fault, time_ns=times_ns)


def _fault(place: npt.NDArray[np.int64], number: npt.NDArray[np.int64], expected: int, beheaded: bool) -> JournalFault | None:
    """Why record `expected` is missing, given what starts like a record from its place on (number 0 if it is not whole) and
    whether a part of its own filler is in its place."""
    in_place = len(place) > 0 and place[0] == expected
    if in_place and number[0] > 0:
        return JournalFault.LOST if number[0] > expected else JournalFault.DOUBLED
    if in_place or beheaded:
        return JournalFault.TORN
    if len(place) == 0:
        return None
    return JournalFault.LOST if np.any((number > expected) | (number == 0)) else JournalFault.DOUBLED


def _whole(records: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """For each record, whether checksum and filler are what its number makes them; numbers start at 1."""
    blank = records.copy()
    blank["crc"] = 0
    sums = np.fromiter((zlib.crc32(record) for record in blank), np.uint32, len(blank))
    number = records["number"]
    possible = (number > 0) & (number < np.uint64(1 << 63))
    same: npt.NDArray[np.bool_] = (sums == records["crc"]) & (records["filler"] == _fillers(number)).all(axis=1) & possible
    return same


def _fillers(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The filler words of each record number, a row each: xorshift64* started from the number."""
    state = np.where(numbers == _GOLDEN, _GOLDEN, numbers ^ _GOLDEN)
    rows = np.empty((len(numbers), 61), np.uint64)
    for column in range(rows.shape[1]):
        state ^= state >> np.uint64(12)
        state ^= state << np.uint64(25)
        state ^= state >> np.uint64(27)
        rows[:, column] = state * _MULTIPLIER
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Prints a report on each disk named; 0 if all are intact."""
    parser = argparse.ArgumentParser(prog="python -m images.journal", description="Check the tiny guest's journal.")
    parser.add_argument("disk", nargs="+", metavar="DISK", help="a raw disk image")
    disks: list[str] = parser.parse_args(arguments).disk
    try:
        reports = [(disk, read_journal(disk)) for disk in disks]
    except EmuError as error:
        print(f"images.journal: {error}", file=sys.stderr)
        return 1
    for disk, report in reports:
        print(f"{disk}: {report}")
    return 0 if all(report.intact for _, report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
