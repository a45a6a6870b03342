"""Tables of 64-bit words or refcounts in clusters of an image, cached: which of them changed, and where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from emu.block.storage import Storage

Entries = npt.NDArray[np.uint8 | np.uint16 | np.uint32 | np.uint64]
Words = npt.NDArray[np.uint64]

WORD = 8  # bytes of an entry in L1, L2 and refcount tables

# Bits of L1 and L2 entries.
COPIED = 1 << 63  # used once: may be written in place
COMPRESSED = 1 << 62
ZERO = 1  # reads as zeroes, from version 3 on
OFFSET = (1 << 56) - (1 << 9)
COMPRESSED_SECTOR = 512

MIN_TABLES = 4  # a step may use two at once, whatever their size
MAX_TABLES = 4096  # looked through at every write-back


class Table:
    """One table: `entries` in the host's byte order, those from `low` to before `high` not in the file yet."""

    __slots__ = ("entries", "high", "low", "offset")

    def __init__(self, offset: int, entries: Entries, *, new: bool = False) -> None:
        self.offset = offset
        self.entries = entries
        self.low, self.high = (0, len(entries)) if new else (len(entries), 0)

    @property
    def dirty(self) -> bool:
        """Whether the file has it otherwise."""
        return self.low < self.high

    def changed(self, first: int, count: int) -> None:
        """`count` entries from `first` on have been changed."""
        self.low, self.high = min(self.low, first), max(self.high, first + count)

    def clean(self) -> None:
        """The file has it all."""
        self.low, self.high = len(self.entries), 0


def compressed_extent(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Where the compressed cluster of an L2 entry is: offset, and bytes, which may be up to 511 too many."""
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = ((entry & (COMPRESSED - 1)) >> shift) + 1
    return offset, sectors * COMPRESSED_SECTOR - offset % COMPRESSED_SECTOR


def decode_words(raw: bytes | bytearray) -> Words:
    """Big-endian words as numbers."""
    return np.frombuffer(raw, ">u8").astype(np.uint64)


def read_words(file: Storage, offset: int, count: int) -> Words:
    """`count` words of a file."""
    raw = bytearray(count * WORD)
    file.readv(offset, [raw])
    return decode_words(raw)


def write_words(file: Storage, table: Table) -> None:
    """Put what changed in a table of words into the file."""
    part = table.entries[table.low : table.high].astype(">u8").tobytes()
    file.writev(table.offset + table.low * WORD, [part])
    table.clean()


class TableCache:
    """Tables by their offset, the least recently used forgotten first; nothing is forgotten before the file has it."""

    def __init__(
        self,
        capacity: int,
        *,
        read: Callable[[int], Entries],
        write: Callable[[Table], None],
        write_all: Callable[[], object],
    ) -> None:
        """`capacity` in bytes of memory; `write_all` writes back all that has to go before a table of this cache does."""
        self._capacity = capacity
        self._read = read
        self._write = write
        self._write_all = write_all
        self._tables: dict[int, Table] = {}

    def __contains__(self, offset: int) -> bool:
        return offset in self._tables

    def get(self, offset: int) -> Table:
        """The table at `offset`. Earlier ones that were got may be forgotten: change only what was got last."""
        table = self._tables.pop(offset, None)
        if table is None:
            table = Table(offset, self._read(offset))
            self._make_room(table.entries.nbytes)
        self._tables[offset] = table
        return table

    def add(self, table: Table) -> None:
        """A table that the file does not have yet."""
        self._tables.pop(table.offset, None)
        self._make_room(table.entries.nbytes)
        self._tables[table.offset] = table

    def forget(self, offset: int) -> None:
        """The cluster at `offset` holds no table any more."""
        self._tables.pop(offset, None)

    def write_back(self) -> bool:
        """Put all changes into the file, in order of offset; whether there were any."""
        dirty = sorted((table for table in self._tables.values() if table.dirty), key=lambda table: table.offset)
        for table in dirty:
            self._write(table)
        return bool(dirty)

    def _make_room(self, size: int) -> None:
        keep = min(max(MIN_TABLES, self._capacity // size), MAX_TABLES)
        if len(self._tables) < keep:
            return
        if next(iter(self._tables.values())).dirty:
            self._write_all()
        while len(self._tables) >= keep:
            del self._tables[next(iter(self._tables))]
