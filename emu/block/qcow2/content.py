"""The content of an active image, or of one that is read once: bytes between requests' buffers, the file and the image behind.

Data goes by preadv and pwritev straight between the caller's buffers and the file, neighbouring clusters at once. The tables
are not locked meanwhile; the caller has the clusters that are touched (requests.py), alone where they are changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from emu.block.file import ReadBuffers
from emu.block.qcow2.compressed import DecompressError, decompress
from emu.block.qcow2.metadata import Kind, Metadata, Run
from emu.block.qcow2.tables import Words
from emu.block.qcow2.vectors import ZEROES, Vectors, fill, fill_zero
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

KEPT_UNPACKED = 1 << 20  # bytes of decompressed clusters kept, one cluster at least


class Source(Protocol):
    """What can be read: the image's file, or the image behind."""

    def readv(self, offset: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `offset`."""


class Behind(Source, Protocol):
    """The image behind: what unallocated clusters read as."""

    @property
    def size(self) -> int:
        """Bytes of its disk; all behind them is zero."""


class Content:
    """All of an image's disk, or of what an L1 table of a snapshot refers to."""

    def __init__(self, file: Storage, backing: Behind | None, *, l1: Words | None = None) -> None:
        """With `l1`, which is a snapshot's, it can only be read."""
        self._file = file
        self._backing = backing
        self.metadata = Metadata(file, l1)
        self.size = self.metadata.header.size
        self._cluster = self.metadata.cluster_size
        self._markable = backing is None or self.metadata.header.version >= 3
        self._unpacked: dict[int, bytes] = {}

    def _run(self, offset: int, length: int) -> tuple[Run, int, int]:
        """What is at `offset` of the disk, how far into the run's first cluster that is, and how many bytes are alike."""
        cluster, within = divmod(offset, self._cluster)
        run = self.metadata.map(cluster, -(-(within + length) // self._cluster))
        return run, within, min(run.clusters * self._cluster - within, length)

    def _is_zero(self, run: Run) -> bool:
        return run.kind is Kind.ZERO or (run.kind is Kind.UNALLOCATED and self._backing is None)

    def data_runs(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts between two offsets that may hold something."""
        while offset < end:
            with self.metadata.lock:
                run, _, length = self._run(offset, end - offset)
            if not self._is_zero(run):
                yield offset, length
            offset += length

    def own_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that are not as the image behind has them."""
        offset = 0
        while offset < self.size:
            with self.metadata.lock:
                run, _, length = self._run(offset, self.size - offset)
            if run.kind is not Kind.UNALLOCATED:
                yield offset, length
            offset += length

    # Reading

    def read_cached(self, offset: int, vectors: Vectors) -> bool:
        """Read if tables and host have it all in their caches; the caller holds the metadata lock."""
        while vectors.left:
            if not self.metadata.cached(offset // self._cluster):
                return False
            run, within, length = self._run(offset, vectors.left)
            place, views = run.offset + within, vectors.take(length)
            if self._is_zero(run):
                fill_zero(views)
            elif run.kind is not Kind.DATA or place + length > self._file.size or not self._file.readv_cached(place, views):
                return False
            offset += length
        return True

    def read(self, offset: int, vectors: Vectors) -> None:
        """Read all that `vectors` has room for."""
        while vectors.left:
            with self.metadata.lock:
                run, within, length = self._run(offset, vectors.left)
            views = vectors.take(length)
            if run.kind is Kind.DATA:
                _read_to_end(self._file, self._file.size, run.offset + within, views)
            elif run.kind is Kind.COMPRESSED:
                fill(views, memoryview(self._unpack(run))[within:])
            elif run.kind is Kind.UNALLOCATED and self._backing is not None:
                _read_to_end(self._backing, self._backing.size, offset, views)
            else:
                fill_zero(views)
            offset += length

    def _unpack(self, run: Run) -> bytes:
        """A compressed cluster. None is ever written, so that what is kept cannot become wrong while the image is active."""
        kept = self._unpacked.get(run.offset)
        if kept is not None:
            return kept
        packed = bytearray(min(run.length, max(self._file.size - run.offset, 0)))
        self._file.readv(run.offset, [packed])
        try:
            data = decompress(packed, self._cluster, self.metadata.header.compression)
        except DecompressError as exc:
            text = f"has a compressed cluster at {run.offset:#x} that cannot be read: {exc}"
            raise ImageError(ImageErrorKind.CORRUPT, self._file.path, text) from exc
        with self.metadata.lock:
            while len(self._unpacked) > KEPT_UNPACKED // self._cluster:
                del self._unpacked[next(iter(self._unpacked))]
            self._unpacked[run.offset] = data
        return data

    # Writing

    def write(self, offset: int, vectors: Vectors) -> None:
        """Write all of `vectors`."""
        while vectors.left:
            cluster, within = divmod(offset, self._cluster)
            wanted = -(-(within + vectors.left) // self._cluster)
            with self.metadata.lock:
                self.metadata.prepare()
                run = self.metadata.map(cluster, wanted)
                if run.in_place:
                    self.metadata.check_data(run)
                    place, clusters = run.offset, run.clusters
                else:
                    place, clusters = self.metadata.allocate(self.metadata.vacant(cluster, wanted))
            length = min(clusters * self._cluster - within, vectors.left)
            views = vectors.take(length)
            if run.in_place and run.kind is Kind.DATA:
                self._file.writev(place + within, views)
            else:
                self._write_whole(cluster, clusters, place, within, views, length)
                with self.metadata.lock:
                    self.metadata.link(cluster, clusters, place)
            offset += length

    def _write_whole(self, cluster: int, clusters: int, place: int, within: int, views: list[memoryview], length: int) -> None:
        """Fill clusters of the file: `views`, and around them what the disk has there."""
        start, end = cluster * self._cluster, (cluster + clusters) * self._cluster
        try:
            before = self._old(start, within)
            after = self._old(start + within + length, end - start - within - length)
            self._file.writev(place, [before, *views, after])
        except ImageError:
            with self.metadata.lock:
                self.metadata.give_up(cluster, clusters, place)
            raise

    def _old(self, offset: int, length: int) -> bytearray:
        """What the disk has beside a write that fills a cluster in part; zero behind its end."""
        data = bytearray(length)
        there = min(length, max(self.size - offset, 0))
        if there:
            self.read(offset, Vectors([memoryview(data)[:there]]))
        return data

    def discard(self, offset: int, length: int) -> None:
        """Whole clusters read as zero from then on and give their space back, if the image can say so; parts of them stay."""
        if self._markable:
            self._unlink(*self._whole(offset, length), zero=self._backing is not None)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeroes; whole clusters are only marked."""
        first, last = self._whole(offset, length)
        if first > last or not self._markable:
            self._write_zeroes(offset, length)
            return
        self._write_zeroes(offset, first * self._cluster - offset)
        keep = not unmap and self.metadata.header.version >= 3
        self._unlink(first, last, zero=self._backing is not None, keep=keep)
        end = min((last + 1) * self._cluster, self.size)
        self._write_zeroes(end, offset + length - end)

    def _whole(self, offset: int, length: int) -> tuple[int, int]:
        """The first and the last cluster that are in a range as a whole, or as far as the disk goes."""
        end = offset + length
        last = -(-end // self._cluster) if end == self.size else end // self._cluster
        return -(-offset // self._cluster), last - 1

    def make_empty(self) -> None:
        """Everything is as the image behind has it."""
        self._unlink(0, -(-self.size // self._cluster) - 1, zero=False)

    def _unlink(self, first: int, last: int, *, zero: bool, keep: bool = False) -> None:
        while first <= last:
            with self.metadata.lock:
                self.metadata.prepare()
                first += self.metadata.unlink(first, last - first + 1, zero=zero, keep=keep)

    def _write_zeroes(self, offset: int, length: int) -> None:
        """Zeroes as data, where there is anything else."""
        while length:
            with self.metadata.lock:
                run, _, part = self._run(offset, length)
            if not self._is_zero(run):
                part = min(part, len(ZEROES))
                self.write(offset, Vectors([ZEROES[:part]]))
            offset, length = offset + part, length - part


def _read_to_end(source: Source, size: int, offset: int, views: list[memoryview]) -> None:
    """Read what may end early; behind its end is zero."""
    length = sum(map(len, views))
    there = min(max(size - offset, 0), length)
    if there == length:
        source.readv(offset, views)
        return
    vectors = Vectors(views)
    if there:
        source.readv(offset, vectors.take(there))
    fill_zero(vectors.take(length - there))
