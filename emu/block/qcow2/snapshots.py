"""Internal snapshots of an image: made, gone back to, deleted. The machine's state is not in them, only the disk.

A snapshot is a copy of the L1 table; what it refers to counts once more and loses its flag that it may be written in place. In
each of the three, one write to the header is the moment it happens. A process that ends before or after that leaves leaks and
flags that are off, which `qemu-img check -r all` sets right, and every disk with what it should hold: flags go before counts
go up, and come back after counts went down.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from emu.block.file import ImageFile
from emu.block.qcow2.header import AT_L1, AT_SNAPSHOTS, MAX_SNAPSHOTS
from emu.block.qcow2.metadata import Metadata
from emu.block.qcow2.snapshottable import Snapshot, read_snapshots
from emu.block.qcow2.tables import COMPRESSED, COPIED, OFFSET, WORD, Words, read_words
from emu.errors import ImageError, ImageErrorKind

MAX_NAME = 255  # bytes, as QEMU shows


class Snapshots:
    """The snapshots of an image whose tables are all in the file. The caller has the image alone, and reads it afresh after."""

    def __init__(self, file: ImageFile, metadata: Metadata) -> None:
        self._file = file
        self._metadata = metadata
        self._header = header = metadata.header
        self._bits = header.cluster_bits
        self._snapshots, self._table_length = read_snapshots(file, header)
        self._l1 = read_words(file, header.l1_offset, header.l1_entries)

    def _error(self, text: str) -> ImageError:
        return ImageError(ImageErrorKind.MISSING, self._file.path, text)

    def _find(self, tag: str) -> Snapshot:
        for snapshot in self._snapshots:
            if tag in (snapshot.id, snapshot.name):
                return snapshot
        raise self._error(f"has no snapshot {tag!r:.80}")

    def create(self, name: str, *, time_ns: int) -> None:
        """Add a snapshot of the disk as it is."""
        if not 0 < len(name.encode()) <= MAX_NAME or not name.isprintable():
            raise self._error(f"cannot have a snapshot called {name!r:.80}, names are 1..{MAX_NAME} bytes of text")
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            raise self._error(f"has {MAX_SNAPSHOTS} snapshots, which is the most it can have")
        if len(self._snapshots) + 2 > self._metadata.refcounts.maximum:
            most = self._metadata.refcounts.maximum
            raise self._error(f"has refcounts up to {most}, too few for a disk and {len(self._snapshots) + 1} snapshots")
        self._flag(self._header.l1_offset, clear=True)
        self._reference(self._l1)
        place = self._put_l1(self._l1)
        number = 1 + max((int(snapshot.id) for snapshot in self._snapshots if snapshot.id.isdecimal()), default=0)
        size = self._header.size
        added = Snapshot.new(number, name, place, len(self._l1), time_ns=time_ns, disk_size=size)
        self._put_table([*self._snapshots, added])

    def apply(self, tag: str) -> None:
        """Make the disk what it was."""
        snapshot = self._find(tag)
        if snapshot.disk_size != self._header.size:
            text = f"had {snapshot.disk_size} bytes in snapshot {tag!r:.80} and has {self._header.size} now, must be the same"
            raise self._error(text)
        wanted = self._l1_of(snapshot)
        wanted = np.concatenate((wanted, np.zeros(max(len(self._l1) - len(wanted), 0), np.uint64)))
        self._reference(wanted)
        place = self._put_l1(wanted)
        self._switch(AT_L1, len(wanted), place)
        old, self._l1 = self._l1, wanted
        self._release(old)
        self._free(self._header.l1_offset, len(old) * WORD)
        self._flag(place)

    def delete(self, tag: str) -> None:
        """Forget a snapshot."""
        snapshot = self._find(tag)
        gone = self._l1_of(snapshot)
        self._put_table([other for other in self._snapshots if other is not snapshot])
        self._release(gone)
        self._free(snapshot.l1_offset, snapshot.l1_entries * WORD)
        self._flag(self._header.l1_offset)

    def _l1_of(self, snapshot: Snapshot) -> Words:
        return read_words(self._file, snapshot.l1_offset, snapshot.l1_entries)

    # Counts

    def _tables(self, l1: Words) -> Iterator[tuple[int, Words]]:
        """The L2 tables that an L1 table refers to: their offsets and entries."""
        for entry in l1[l1 & np.uint64(OFFSET) != 0].tolist():
            yield entry & OFFSET, read_words(self._file, entry & OFFSET, self._header.cluster_size // WORD)

    def _reference(self, l1: Words) -> None:
        for offset, entries in self._tables(l1):
            self._metadata.refcounts.reference(offset >> self._bits, 1)
            for cluster, count in self._metadata.used_by(entries):
                self._metadata.refcounts.reference(cluster, count)
        self._metadata.settle()

    def _release(self, l1: Words) -> None:
        for offset, entries in self._tables(l1):
            for cluster, count in self._metadata.used_by(entries):
                self._metadata.free(cluster, count)
            self._metadata.free(offset >> self._bits, 1)
        self._metadata.settle()

    def _free(self, offset: int, length: int) -> None:
        self._metadata.free(offset >> self._bits, -(-length >> self._bits))

    def _flag(self, place: int, *, clear: bool = False) -> None:
        """Say anew what may be written in place of all that the L1 table at `place` refers to; with `clear`, nothing may."""
        own = self._own(self._l1, clear=clear)
        self._write_words(place, self._l1, own)
        for offset, entries in self._tables(self._l1):
            own = self._own(entries, clear=clear)
            if not np.array_equal(own, entries & np.uint64(COPIED) != 0):
                self._write_words(offset, entries, own)
        self._file.flush()

    def _own(self, entries: Words, *, clear: bool) -> npt.NDArray[np.bool_]:
        """Which entries of a table refer to clusters that nothing else uses."""
        own: npt.NDArray[np.bool_] = (entries & np.uint64(COMPRESSED) == 0) & (entries & np.uint64(OFFSET) != 0)
        if clear:
            return np.zeros_like(own)
        clusters = (entries[own] & np.uint64(OFFSET)) >> np.uint64(self._bits)
        own[own] = self._metadata.refcounts.used_once(clusters.astype(np.int64))
        return own

    # Tables

    def _write_words(self, offset: int, entries: Words, own: npt.NDArray[np.bool_]) -> None:
        words = np.where(own, entries | np.uint64(COPIED), entries & ~np.uint64(COPIED))
        self._file.writev(offset, [words.astype(">u8").tobytes()])

    def _put(self, data: bytes) -> int:
        """Write a table to a new place; where that is."""
        clusters = -(-len(data) >> self._bits)
        place = self._metadata.refcounts.allocate_whole(clusters)
        self._file.writev(place, [data.ljust(clusters << self._bits, b"\0")])
        self._metadata.settle()
        return place

    def _put_l1(self, l1: Words) -> int:
        return self._put((l1 & ~np.uint64(COPIED)).astype(">u8").tobytes())

    def _put_table(self, snapshots: list[Snapshot]) -> None:
        data = b"".join(snapshot.raw for snapshot in snapshots)
        self._switch(AT_SNAPSHOTS, len(snapshots), self._put(data) if data else 0)
        if self._table_length:
            self._free(self._header.snapshots_offset, self._table_length)

    def _switch(self, at: int, number: int, place: int) -> None:
        self._file.writev(at, [struct.pack(">IQ", number, place)])
        self._file.flush()
