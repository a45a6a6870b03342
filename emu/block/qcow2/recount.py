"""Many refcounts changed at once: blocks that change are written to new places, with a new table that refers to them.

Nothing in the file refers to the new table until the header does (switch.py). Until then the old one counts all new places as
used; from then on the new one counts none of the old.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from emu.block.qcow2.header import Header
from emu.block.qcow2.refcount import Refcounts, encode, runs_of
from emu.block.qcow2.tables import WORD, Table, write_words
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

Clusters = npt.NDArray[np.int64]


class Written(NamedTuple):
    """Counts in the file that the header does not refer to yet."""

    table: int  # offset
    clusters: int  # of the table
    freed: list[tuple[int, int]]  # (offset, length) of what is free once the header does


class Recount:
    """Changes of an image's counts, gathered and then written. The caller holds the metadata lock."""

    def __init__(self, file: Storage, header: Header, refcounts: Refcounts) -> None:
        self._file = file
        self._bits = header.cluster_bits
        self._order = header.refcount_order
        self._refcounts = refcounts
        self._changes: dict[int, npt.NDArray[np.int32]] = {}  # by block: the change of each of its counts
        self._moving: dict[int, int] = {}  # blocks to be written anew: where they are
        self._places: list[int] = []  # where they will be
        self._table_place = 0

    def _uncounted(self, cluster: int) -> ImageError:
        where = cluster << self._bits
        return ImageError(ImageErrorKind.CORRUPT, self._file.path, f"counts a cluster as free that is in use, at {where:#x}")

    def add(self, clusters: Clusters, change: int) -> None:
        """Count `change` more uses of each of `clusters` of the file, which are in use."""
        per_block = self._refcounts.per_block
        clusters = np.sort(clusters)
        blocks = clusters // per_block
        for part in np.split(clusters, np.flatnonzero(np.diff(blocks)) + 1):
            if len(part):
                index = int(part[0]) // per_block
                if index not in self._changes:
                    self._changes[index] = np.zeros(per_block, np.int32)
                np.add.at(self._changes[index], part % per_block, change)

    def add_extent(self, offset: int, length: int, change: int) -> None:
        """The same for the clusters of a table."""
        self.add(np.arange(offset >> self._bits, -(-(offset + length) >> self._bits), dtype=np.int64), change)

    def used_once(self, clusters: Clusters) -> npt.NDArray[np.bool_]:
        """Which of the clusters will count 1."""
        per_block = self._refcounts.per_block
        once = np.zeros(len(clusters), np.bool_)
        blocks = clusters // per_block
        for index in np.unique(blocks).tolist():
            block, change = self._refcounts.block(index), self._changes.get(index)
            if block is None:
                raise self._uncounted(index * per_block)
            here = blocks == index
            local = clusters[here] % per_block
            once[here] = block.entries[local] == (1 if change is None else 1 - change[local])
        return once

    def _counts(self, index: int) -> npt.NDArray[np.int64]:
        """What the counts of a block will be."""
        block = self._refcounts.block(index)
        if block is None:
            raise self._uncounted(index * self._refcounts.per_block)
        change = self._changes.get(index)
        counts = block.entries.astype(np.int64)
        return counts if change is None else counts + change

    def check(self) -> None:
        """Refuse changes that the counts cannot show: CORRUPT below 0 or of what is free, IO above the largest count."""
        for index, change in self._changes.items():
            counts = self._counts(index)
            wrong = (change != 0) & ((counts < 0) | (counts == change))
            if wrong.any():
                raise self._uncounted(index * self._refcounts.per_block + int(wrong.argmax()))
            if counts.max() > self._refcounts.maximum:
                where = (index * self._refcounts.per_block + int(counts.argmax())) << self._bits
                text = f"has a cluster at {where:#x} that is used {self._refcounts.maximum} times, and cannot count more"
                raise ImageError(ImageErrorKind.IO, self._file.path, text)

    def allocate(self) -> None:
        """Find places for the new table and the new blocks; what they replace counts less."""
        refcounts = self._refcounts
        while True:
            table = refcounts.table
            length = len(table.entries) * WORD >> self._bits
            self._moving = self._find_moving()
            self._table_place = refcounts.allocate_whole(length)
            self._places = self._allocate(len(self._moving))
            if refcounts.table is table:
                break
            for place, count in ((self._table_place, length), *((place, 1) for place in self._places)):
                refcounts.release(place >> self._bits, count)  # the table grew on the way: once more
        self.add_extent(table.offset, length << self._bits, -1)
        self.add(np.array(list(self._moving.values()), np.int64) >> self._bits, -1)

    def _find_moving(self) -> dict[int, int]:
        """The blocks to be written anew and their offsets: that change, or count the old place of one that does."""
        table = self._refcounts.table
        moving: dict[int, int] = {}
        first = (table.offset >> self._bits) // self._refcounts.per_block
        last = ((table.offset + len(table.entries) * WORD - 1) >> self._bits) // self._refcounts.per_block
        pending = {*self._changes, *range(first, last + 1)}
        while pending:
            index = pending.pop()
            block = self._refcounts.block(index)
            if block is None:
                raise self._uncounted(index * self._refcounts.per_block)
            moving[index] = block.offset
            home = (block.offset >> self._bits) // self._refcounts.per_block
            if home not in moving:
                pending.add(home)
        return moving

    def _allocate(self, count: int) -> list[int]:
        places: list[int] = []
        while len(places) < count:
            offset, got = self._refcounts.allocate(count - len(places))
            places += [offset + (number << self._bits) for number in range(got)]
        return places

    def write(self) -> Written:
        """Write blocks and table to the places that were allocated, which the old counts in the file must show by now."""
        old = self._refcounts.table
        table = Table(self._table_place, old.entries.copy(), new=True)
        freed: list[tuple[int, int]] = []
        for (index, _offset), place in zip(self._moving.items(), self._places, strict=True):
            block, counts = self._refcounts.block(index), self._counts(index)
            if block is None:
                raise self._uncounted(index * self._refcounts.per_block)
            self._file.writev(place, [encode(counts.astype(block.entries.dtype), self._order)])
            table.entries[index] = place
            base = index * self._refcounts.per_block
            free = (counts == 0) & (block.entries != 0)
            freed += [((base + first) << self._bits, count << self._bits) for first, count in runs_of(free)]
        write_words(self._file, table)
        return Written(self._table_place, len(old.entries) * WORD >> self._bits, freed)
