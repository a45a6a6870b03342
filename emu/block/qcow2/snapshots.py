"""Internal snapshots of an image: made, gone back to, deleted.

A snapshot is an L1 table of its own: that of the disk at one moment, and behind the disk's end that of the machine's state, if
one was saved with it (state.py). What it refers to counts once more, and is no longer written in place. Each of the three is
one switch of the header (switch.py).
"""

from __future__ import annotations

import numpy as np

from emu.block.qcow2.header import MAX_SNAPSHOTS
from emu.block.qcow2.metadata import Metadata
from emu.block.qcow2.snapshottable import About, Snapshot, read_snapshots
from emu.block.qcow2.switch import Switch
from emu.block.qcow2.tables import WORD, Words, read_words
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

MAX_NAME = 255  # bytes, as QEMU shows


class Snapshots:
    """The snapshots of an image whose tables are all in the file. The caller has the image alone, and reads it afresh after."""

    def __init__(self, file: Storage, metadata: Metadata) -> None:
        self._file = file
        self._metadata = metadata
        self._header = header = metadata.header
        self._bits = header.cluster_bits
        self._snapshots, self._table_length = read_snapshots(file, header)

    def _error(self, text: str) -> ImageError:
        return ImageError(ImageErrorKind.MISSING, self._file.path, text)

    def _find(self, tag: str) -> Snapshot:
        # An id is one snapshot's alone, and may be another's name.
        for snapshot in sorted(self._snapshots, key=lambda snapshot: snapshot.id != tag):
            if tag in (snapshot.id, snapshot.name):
                return snapshot
        raise self._error(f"has no snapshot {tag!r:.80}")

    def check_new(self, name: str) -> None:
        """Refuse a snapshot that cannot be: ImageError."""
        if not 0 < len(name.encode()) <= MAX_NAME or not name.isprintable():
            raise self._error(f"cannot have a snapshot called {name!r:.80}, names are 1..{MAX_NAME} bytes of text")
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            raise self._error(f"has {MAX_SNAPSHOTS} snapshots, which is the most it can have")
        if len(self._snapshots) + 2 > self._metadata.refcounts.maximum:
            most = self._metadata.refcounts.maximum
            raise self._error(f"has refcounts up to {most}, too few for a disk and {len(self._snapshots) + 1} snapshots")

    def create(self, name: str, disk: Words, state: Words, given_up: list[tuple[int, int]], about: About) -> None:
        """Add a snapshot: L1 tables of disk and state. `given_up` are runs of clusters that the disk used once more then."""
        self.check_new(name)
        switch = Switch(self._file, self._metadata)
        switch.count(disk, 1)
        for cluster, count in given_up:
            switch.recount.add(np.arange(cluster, cluster + count), -1)
        l1 = np.concatenate((disk, state))
        number = 1 + max((int(snapshot.id) for snapshot in self._snapshots if snapshot.id.isdecimal()), default=0)
        added = Snapshot.new(number, name, switch.put(l1), len(l1), about)
        self._make(switch, self._l1(), [*self._snapshots, added])

    def apply(self, tag: str) -> None:
        """Make the disk what it was."""
        snapshot = self._find(tag)
        if snapshot.disk_size != self._header.size:
            text = f"had {snapshot.disk_size} bytes in snapshot {tag!r:.80} and has {self._header.size} now, must be the same"
            raise self._error(text)
        current = self._l1()
        wanted = np.zeros(len(current), np.uint64)
        disk = self._l1_of(snapshot)[: self._header.disk_l1_entries]
        wanted[: len(disk)] = disk
        switch = Switch(self._file, self._metadata)
        switch.count(wanted, 1)
        switch.count(current, -1)
        self._make(switch, wanted, self._snapshots)

    def delete(self, tag: str) -> None:
        """Forget a snapshot."""
        snapshot = self._find(tag)
        switch = Switch(self._file, self._metadata)
        switch.count(self._l1_of(snapshot), -1)
        switch.recount.add_extent(snapshot.l1_offset, snapshot.l1_entries * WORD, -1)
        self._make(switch, self._l1(), [other for other in self._snapshots if other is not snapshot])

    def _make(self, switch: Switch, l1: Words, snapshots: list[Snapshot]) -> None:
        switch.make(l1, snapshots, table_length=self._table_length)

    def _l1(self) -> Words:
        return read_words(self._file, self._header.l1_offset, self._header.l1_entries)

    def _l1_of(self, snapshot: Snapshot) -> Words:
        return read_words(self._file, snapshot.l1_offset, snapshot.l1_entries)
