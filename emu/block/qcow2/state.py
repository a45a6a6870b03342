"""The machine's state in a snapshot: bytes behind the end of the disk, in an L1 table that only the snapshot has.

Where QEMU has it too: from the first L2 table on that the disk does not need. Clusters that are all zero take no space.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from emu.block.file import ReadBuffers
from emu.block.qcow2.content import Content
from emu.block.qcow2.header import MAX_L1
from emu.block.qcow2.metadata import Metadata
from emu.block.qcow2.snapshottable import Snapshot
from emu.block.qcow2.tables import COPIED, WORD, Words, read_words
from emu.block.qcow2.vectors import Vectors
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind


class StateWriter:
    """Takes a state, in any order of its clusters, each of them once."""

    def __init__(self, file: Storage, metadata: Metadata) -> None:
        self._file = file
        self._metadata = metadata
        self._bits = metadata.header.cluster_bits
        self._per_table = metadata.cluster_size // WORD
        self._most = (MAX_L1 // WORD - metadata.header.disk_l1_entries) * self._per_table  # clusters
        self._tables: dict[int, Words] = {}  # by their number from the state's first on
        self.extents: list[tuple[int, int]] = []  # clusters of the file: first, count
        self.over = False  # given up: nothing is taken any more

    def put(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Write whole clusters at `position` of the state."""
        first, count = position >> self._bits, len(data) >> self._bits
        if first + count > self._most:
            text = f"has no room for a state of {position + len(data)} bytes, its clusters allow {self._most << self._bits}"
            raise ImageError(ImageErrorKind.IO, self._file.path, text)
        view = memoryview(data).cast("B")
        words = np.frombuffer(view, np.uint64).reshape(count, -1)
        filled = np.flatnonzero(np.bitwise_or.reduce(words, axis=1))
        while len(filled):
            with self._metadata.lock:
                if self.over:
                    raise ImageError(
                        ImageErrorKind.INACTIVE, self._file.path, "has had the snapshot given up that was being made"
                    )
                offset, got = self._metadata.allocate(len(filled))
                self.extents.append((offset >> self._bits, got))
            here, filled = filled[:got], filled[got:]
            runs = np.split(here, np.flatnonzero(np.diff(here) != 1) + 1)
            views = [view[int(run[0]) << self._bits : (int(run[-1]) + 1) << self._bits] for run in runs]
            self._file.writev(offset, views)
            self._enter(first + here, offset)

    def _enter(self, clusters: np.ndarray[tuple[int], np.dtype[np.int64]], offset: int) -> None:
        """Clusters of the state are those from `offset` of the file on, one after the other."""
        entries = (np.arange(len(clusters), dtype=np.uint64) << np.uint64(self._bits)) + np.uint64(offset | COPIED)
        for index in np.unique(clusters // self._per_table).tolist():
            if index not in self._tables:
                self._tables[index] = np.zeros(self._per_table, np.uint64)
            here = clusters // self._per_table == index
            self._tables[index][clusters[here] % self._per_table] = entries[here]

    def link(self, size: int) -> Words:
        """Write the L2 tables; L1 entries for a state of `size` bytes. The caller holds the metadata lock."""
        l1 = np.zeros(-(-size // (self._per_table << self._bits)), np.uint64)
        for index, entries in self._tables.items():
            offset, _ = self._metadata.allocate(1)
            self.extents.append((offset >> self._bits, 1))
            self._file.writev(offset, [entries.astype(">u8").tobytes()])
            l1[index] = offset | COPIED
        return l1


class SavedState:
    """The state in a snapshot of an image, to be read."""

    def __init__(self, file: Storage, metadata: Metadata, snapshot: Snapshot) -> None:
        """ImageError CORRUPT when the snapshot's table does not reach as far as it says that the state does."""
        header = metadata.header
        self.size = snapshot.vm_state_size
        self.cluster_size = header.cluster_size
        covered = header.cluster_size // WORD * header.cluster_size  # bytes of an L2 table
        self._start = header.disk_l1_entries * covered
        if self._start + self.size > snapshot.l1_entries * covered:
            text = (
                f"has snapshot {snapshot.name!r:.80} with a state of {self.size} bytes, its tables have {snapshot.l1_entries}"
            )
            raise ImageError(ImageErrorKind.CORRUPT, file.path, f"{text} entries")
        self._content = Content(file, None, l1=read_words(file, snapshot.l1_offset, snapshot.l1_entries))

    def readv(self, position: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `position`, which with all of them lies in the state's clusters."""
        self._content.read(self._start + position, Vectors(buffers))

    def data_runs(self, position: int, length: int) -> Iterator[tuple[int, int]]:
        """(position, length) of the parts that may hold something; all else reads as zero."""
        start = self._start + position
        for offset, part in self._content.data_runs(start, start + length):
            yield offset - self._start, part
