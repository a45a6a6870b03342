"""Refcounts made anew from all that refers to clusters, for an image that was not closed (dirty bit: lazy refcounts).

The new counts and their table go behind everything in use, and the header is switched over in one write; what was there before
is then simply not counted. Ended at any moment, the image is as dirty as it was.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from emu.block.qcow2.header import AT_INCOMPATIBLE, AT_REFCOUNTS, DIRTY, MAX_REFCOUNT_TABLE, Header
from emu.block.qcow2.refcount import encode
from emu.block.qcow2.snapshottable import read_snapshots
from emu.block.qcow2.tables import COMPRESSED, OFFSET, WORD, Words, compressed_extent, read_words
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

MAX_CLUSTERS = 1 << 24  # counted in memory, some 20 bytes each: 1 TiB of 64 KiB clusters

Counts = npt.NDArray[np.uint32]


def rebuild_refcounts(file: Storage, header: Header) -> None:
    """Count every use of every cluster, and clear the dirty bit; ImageError CORRUPT when tables refer to what is not there."""
    counts = _Counter(file, header).count()
    bits, order = header.cluster_bits, header.refcount_order
    per_block = header.cluster_size * 8 >> order
    used = int(np.flatnonzero(counts)[-1]) + 1
    blocks = tables = 1
    while True:  # blocks and table count themselves
        needed = -(-(used + blocks + tables) // per_block)
        fits = -(-needed * WORD // header.cluster_size)
        if (needed, fits) == (blocks, tables):
            break
        blocks, tables = needed, fits
    if tables << bits > MAX_REFCOUNT_TABLE:
        raise ImageError(ImageErrorKind.CORRUPT, file.path, f"needs a refcount table of {tables << bits} bytes to be repaired")
    every = np.zeros(blocks * per_block, np.uint64)
    every[:used] = counts[:used]
    every[used : used + blocks + tables] = 1
    if int(every.max()) >= 1 << (1 << order):
        text = f"uses a cluster {int(every.max())} times, its refcounts have {1 << order} bits"
        raise ImageError(ImageErrorKind.CORRUPT, file.path, text)
    raw = encode(every.astype(f"u{max(1, 1 << order >> 3)}"), order)
    table = np.zeros(tables * header.cluster_size // WORD, ">u8")
    table[:blocks] = (used + np.arange(blocks, dtype=np.uint64)) << np.uint64(bits)
    start = used + blocks
    file.writev(used << bits, [raw, table.tobytes()])
    file.flush()
    file.writev(AT_REFCOUNTS, [struct.pack(">QI", start << bits, tables)])
    file.flush()
    file.writev(AT_INCOMPATIBLE, [struct.pack(">Q", header.incompatible & ~DIRTY)])
    file.flush()


class _Counter:
    def __init__(self, file: Storage, header: Header) -> None:
        self._file = file
        self._header = header
        self._clusters = -(-file.size // header.cluster_size)
        if self._clusters > MAX_CLUSTERS:
            text = (
                f"has {self._clusters} clusters to repair, at most {MAX_CLUSTERS} are counted here: use 'qemu-img check -r all'"
            )
            raise ImageError(ImageErrorKind.CORRUPT, file.path, text)
        self._counts = np.zeros(self._clusters, np.uint32)

    def count(self) -> Counts:
        header = self._header
        self._add_extent(0, header.cluster_size)
        snapshots, length = read_snapshots(self._file, header)
        self._add_extent(header.snapshots_offset, length)
        self._add_l1(header.l1_offset, header.l1_entries)
        for snapshot in snapshots:
            self._add_l1(snapshot.l1_offset, snapshot.l1_entries)
        return self._counts

    def _add_extent(self, offset: int, length: int) -> None:
        if length:
            bits = self._header.cluster_bits
            self._add(np.arange(offset >> bits, ((offset + length - 1) >> bits) + 1, dtype=np.int64))

    def _add(self, clusters: npt.NDArray[np.int64]) -> None:
        if len(clusters) and int(clusters.max()) >= self._clusters:
            where = int(clusters.max()) << self._header.cluster_bits
            raise ImageError(
                ImageErrorKind.CORRUPT, self._file.path, f"refers to {where:#x}, behind its end at {self._file.size:#x}"
            )
        np.add.at(self._counts, clusters, 1)

    def _add_l1(self, offset: int, entries: int) -> None:
        self._add_extent(offset, entries * WORD)
        tables = read_words(self._file, offset, entries) & np.uint64(OFFSET)
        tables = tables[tables != 0]
        if len(np.unique(tables)) < len(tables):
            raise ImageError(
                ImageErrorKind.CORRUPT, self._file.path, f"refers twice to one L2 table from its L1 table at {offset:#x}"
            )
        for table in tables:
            self._add_extent(int(table), self._header.cluster_size)
            self._add_l2(read_words(self._file, int(table), self._header.cluster_size // WORD))

    def _add_l2(self, entries: Words) -> None:
        packed = entries & np.uint64(COMPRESSED) != 0
        offsets = entries[~packed] & np.uint64(OFFSET)
        self._add((offsets[offsets != 0] >> np.uint64(self._header.cluster_bits)).astype(np.int64))
        for entry in entries[packed].tolist():
            self._add_extent(*compressed_extent(entry, self._header.cluster_bits))
