"""An NBD export as the Storage (emu/block/storage.py) of an image.

    inactive --activate: connect afresh, learn the size--> active
    active   --inactivate: requests end, flush, disconnect--> inactive; a read connects again

The protocol has no locks, and a server keeps no owner mark: nothing but the server says who may write, and nothing tells
whether somebody did. So an export that can be written warns when it is opened, and a source that a guest has left takes it
back without a question.

A server that is lost fails the requests under way, and the next one connects again. Writes that it had confirmed and not yet
flushed may be lost with it, as in a failed fsync: flushes fail from then on. Missing: block status, so that all of an export
may hold something; FUA, for Images have flush.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from emu.block.file import ReadBuffers, WriteBuffers
from emu.block.nbd.address import parse_address
from emu.block.nbd.connection import Connection
from emu.block.nbd.negotiation import NoSuchExportError
from emu.block.nbd.wire import NO_HOLE, Command, Export, ServerLostError
from emu.block.place import on_this_host
from emu.block.qcow2.vectors import ZEROES, Vectors
from emu.block.requests import Requests
from emu.errors import ImageError, ImageErrorKind

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds of silence before a server counts as lost
MAX_RANGE = 1 << 30  # bytes of one TRIM or WRITE_ZEROES, which carry no data; lengths have 32 bits
LIFE = -1  # stands for a block, so that an export is not let go while it is flushed
LAST = 1 << 62  # no block is behind this one

VERBS = {
    Command.READ: "reading",
    Command.WRITE: "writing",
    Command.FLUSH: "flushing",
    Command.TRIM: "discarding",
    Command.WRITE_ZEROES: "zeroing",
}


class NbdExport:
    """A Storage. Safe for concurrent use; transfers release the GIL."""

    def __init__(
        self, path: str, *, read_only: bool, patience: float = PATIENCE, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect to `path` (address.py), inactive; `patience` and `now` are in seconds."""
        self.path = path
        self.read_only = read_only
        self.locking = True  # of files behind an image in it: there is no lock on an export
        self._address = parse_address(path)
        self._patience = patience
        self._now = now
        self._transitions = threading.RLock()  # activate, inactivate and close, one at a time
        self._requests = Requests()
        self._active = False
        self._closed = False
        self._guard = threading.Lock()  # guards the five below
        self._connection: Connection | None = None
        self._failed_at = -math.inf  # when a server could not be connected to
        self._written = 0  # requests that changed something, confirmed
        self._flushed = 0  # of these
        self._lost_writes = False
        self._offer = self._connected().offer
        self.size = self._offer.size
        if not read_only:
            log.warning("%s: NBD has no locks: see to it that nobody else writes to it while a guest does", path)

    @property
    def identity(self) -> tuple[int, int]:
        """Which export it is, whatever its name."""
        return -1, hash(self._address)

    @property
    def place(self) -> str:
        """Which export it is, for another process to compare; one that is reached by two names has two."""
        name = f"nbd {self._address}"
        return on_this_host(name) if self._address.is_local else name

    @property
    def active(self) -> bool:
        """True while this process may write."""
        return self._active

    # Life cycle

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Begin to write. Nothing can be expected: the server does not tell who wrote."""
        del expect_unchanged
        with self._transitions:
            if not self._active:
                self.measure()
                self._active = True

    def measure(self) -> None:
        """Connect afresh: a server tells the size at the beginning of a connection, and never again."""
        with self._requests.hold(LIFE, LAST, exclusive=True):
            self._disconnect()
            self._offer = self._connected().offer
            self.size = self._offer.size

    def inactivate(self) -> None:
        """Flush, and disconnect; on an error the export stays active."""
        with self._transitions, self._requests.hold(LIFE, LAST, exclusive=True):
            if self._active:
                self._flush()
                self._active = False
                self._disconnect()

    def close(self) -> None:
        """Inactivate and disconnect for good."""
        with self._transitions:
            try:
                self.inactivate()
            finally:
                with self._requests.hold(LIFE, LAST, exclusive=True):
                    self._active, self._closed = False, True
                    self._disconnect()

    # The connection

    def _connected(self) -> Connection:
        """The connection, a new one if the server of the last was lost."""
        asked_at = self._now()
        with self._guard:
            if self._closed:
                raise ImageError(ImageErrorKind.INACTIVE, self.path, "is closed")
            if self._connection is not None and not self._connection.alive:
                self._lose()
            if self._connection is None:
                if self._failed_at > asked_at:  # requests that come together wait for a silent server together
                    raise ImageError(ImageErrorKind.IO, self.path, "cannot be opened: another request just tried")
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> Connection:
        try:
            connection = Connection(self._address, self._patience)
        except ServerLostError as exc:
            self._failed_at = self._now()
            kind = ImageErrorKind.MISSING if isinstance(exc, NoSuchExportError) else ImageErrorKind.IO
            raise ImageError(kind, self.path, f"cannot be opened: {exc.strerror}") from exc
        offer = connection.offer
        if not self.read_only and Export.READ_ONLY in offer.flags:
            connection.close()
            raise ImageError(ImageErrorKind.READ_ONLY, self.path, "is exported read-only, give the drive readonly")
        if self._active and offer.size != self.size:
            connection.close()
            raise ImageError(
                ImageErrorKind.IO, self.path, f"has {offer.size} bytes since its server came back, had {self.size}"
            )
        return connection

    def _lose(self) -> None:
        """Let go of a connection whose server was lost; the caller has the guard."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._lost_writes |= self._written > self._flushed

    def _disconnect(self) -> None:
        """The caller has the requests alone."""
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _call(
        self, command: Command, offset: int, length: int, *, flags: int = 0, data: WriteBuffers = (), into: ReadBuffers = ()
    ) -> None:
        connection = self._connected()
        try:
            connection.call(command, offset, length, flags=flags, data=data, into=into)
        except OSError as exc:
            where = "" if command is Command.FLUSH else f" {length} bytes at {offset:#x}"
            raise ImageError(ImageErrorKind.IO, self.path, f"{VERBS[command]}{where} failed: {exc.strerror}") from exc
        if command not in (Command.READ, Command.FLUSH):
            with self._guard:
                self._written += 1
                self._lost_writes |= connection is not self._connection

    # Requests

    @contextmanager
    def _writing(self, offset: int, length: int) -> Iterator[None]:
        """Have the blocks of a change, alone if it is not whole blocks; refuse what must not be changed."""
        whole = offset % self._offer.minimum == 0 and length % self._offer.minimum == 0
        with self._requests.hold(*self._blocks(offset, length), exclusive=not whole):
            text = f"refused to write {length} bytes at {offset:#x}"
            if self.read_only:
                raise ImageError(ImageErrorKind.READ_ONLY, self.path, f"is read-only, {text}")
            if not self._active:
                raise ImageError(ImageErrorKind.INACTIVE, self.path, f"is inactive, {text}")
            if offset + length > self.size:
                full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                text = f"{text}: its server has {self.size:#x} bytes, and exports do not grow"
                raise ImageError(ImageErrorKind.IO, self.path, text) from full
            yield

    def _blocks(self, offset: int, length: int) -> tuple[int, int]:
        """The first and the last of the server's smallest blocks that a range touches."""
        block = self._offer.minimum
        return offset // block, (offset + max(length, 1) - 1) // block

    def readv(self, offset: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `offset`."""
        length = sum(map(len, buffers))
        with self._requests.hold(*self._blocks(offset, length), exclusive=False):
            if offset + length > self.size:
                raise ImageError(
                    ImageErrorKind.IO, self.path, f"ends at {self.size:#x}, refused to read {length} bytes at {offset:#x}"
                )
            self._read(offset, buffers)

    def _read(self, offset: int, buffers: ReadBuffers) -> None:
        """Read whole blocks, what is too much of them aside."""
        offer = self._offer
        before = offset % offer.minimum
        length = sum(map(len, buffers))
        behind = -(before + length) % offer.minimum
        vectors = Vectors([bytearray(before), *buffers, bytearray(behind)] if before or behind else buffers)
        at = offset - before
        while vectors.left:
            step = min(vectors.left, offer.payload)
            self._call(Command.READ, at, step, into=vectors.take(step))
            at += step

    def readv_cached(self, offset: int, buffers: ReadBuffers) -> bool:
        """Nothing is kept on this side."""
        del offset, buffers
        return False

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """All of the export may hold something."""
        if self.size:
            yield 0, self.size

    def writev(self, offset: int, buffers: WriteBuffers) -> None:
        """Write `buffers` one after the other from `offset`."""
        with self._writing(offset, sum(map(len, buffers))):
            self._write(offset, buffers)

    def _write(self, offset: int, buffers: WriteBuffers) -> None:
        """Write whole blocks, with what was there around the buffers."""
        offer = self._offer
        before = offset % offer.minimum
        length = sum(map(len, buffers))
        behind = -(before + length) % offer.minimum
        if before or behind:
            head, tail = bytearray(before), bytearray(behind)
            self._read(offset - before, [head])
            self._read(offset + length, [tail])
            buffers = [head, *buffers, tail]
        vectors = Vectors(buffers)
        at = offset - before
        while vectors.left:
            step = min(vectors.left, offer.payload)
            self._call(Command.WRITE, at, step, data=vectors.take(step))
            at += step

    def flush(self) -> None:
        """Put what was written on the server's disk."""
        with self._requests.hold(LIFE, LIFE, exclusive=False):
            self._flush()

    def _flush(self) -> None:
        if not self._active or self.read_only:
            return
        if Export.SEND_FLUSH not in self._offer.flags:  # what it confirmed is as safe as it makes it
            return
        with self._guard:
            covered, lost = self._written, self._lost_writes
        if not lost:
            self._call(Command.FLUSH, 0, 0)
            with self._guard:
                self._flushed = max(self._flushed, covered)
                lost = self._lost_writes
        if lost:
            raise ImageError(
                ImageErrorKind.IO, self.path, "lost its server, and with it maybe writes that had not been flushed"
            ) from OSError(errno.EIO, os.strerror(errno.EIO))

    def discard(self, offset: int, length: int) -> None:
        """Give the whole blocks of a range back; a hint, left alone where the server cannot."""
        with self._writing(offset, length):
            offer = self._offer
            if Export.SEND_TRIM in offer.flags:
                first = -(-offset // offer.minimum) * offer.minimum
                self._ranges(Command.TRIM, first, (offset + length) // offer.minimum * offer.minimum)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeroes; with `unmap` its space may be given back."""
        with self._writing(offset, length):
            offer, end = self._offer, offset + length
            first, last = -(-offset // offer.minimum) * offer.minimum, end // offer.minimum * offer.minimum
            if first >= last or Export.SEND_WRITE_ZEROES not in offer.flags:
                self._write_zeroes(offset, end)
                return
            self._write_zeroes(offset, first)
            self._ranges(Command.WRITE_ZEROES, first, last, flags=0 if unmap else NO_HOLE)
            self._write_zeroes(last, end)

    def _write_zeroes(self, at: int, end: int) -> None:
        """Zeroes as data."""
        payload = self._offer.payload
        while at < end:
            step = min(end - at, payload)
            whole, part = divmod(step, len(ZEROES))
            self._write(at, [*([ZEROES] * whole), ZEROES[:part]])
            at += step

    def _ranges(self, command: Command, at: int, end: int, *, flags: int = 0) -> None:
        while at < end:
            step = min(end - at, MAX_RANGE)
            self._call(command, at, step, flags=flags)
            at += step
