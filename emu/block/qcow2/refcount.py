"""Reference counts of an image's clusters: which are free, and how often the others are used.

A count may be too high in the file at any time (a leak), never too low. So counts that go up are written back before what
refers to the clusters, and counts go down here only once the file has forgotten what referred to them (metadata.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from emu.block.qcow2.header import AT_REFCOUNTS, MAX_REFCOUNT_TABLE, Header
from emu.block.qcow2.tables import WORD, Entries, Table, TableCache, read_words, write_words
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

CACHE = 8 << 20  # bytes of counts; at 64 KiB and 16 bits they cover 256 GiB
WINDOW = 4096  # clusters looked at in one go for free ones
MAX_OFFSET = 1 << 56  # host offsets have 56 bits


def decode(raw: bytes | bytearray, order: int) -> Entries:
    """A refcount block as counts of the smallest type that holds them; counts below a byte begin at its low bits."""
    if order >= 3:
        width = 1 << (order - 3)
        return np.frombuffer(raw, f">u{width}").astype(f"u{width}")
    packed = np.frombuffer(raw, np.uint8)
    shifts = np.arange(0, 8, 1 << order, dtype=np.uint8)
    counts: Entries = ((packed[:, None] >> shifts) & np.uint8((1 << (1 << order)) - 1)).reshape(-1)
    return counts


def encode(counts: Entries, order: int) -> bytes:
    """What `decode` reads."""
    if order >= 3:
        return counts.astype(f">u{1 << (order - 3)}").tobytes()
    shifts = np.arange(0, 8, 1 << order, dtype=np.uint8)
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(counts.astype(np.uint8).reshape(-1, len(shifts)) << shifts, axis=1)
    return packed.tobytes()


class Refcounts:
    """The counts of one image. The caller holds the metadata lock."""

    def __init__(self, file: Storage, header: Header) -> None:
        self._file = file
        self._order = header.refcount_order
        self._bits = header.cluster_bits
        self._cluster = header.cluster_size
        self.per_block = self._cluster * 8 >> self._order
        self.maximum = (1 << (1 << self._order)) - 1
        count = header.refcount_clusters * self._cluster // WORD
        self.table = Table(header.refcount_offset, read_words(file, header.refcount_offset, count))
        self._blocks = TableCache(CACHE, read=self._read_block, write=self._write_block, write_all=self.write_back)
        self._vital = ((0, self._cluster), (header.l1_offset, header.l1_entries * WORD))
        self._cursor = 0  # no cluster before this one is known to be free

    def check_no_table(self, offset: int, clusters: int) -> None:
        """Tables that are wrong must not make us write over what the image cannot do without; ImageError CORRUPT."""
        end = offset + (clusters << self._bits)
        for start, length in (*self._vital, (self.table.offset, len(self.table.entries) * WORD)):
            if offset < start + length and start < end:
                text = f"would have {offset:#x}..{end:#x} written to, where its tables are: 'qemu-img check -r all' may help"
                raise ImageError(ImageErrorKind.CORRUPT, self._file.path, text)

    def _read_block(self, offset: int) -> Entries:
        raw = bytearray(self._cluster)
        self._file.readv(offset, [raw])
        return decode(raw, self._order)

    def _write_block(self, block: Table) -> None:
        per_byte = max(1, 8 >> self._order)
        low, high = block.low // per_byte * per_byte, -(-block.high // per_byte) * per_byte
        self._file.writev(block.offset + (low << self._order >> 3), [encode(block.entries[low:high], self._order)])
        block.clean()

    def block(self, index: int) -> Table | None:
        """Refcount block `index`; None where nothing is counted."""
        offset = int(self.table.entries[index]) if index < len(self.table.entries) else 0
        if offset == 0:
            return None
        if offset % self._cluster or offset >= MAX_OFFSET:
            text = f"has refcount block {index} at {offset:#x}, must be a multiple of {self._cluster:#x} below {MAX_OFFSET:#x}"
            raise ImageError(ImageErrorKind.CORRUPT, self._file.path, text)
        return self._blocks.get(offset)

    def allocate(self, most: int) -> tuple[int, int]:
        """Count 1 to `most` free neighbouring clusters as used once: the offset of the first, and how many."""
        cluster = self._cursor
        while True:
            index, at = divmod(cluster, self.per_block)
            if cluster << self._bits >= MAX_OFFSET:
                raise ImageError(ImageErrorKind.IO, self._file.path, f"is full, clusters end at {MAX_OFFSET:#x}")
            block = self.block(index) or self._new_block(index)
            free = block.entries[at : at + max(WINDOW, most)] == 0
            first = int(free.argmax())
            if not free[first]:
                cluster += len(free)
                continue
            run = free[first : first + most]
            count = len(run) if run.all() else int(run.argmin())
            self.check_no_table((cluster + first) << self._bits, count)
            block.entries[at + first : at + first + count] = 1
            block.changed(at + first, count)
            self._cursor = cluster + first + count
            return (cluster + first) << self._bits, count

    def allocate_whole(self, count: int) -> int:
        """Count `count` neighbouring clusters as used once: the offset of the first."""
        if count >= self.per_block:  # every block may begin with itself
            text = f"has no {count} neighbouring clusters, there are {self.per_block - 1} at most"
            raise ImageError(ImageErrorKind.IO, self._file.path, text)
        too_short: list[tuple[int, int]] = []
        start, got = self.allocate(count)
        while got < count:
            offset, more = self.allocate(count - got)
            if offset == start + (got << self._bits):
                got += more
            else:
                too_short.append((start, got))
                start, got = offset, more
        for offset, length in too_short:
            self.release(offset >> self._bits, length)
        return start

    def release(self, cluster: int, count: int) -> list[tuple[int, int]]:
        """Count `count` clusters from `cluster` on as used once less; (offset, length) of what is free now."""
        freed: list[tuple[int, int]] = []
        for block, at, part in self._parts(cluster, count):
            counts = block.entries[at : at + part]
            if not counts.all():
                where = (cluster + int(counts.argmin())) << self._bits
                raise ImageError(
                    ImageErrorKind.CORRUPT, self._file.path, f"counts a cluster as free that was in use, near {where:#x}"
                )
            counts -= counts.dtype.type(1)
            block.changed(at, part)
            freed += [((cluster + start) << self._bits, length << self._bits) for start, length in runs_of(counts == 0)]
            cluster += part
        if freed:
            self._cursor = min(self._cursor, freed[0][0] >> self._bits)
        return freed

    def _parts(self, cluster: int, count: int) -> Iterator[tuple[Table, int, int]]:
        """A run of clusters, block by block: the block, the first entry, and how many."""
        while count:
            index, at = divmod(cluster, self.per_block)
            part = min(count, self.per_block - at)
            block = self.block(index)
            if block is None:
                where = cluster << self._bits
                raise ImageError(
                    ImageErrorKind.CORRUPT, self._file.path, f"counts a cluster as free that was in use, at {where:#x}"
                )
            yield block, at, part
            cluster, count = cluster + part, count - part

    def _new_block(self, index: int) -> Table:
        """Make a block for clusters that none covers. It is the first of them itself, for all of them are free."""
        if index >= len(self.table.entries):
            self._grow_table(index)
        else:
            self._add_block(index * self.per_block, 1)
            self.table.entries[index] = (index * self.per_block) << self._bits
            self.table.changed(index, 1)
        return self._blocks.get((index * self.per_block) << self._bits)

    def _add_block(self, cluster: int, used: int) -> None:
        """Cache a new block that is to be in `cluster`, with the first `used` of the clusters that it covers in use."""
        self.check_no_table(cluster << self._bits, used)
        counts = decode(bytes(self._cluster), self._order)
        counts[:used] = 1
        self._blocks.add(Table(cluster << self._bits, counts, new=True))

    def _grow_table(self, index: int) -> None:
        """Move the refcount table to behind the clusters it covers, half again as large, with the blocks that takes."""
        first = index * self.per_block
        per_table_cluster = self._cluster // WORD
        blocks = 1
        while True:
            clusters = -(-((index + blocks) * 3 // 2 + 1) // per_table_cluster)
            if blocks * self.per_block >= blocks + clusters:
                break
            blocks += 1
        if clusters << self._bits > MAX_REFCOUNT_TABLE:
            raise ImageError(ImageErrorKind.IO, self._file.path, f"is full, its refcount table has {MAX_REFCOUNT_TABLE} bytes")
        old = self.table
        table = Table((first + blocks) << self._bits, np.zeros(clusters * per_table_cluster, np.uint64), new=True)
        table.entries[: len(old.entries)] = old.entries
        for number in range(blocks):
            used = min(max(blocks + clusters - number * self.per_block, 0), self.per_block)
            self._add_block(first + number, used)
            table.entries[index + number] = (first + number) << self._bits
        self.write_back()
        write_words(self._file, table)
        self._file.flush()
        self._file.writev(AT_REFCOUNTS, [struct.pack(">QI", table.offset, clusters)])
        self._file.flush()
        self.table = table
        self.release(old.offset >> self._bits, len(old.entries) * WORD >> self._bits)

    def write_back(self) -> bool:
        """Put all counts into the file, so that they are there before what is written from now on; whether it flushed."""
        changed = self._blocks.write_back()
        if self.table.dirty:
            self._file.flush()
            write_words(self._file, self.table)
        if changed:
            self._file.flush()
        return changed


def runs_of(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, count) of the runs of true flags."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(int(first), int(end - first)) for first, end in zip(edges[::2], edges[1::2], strict=True)]
