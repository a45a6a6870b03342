"""Where an image keeps each cluster of its disk: L1, L2 and refcounts, cached, and the order they are written in.

    1. refcounts that went up      so that no cluster in use ever counts as free
    2. L2 tables                   after what they refer to is counted
    3. L1 entries                  after the L2 tables they refer to
    4. refcounts that go down      after nothing in the file refers to the clusters any more; only then are these used again

With a barrier between any two. Whatever moment ends the process or the power, clusters may be left counted though nobody uses
them (leaks), and nothing else is wrong. `map` and `link` work on the caches, `write_back` is steps 1 to 3, `release` is step 4.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from emu.block.qcow2.frozen import Frozen
from emu.block.qcow2.header import AT_AUTOCLEAR, DIRTY, read_header
from emu.block.qcow2.rebuild import rebuild_refcounts
from emu.block.qcow2.refcount import Refcounts
from emu.block.qcow2.tables import (
    COMPRESSED,
    COPIED,
    OFFSET,
    WORD,
    ZERO,
    Entries,
    Table,
    TableCache,
    Words,
    compressed_extent,
    read_words,
    write_words,
)
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

L2_CACHE = 32 << 20  # bytes; at 64 KiB clusters they cover 256 GiB
MAX_WAITING = 1024  # releases that wait for the next write-back, before one is made for them


class Kind(Enum):
    """What a cluster of the disk is."""

    UNALLOCATED = "unallocated"  # as the backing file has it, or zero
    ZERO = "zero"
    DATA = "data"
    COMPRESSED = "compressed"


class Run(NamedTuple):
    """Neighbouring clusters of the disk that are alike and, where they have a place in the file, neighbours there too."""

    kind: Kind
    clusters: int
    offset: int  # in the file; of zero clusters too, where space is kept for them; 0 for none
    in_place: bool  # whether the clusters at `offset` are this disk's alone
    length: int = 0  # bytes of a compressed cluster in the file, which may be up to 511 too many


class Metadata:
    """The tables of one image. All methods but the constructor are called with `lock` held."""

    def __init__(self, file: Storage, l1: Words | None = None) -> None:
        """Read header and L1 of an image; the rest is read when it is needed. With `l1`, a snapshot's, it can only be read."""
        self.lock = threading.RLock()
        self._file = file
        self.header = header = read_header(file)
        self.cluster_size = header.cluster_size
        self._bits = header.cluster_bits
        self._per_table = header.cluster_size // WORD
        self._flags = COPIED | COMPRESSED | (ZERO if header.version >= 3 else 0)
        self._l1 = Table(header.l1_offset, read_words(file, header.l1_offset, header.l1_entries) if l1 is None else l1)
        self._l2 = TableCache(L2_CACHE, read=self._read_l2, write=self._write_words, write_all=self._flush)
        self._shows_data = False  # an L2 entry changed that is to show data which may not be on disk yet
        self._refcounts: Refcounts | None = None
        self._waiting: list[Words] = []  # L2 entries that nothing on the disk needs any more, once the file knows
        self._steps = np.arange(self._per_table, dtype=np.uint64) << np.uint64(self._bits)
        self._prepared = False
        self._frozen: Frozen | None = None

    @property
    def refcounts(self) -> Refcounts:
        """The counts, read when first asked for: reading a disk takes none."""
        if self._refcounts is None:
            self._refcounts = Refcounts(self._file, self.header)
        return self._refcounts

    def _corrupt(self, text: str) -> ImageError:
        return ImageError(ImageErrorKind.CORRUPT, self._file.path, text)

    # Reading

    def _read_l2(self, offset: int) -> Entries:
        return read_words(self._file, offset, self._per_table)

    def _write_words(self, table: Table) -> None:
        write_words(self._file, table)

    def _l2_offset(self, index: int) -> int:
        """Where L2 table `index` is; 0 for none."""
        offset = int(self._l1.entries[index]) & OFFSET
        if offset % self.cluster_size:
            raise self._corrupt(f"has L2 table {index} at {offset:#x}, must be a multiple of {self.cluster_size:#x}")
        return offset

    def cached(self, cluster: int) -> bool:
        """Whether `map` of this cluster reads nothing from the file."""
        offset = self._l2_offset(cluster // self._per_table)
        return offset == 0 or offset in self._l2

    def map(self, cluster: int, count: int) -> Run:
        """What cluster `cluster` of the disk is, and how many of the `count` from there on are like it."""
        index, at = divmod(cluster, self._per_table)
        count = min(count, self._per_table - at)
        offset = self._l2_offset(index)
        if offset == 0:
            return Run(Kind.UNALLOCATED, count, 0, False)
        entries = self._l2.get(offset).entries
        entry = int(entries[at])
        if entry & COMPRESSED:
            return self._compressed(entry)
        offset = entry & OFFSET
        if offset % self.cluster_size:
            raise self._corrupt(f"has cluster {cluster:#x} at {offset:#x}, must be a multiple of {self.cluster_size:#x}")
        if count > 1:
            expected = self._steps[:count] + np.uint64(entry) if offset else np.uint64(entry)
            alike = entries[at : at + count] == expected
            if not alike.all():
                count = int(alike.argmin())
        in_place = bool(entry & COPIED) and offset != 0
        if in_place and self._frozen is not None:
            in_place, count = self._frozen.split(offset >> self._bits, count)
        if entry & self._flags & ZERO:
            return Run(Kind.ZERO, count, offset, in_place)
        if offset == 0:
            return Run(Kind.UNALLOCATED, count, 0, False)
        return Run(Kind.DATA, count, offset, in_place)

    def _compressed(self, entry: int) -> Run:
        offset, length = compressed_extent(entry, self._bits)
        return Run(Kind.COMPRESSED, 1, offset, False, length)

    # Changing

    def prepare(self) -> None:
        """Before the first change: mark what is not kept up (bitmaps) as not to be relied on, set wrong counts right."""
        if self._prepared:
            return
        if self.header.version >= 3 and self.header.autoclear:
            self._file.writev(AT_AUTOCLEAR, [bytes(8)])
        if self.header.incompatible & DIRTY:
            rebuild_refcounts(self._file, self.header)
            self.header, self._refcounts = read_header(self._file), None
        self._prepared = True

    def vacant(self, cluster: int, count: int) -> int:
        """How many of the `count` clusters from `cluster` on have no place of their own yet; the first has none."""
        index, at = divmod(cluster, self._per_table)
        count = min(count, self._per_table - at)
        offset = self._l2_offset(index)
        if offset == 0 or count == 1:
            return count
        own = self._own(self._l2.get(offset).entries[at + 1 : at + count])
        return 1 + int(own.argmax()) if own.any() else count

    def _own(self, entries: Entries) -> npt.NDArray[np.bool_]:
        """Which entries of an L2 table refer to clusters that are this disk's alone."""
        own: npt.NDArray[np.bool_] = (entries & np.uint64(COPIED | COMPRESSED)) == np.uint64(COPIED)
        if self._frozen is not None:
            own &= self._frozen.is_new(((entries & np.uint64(OFFSET)) >> np.uint64(self._bits)).astype(np.int64))
        return own

    def allocate(self, count: int) -> tuple[int, int]:
        """Find up to `count` neighbouring clusters: the offset of the first, and how many. `link` or `give_up` follows."""
        offset, count = self.refcounts.allocate(count)
        if self._frozen is not None:
            self._frozen.add(offset >> self._bits, count)
        return offset, count

    def check_data(self, run: Run) -> None:
        """Refuse to write to clusters that an L2 table calls data and that hold the image's tables."""
        self.refcounts.check_no_table(run.offset, run.clusters)

    def give_up(self, cluster: int, count: int, offset: int) -> None:
        """`allocate` was for nothing; space that a zero cluster keeps stays its own."""
        if self.map(cluster, 1).offset != offset:
            self.refcounts.release(offset >> self._bits, count)

    def link(self, cluster: int, count: int, offset: int) -> None:
        """`count` clusters of the disk, all in one L2 table, are from now on those at `offset` in the file."""
        self._set(cluster, self._steps[:count] + np.uint64(offset | COPIED))

    def unlink(self, cluster: int, count: int, *, zero: bool, keep: bool = False) -> int:
        """Clusters from `cluster` on read as zero, or as unallocated; how many, all in one L2 table.

        With `keep` they keep the space that is theirs alone.
        """
        index, at = divmod(cluster, self._per_table)
        count = min(count, self._per_table - at)
        offset = self._l2_offset(index)
        if offset == 0 and not zero:
            return count
        entries = np.full(count, ZERO if zero else 0, np.uint64)
        if keep and offset:
            old = self._l2.get(offset).entries[at : at + count]
            own = self._own(old)
            entries[own] = old[own] | np.uint64(ZERO)
        self._set(cluster, entries)
        return count

    def _set(self, cluster: int, entries: Words) -> None:
        index, at = divmod(cluster, self._per_table)
        table = self._own_l2(index)
        place = table.entries[at : at + len(entries)]
        left = place[(place != 0) & ((place ^ entries) & np.uint64(OFFSET | COMPRESSED) != 0)]
        self._shows_data = self._shows_data or bool((entries & np.uint64(OFFSET | COMPRESSED) != 0).any())
        place[:] = entries
        table.changed(at, len(entries))
        left = left[left & np.uint64(OFFSET | COMPRESSED) != 0]
        if len(left):
            self._waiting.append(left)
            if len(self._waiting) >= MAX_WAITING:
                self._flush()

    def _own_l2(self, index: int) -> Table:
        """An L2 table that may be changed: a new one where there is none, a copy where a snapshot shares it."""
        entry = int(self._l1.entries[index])
        offset = self._l2_offset(index)
        if offset and entry & COPIED and (self._frozen is None or self._frozen.split(offset >> self._bits, 1)[0]):
            return self._l2.get(offset)
        entries = self._l2.get(offset).entries.copy() if offset else np.zeros(self._per_table, np.uint64)
        new, _ = self.allocate(1)
        table = Table(new, entries, new=True)
        self._l2.add(table)
        self._l1.entries[index] = new | COPIED
        self._l1.changed(index, 1)
        if offset:
            self._waiting.append(np.array([offset], np.uint64))
        return table

    # A snapshot to be

    def freeze(self) -> Words:
        """Let nothing that the disk consists of be written over or freed until `thaw`; the L1 table as it is."""
        self._frozen = Frozen()
        return self._l1.entries.astype(np.uint64)

    def thaw(self) -> list[tuple[int, int]]:
        """End that: runs of clusters (first, count) that the disk has given up since then, and that are not freed yet."""
        given_up = [] if self._frozen is None else self._frozen.given_up
        self._frozen = None
        return given_up

    # Into the file

    def write_back(self) -> list[Words]:
        """Put every table into the file, each before what relies on it; what to `release` when the file is flushed."""
        flushed = self._refcounts is not None and self._refcounts.write_back()
        if self._shows_data and not flushed:
            self._file.flush()  # data first: a cluster may have held something else before, even one kept behind a zero flag
        self._shows_data = False
        if self._l2.write_back() and self._l1.dirty:
            self._file.flush()
        if self._l1.dirty:
            write_words(self._file, self._l1)
        waiting, self._waiting = self._waiting, []
        return waiting

    def release(self, waiting: list[Words]) -> None:
        """Clusters that L2 entries in the file referred to are free from now on, and their space the host's."""
        if waiting:
            for cluster, count in self.used_by(np.concatenate(waiting)):
                self.free(cluster, count)

    def used_by(self, entries: Words) -> Iterator[tuple[int, int]]:
        """What L2 entries refer to: the first cluster and the number of each run of clusters of the file."""
        packed = entries & np.uint64(COMPRESSED) != 0
        for entry in entries[packed].tolist():
            offset, length = compressed_extent(entry, self._bits)
            first, last = offset >> self._bits, (offset + length - 1) >> self._bits
            yield first, last - first + 1
        offsets = entries[~packed] & np.uint64(OFFSET)
        clusters = np.sort(offsets[offsets != 0] >> np.uint64(self._bits)).astype(np.int64)
        for neighbours in np.split(clusters, np.flatnonzero(np.diff(clusters) != 1) + 1):
            if len(neighbours):
                yield int(neighbours[0]), len(neighbours)

    def free(self, cluster: int, count: int) -> None:
        """Clusters of the file are used once less, which nothing in the file contradicts."""
        if self._frozen is not None:
            for old, part in self._frozen.keep(cluster, count):
                self._free(old, part)
            return
        self._free(cluster, count)

    def _free(self, cluster: int, count: int) -> None:
        for offset, length in self.refcounts.release(cluster, count):
            self._l2.forget(offset)  # if it was one
            self._file.discard(offset, length)

    def _flush(self) -> None:
        waiting = self.write_back()
        self._file.flush()
        self.release(waiting)

    def settle(self) -> None:
        """Put everything into the file, the counts that go down too, before the image is let go."""
        self._flush()
        if self._refcounts is not None:
            self._refcounts.write_back()
