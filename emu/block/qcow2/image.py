"""A qcow2 image: the Image protocol (emu/block/image.py) over a file of clusters, with the images behind it.

    inactive --activate: backing, lock, header and tables read afresh--> active
    active   --inactivate: requests end, tables written back and forgotten, unlock, backing--> inactive

Whoever changes clusters of the disk has them alone meanwhile (requests.py). How bytes move is told in content.py, where each
cluster is and in which order that is written in metadata.py. Missing: writing compressed clusters, resizing, extended L2
entries, external data files, encryption, and bitmaps, which are marked as outdated at the first write. Lazy refcounts are kept
as exact as any others, which the format allows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emu.block.changes import Changes
from emu.block.file import ImageFile, ReadBuffers, WriteBuffers
from emu.block.probe import probe
from emu.block.qcow2.content import Content
from emu.block.qcow2.header import CORRUPT, Header, read_header
from emu.block.qcow2.snapshots import Snapshots
from emu.block.qcow2.snapshottable import About, Snapshot, read_snapshots
from emu.block.qcow2.state import SavedState, StateWriter
from emu.block.qcow2.tables import Words
from emu.block.qcow2.vectors import Vectors
from emu.block.raw import RawImage
from emu.block.requests import Requests
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

MAX_CHAIN = 64  # images behind each other
FLUSHES = -1  # stands for a cluster, so that an image is not let go while it is flushed
LAST = 1 << 62  # no cluster is behind this one


@dataclass(frozen=True, slots=True)
class _FrozenDisk:
    """A snapshot that is being made."""

    l1: Words  # of the disk at the moment it is to show
    state: StateWriter


class Qcow2Image:
    """An Image over a qcow2 file. Without `active` nothing in the file is believed longer than one read takes."""

    format = "qcow2"

    def __init__(self, file: Storage, *, above: tuple[tuple[int, int], ...] = ()) -> None:
        """`above` are the identities of the images that this one is behind."""
        self.changes = Changes()
        self._file = file
        self._chain = (*above, file.identity)
        self._transitions = threading.RLock()
        self._requests = Requests()
        self._active: Content | None = None
        self._frozen: _FrozenDisk | None = None
        self._backing: RawImage | Qcow2Image | None = None
        self._header = read_header(file)
        self._open_backing(self._header)

    @property
    def path(self) -> str:
        """Where the image is, as the user named it."""
        return self._file.path

    @property
    def place(self) -> str:
        """Where its bytes are."""
        return self._file.place

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._header.size

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return self._header.cluster_size

    @property
    def read_only(self) -> bool:
        """True when opened for reading alone."""
        return self._file.read_only

    @property
    def active(self) -> bool:
        """True while this process owns the image."""
        return self._active is not None

    @property
    def backing(self) -> RawImage | Qcow2Image | None:
        """The image that unallocated clusters are read from."""
        return self._backing

    # Life cycle

    def _open_backing(self, header: Header) -> None:
        if self._backing is not None:
            self._backing.close()
            self._backing = None
        if header.backing:
            self._backing = _open_behind(self._file, header.backing, header.backing_format, self._chain)

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Own the image: what is behind it first."""
        with self._transitions:
            if self.active:
                return
            if self._backing is not None:
                self._backing.activate(expect_unchanged=expect_unchanged)
            try:
                self._file.activate(expect_unchanged=expect_unchanged)
                header = read_header(self._file)
                if header.incompatible & CORRUPT and not self.read_only:
                    text = "is marked corrupt and can only be read: 'qemu-img check -r all' may repair it"
                    raise ImageError(ImageErrorKind.CORRUPT, self.path, text)  # noqa: TRY301 - all the same way back
                self._follow(header)
                content = Content(self._file, self._backing)
            except ImageError:
                with contextlib.suppress(ImageError):  # the first error says more
                    self._let_go()
                raise
            self._active = content

    def _follow(self, header: Header) -> None:
        """Take the header as it is now: another process may have changed what is behind the image."""
        old, self._header = self._header, header
        if (header.backing, header.backing_format) != (old.backing, old.backing_format):
            self._open_backing(header)
            if self._backing is not None:
                self._backing.activate()

    def _let_go(self) -> None:
        self._file.inactivate()
        if self._backing is not None:
            self._backing.inactivate()

    def inactivate(self) -> None:
        """Let the image go when its tables are on disk; on an error it stays active."""
        with self._transitions:
            content = self._active
            if content is None:
                return
            self.thaw()
            with self._requests.hold(FLUSHES, LAST, exclusive=True):
                if not self.read_only:
                    with content.metadata.lock:
                        content.metadata.settle()
                self._let_go()
                self._active = None

    def close(self) -> None:
        """Let the image go for good."""
        with self._transitions:
            try:
                self.inactivate()
            finally:
                self._active = None
                self._file.close()
                if self._backing is not None:
                    self._backing.close()

    # Requests

    def _content(self) -> Content:
        """The disk; that of an inactive image as it is in the file at this moment."""
        if self._active is not None:
            return self._active
        self._file.measure()
        return Content(self._file, self._backing)

    def _writable(self, what: str) -> Content:
        if self._active is None:
            raise ImageError(ImageErrorKind.INACTIVE, self.path, f"is inactive, refused to {what}")
        if self.read_only:
            raise ImageError(ImageErrorKind.READ_ONLY, self.path, f"is read-only, refused to {what}")
        return self._active

    def readv(self, offset: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `offset`."""
        vectors = Vectors(buffers)
        with self._requests.hold(*self._clusters(offset, vectors.left), exclusive=False):
            self._content().read(offset, vectors)

    def readv_cached(self, offset: int, buffers: ReadBuffers) -> bool:
        """Fill `buffers` if the tables and the host have it all in their caches, and nobody changes it."""
        vectors = Vectors(buffers)
        clusters = self._clusters(offset, vectors.left)
        content = self._active
        if content is None or not content.metadata.lock.acquire(blocking=False):
            return False
        try:
            with self._requests.try_share(*clusters) as free:
                return free and content.read_cached(offset, vectors)
        finally:
            content.metadata.lock.release()

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that may hold something."""
        return self._content().data_runs(0, self.size)

    def own_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that are this image's own, and not as the image behind has them."""
        return self._content().own_runs()

    def writev(self, offset: int, buffers: WriteBuffers) -> None:
        """Write `buffers` one after the other from `offset`."""
        vectors = Vectors(buffers)
        length = vectors.left
        with self._changing(offset, length):
            self._writable(f"write {length} bytes at {offset:#x}").write(offset, vectors)

    @contextlib.contextmanager
    def _changing(self, offset: int, length: int) -> Iterator[None]:
        """Have a range alone while it is changed, and have the change noted: one that failed may have been made in part."""
        with self._requests.hold(*self._clusters(offset, length), exclusive=True):
            try:
                yield
            finally:
                self.changes.note(offset, length)

    def make_empty(self) -> None:
        """Make everything as the image behind has it."""
        with self._changing(0, self.size):
            self._writable("make it empty").make_empty()

    def flush(self) -> None:
        """Return when every write that has returned is on disk."""
        with self._requests.hold(FLUSHES, FLUSHES, exclusive=False):
            if self._active is None or self.read_only:
                return
            metadata = self._active.metadata
            with metadata.lock:
                waiting = metadata.write_back()
            self._file.flush()
            with metadata.lock:
                metadata.release(waiting)

    def discard(self, offset: int, length: int) -> None:
        """Give the space of whole clusters back; they read as zero from then on, if the image can say so."""
        with self._changing(offset, length):
            self._writable(f"discard {length} bytes at {offset:#x}").discard(offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeroes; whole clusters are only marked."""
        with self._changing(offset, length):
            self._writable(f"write {length} zeroes at {offset:#x}").write_zeroes(offset, length, unmap=unmap)

    # Internal snapshots

    def snapshots(self) -> list[Snapshot]:
        """Those in the image, oldest first; not while they change."""
        with self._requests.hold(FLUSHES, FLUSHES, exclusive=False):
            return read_snapshots(self._file, self._content().metadata.header)[0]

    def saved_state(self, snapshot: Snapshot) -> SavedState:
        """The state that was saved with one of `snapshots`."""
        return SavedState(self._file, self._content().metadata, snapshot)

    def check_snapshot(self, name: str) -> None:
        """Refuse what `keep` would refuse, and put everything on disk, so that `freeze` has nothing to wait for."""
        with self._snapshots("make a snapshot") as snapshots:
            snapshots.check_new(name)

    def freeze(self) -> None:
        """A snapshot of the disk begins to be made: it is to show this moment. Writes nothing."""
        with self._requests.hold(FLUSHES, LAST, exclusive=True):
            metadata = self._writable("make a snapshot").metadata
            with metadata.lock:
                self._refuse_frozen()
                self._frozen = _FrozenDisk(metadata.freeze(), StateWriter(self._file, metadata))

    def put_state(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Write whole clusters of the state that is to be saved with the snapshot, each once. The guest may write meanwhile."""
        self._frozen_disk().state.put(position, data)

    def keep(self, name: str, about: About) -> None:
        """The snapshot is in the file when this returns; if it fails there is none, and clusters may be leaked."""
        frozen = self._frozen_disk()
        self._file.flush()  # the state, while the guest need not wait for it
        with self._snapshots("keep a snapshot", frozen=True) as snapshots:
            self._frozen = None
            metadata = self._writable("keep a snapshot").metadata
            disk = frozen.l1[: self._header.disk_l1_entries]
            snapshots.create(name, disk, frozen.state.link(about.state_size), metadata.thaw(), about)

    def thaw(self) -> None:
        """There will be no snapshot; harmless when none was begun."""
        frozen, self._frozen = self._frozen, None
        if frozen is not None and self._active is not None:
            metadata = self._active.metadata
            with metadata.lock:
                frozen.state.over = True
                for cluster, count in (*metadata.thaw(), *frozen.state.extents):
                    metadata.free(cluster, count)

    def _frozen_disk(self) -> _FrozenDisk:
        if self._frozen is None:
            raise ImageError(ImageErrorKind.INACTIVE, self.path, "has no snapshot being made")
        return self._frozen

    def _refuse_frozen(self) -> None:
        if self._frozen is not None:
            raise ImageError(ImageErrorKind.LOCKED, self.path, "has a snapshot being made, which must end first")

    def apply_snapshot(self, tag: str) -> None:
        """Make the disk what it was; `tag` is a snapshot's id or its name."""
        with self._snapshots("apply a snapshot") as snapshots:
            snapshots.apply(tag)
            self.changes.note(0, self.size)

    def delete_snapshot(self, tag: str) -> None:
        """Forget a snapshot, and free what it alone needs."""
        with self._snapshots("delete a snapshot") as snapshots:
            snapshots.delete(tag)

    @contextlib.contextmanager
    def _snapshots(self, what: str, *, frozen: bool = False) -> Iterator[Snapshots]:
        """The snapshots, to be changed while no request is under way; everything is read afresh after that.

        Refused while one is being made, unless `frozen` says that it is that one.
        """
        with self._requests.hold(FLUSHES, LAST, exclusive=True):
            metadata = self._writable(what).metadata
            with metadata.lock:
                if not frozen:
                    self._refuse_frozen()
                metadata.prepare()
                metadata.settle()
                try:
                    yield Snapshots(self._file, metadata)
                finally:
                    self._active = Content(self._file, self._backing)

    def _clusters(self, offset: int, length: int) -> tuple[int, int]:
        """The first and the last cluster of a range, which must be the disk's."""
        if offset < 0 or length < 0 or offset + length > self.size:
            text = f"has no bytes {offset:#x}..{offset + length:#x}, its size is {self.size:#x}"
            raise ImageError(ImageErrorKind.BOUNDS, self.path, text)
        bits = self._header.cluster_bits
        return offset >> bits, (offset + max(length, 1) - 1) >> bits


def _open_behind(above: Storage, name: str, format: str, chain: tuple[tuple[int, int], ...]) -> RawImage | Qcow2Image:  # noqa: A002
    """Open the backing file `name` of the image `above`, to be locked if that is."""
    path = above.path
    name = name.removeprefix("file:")
    if ":" in name.split("/")[0]:
        raise ImageError(
            ImageErrorKind.MISSING, path, f"has the backing file {name!r}, only files by their names are supported"
        )
    if format not in ("", "raw", "qcow2"):
        raise ImageError(ImageErrorKind.CORRUPT, path, f"has a backing file of format {format!r}, known are raw and qcow2")
    if len(chain) > MAX_CHAIN:
        raise ImageError(ImageErrorKind.CORRUPT, path, f"has more than {MAX_CHAIN} images behind each other")
    file = ImageFile(str(Path(path).parent / name), read_only=True, locking=above.locking)
    try:
        if file.identity in chain:
            text = f"has itself behind it, as {name!r}"
            raise ImageError(ImageErrorKind.CORRUPT, path, text)  # noqa: TRY301 - closed as after any other error
        return Qcow2Image(file, above=chain) if (format or probe(file)) == "qcow2" else RawImage(file)
    except BaseException:
        file.close()
        raise
