"""A change of many tables at once: whatever changes is written anew beside what is there, and one write to the header switches.

    1. L2 tables whose flags change, L1 tables, snapshot table      to free places
    2. counts of all these places, in the old refcounts             so that a process that ends from here on leaves leaks
    3. refcounts that change, to free places, and a barrier
    4. the header: L1, snapshot table and refcount table in one     the moment it happens
    5. space that nothing uses any more is the host's

Whatever moment ends the process or the power, the image is as it was, with leaks, or as it is to be, without.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from emu.block.qcow2.header import AT_L1
from emu.block.qcow2.metadata import Metadata
from emu.block.qcow2.recount import Recount
from emu.block.qcow2.snapshottable import Snapshot
from emu.block.qcow2.tables import COMPRESSED, COPIED, OFFSET, WORD, Words, read_words
from emu.block.storage import Storage

_SWITCH = struct.Struct(">IQQIIQ")  # L1: entries, offset; refcounts: offset, clusters; snapshots: number, offset


class Switch:
    """One such change of an image whose tables are all in the file; the caller has it alone, and reads it afresh after."""

    def __init__(self, file: Storage, metadata: Metadata) -> None:
        self._file = file
        self._metadata = metadata
        self._bits = metadata.header.cluster_bits
        self.recount = Recount(file, metadata.header, metadata.refcounts)

    def count(self, l1: Words, change: int) -> None:
        """All that an L1 table refers to will be used `change` times more; it itself not."""
        for offset, entries in self._tables(l1):
            self.recount.add(np.array([offset >> self._bits], np.int64), change)
            packed = entries & np.uint64(COMPRESSED) != 0
            offsets = entries[~packed] & np.uint64(OFFSET)
            self.recount.add((offsets[offsets != 0] >> np.uint64(self._bits)).astype(np.int64), change)
            for cluster, count in self._metadata.used_by(entries[packed]):
                self.recount.add(np.arange(cluster, cluster + count), change)

    def put(self, words: Words) -> int:
        """Write an L1 table to a free place: its offset."""
        return self._put((words & ~np.uint64(COPIED)).astype(">u8").tobytes())

    def _put(self, data: bytes) -> int:
        clusters = -(-len(data) >> self._bits)
        place = self._metadata.refcounts.allocate_whole(clusters)
        self._file.writev(place, [data.ljust(clusters << self._bits, b"\0")])
        return place

    def _tables(self, l1: Words) -> Iterator[tuple[int, Words]]:
        """The L2 tables that an L1 table refers to: their offsets and entries."""
        for entry in l1[l1 & np.uint64(OFFSET) != 0].tolist():
            yield entry & OFFSET, read_words(self._file, entry & OFFSET, 1 << self._bits >> 3)

    def make(self, l1: Words, snapshots: Iterable[Snapshot], *, table_length: int) -> None:
        """Make `l1` the disk and `snapshots` all there are. `table_length` is that of the old snapshot table, in bytes."""
        header, recount = self._metadata.header, self.recount
        own = self._with_flags(l1)
        l1_place = self._put(own.astype(">u8").tobytes())
        table = b"".join(snapshot.raw for snapshot in snapshots)
        table_place = self._put(table) if table else 0
        recount.add_extent(header.l1_offset, header.l1_entries * WORD, -1)
        recount.add_extent(header.snapshots_offset, table_length, -1)
        recount.allocate()
        recount.check()
        self._metadata.settle()
        written = recount.write()
        self._file.flush()
        fields = (len(own), l1_place, written.table, written.clusters, len(list(snapshots)), table_place)
        self._file.writev(AT_L1, [_SWITCH.pack(*fields)])
        self._file.flush()
        for offset, length in written.freed:
            self._file.discard(offset, length)

    def _with_flags(self, l1: Words) -> Words:
        """The L1 table with right flags, referring to copies of those L2 tables in which flags are to change."""
        flagged = l1 & np.uint64(OFFSET)
        places = np.flatnonzero(flagged)
        for index, (offset, entries) in zip(places.tolist(), self._tables(l1), strict=True):
            own = self._own(entries)
            if np.array_equal(own, entries & np.uint64(COPIED) != 0):
                if self.recount.used_once(np.array([offset >> self._bits], np.int64))[0]:
                    flagged[index] |= np.uint64(COPIED)
                continue
            self.recount.add(np.array([offset >> self._bits], np.int64), -1)
            words = np.where(own, entries | np.uint64(COPIED), entries & ~np.uint64(COPIED))
            flagged[index] = self._put(words.astype(">u8").tobytes()) | COPIED
        return flagged

    def _own(self, entries: Words) -> npt.NDArray[np.bool_]:
        """Which entries of a table refer to clusters that nothing else will use."""
        own: npt.NDArray[np.bool_] = (entries & np.uint64(COMPRESSED) == 0) & (entries & np.uint64(OFFSET) != 0)
        clusters = (entries[own] & np.uint64(OFFSET)) >> np.uint64(self._bits)
        own[own] = self.recount.used_once(clusters.astype(np.int64))
        return own
