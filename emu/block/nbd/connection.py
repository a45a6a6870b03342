"""One NBD connection after its negotiation: several threads' requests under way at once, told apart by their cookies.

There is no thread of its own. Whoever waits for an answer receives, for all, until its own is there; then another that waits
does. So a request that is alone costs no switch of threads. Data goes straight between the socket and the callers' buffers.

The server is not trusted: whatever does not fit a request that is under way ends the connection, as does silence. A request
fails only when nothing is received into its buffers any more.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from emu.block.file import ReadBuffers, WriteBuffers
from emu.block.nbd.address import Address
from emu.block.nbd.negotiation import Offer, negotiate
from emu.block.nbd.wire import (
    DONE,
    ERROR_BIT,
    REQUEST,
    REQUEST_HEAD,
    SIMPLE_HEAD,
    SIMPLE_REPLY,
    STRUCTURED_HEAD,
    STRUCTURED_REPLY,
    Chunk,
    Command,
    ServerLostError,
    Wire,
    error_of,
)
from emu.block.qcow2.vectors import Vectors, fill_zero

MAX_ERRORS = 16  # error chunks of one reply; one says it all
MAX_WORDS = 4096  # bytes of an error's text
SLOWEST = 1 << 20  # bytes a second; a request may take so much longer than the patience


@dataclass(slots=True, eq=False)
class _Request:
    """One request under way."""

    command: Command
    offset: int
    length: int
    into: ReadBuffers  # of a read
    deadline: float  # time.monotonic
    left: int  # bytes of a read that have not come
    errors: int = 0
    error: OSError | None = None  # the server's first
    over: bool = False

    def part(self, offset: int, length: int) -> list[memoryview]:
        """The buffers' part for a chunk of the reply."""
        start = offset - self.offset
        if self.command is not Command.READ or length == 0 or start < 0 or start + length > self.length or length > self.left:
            raise ServerLostError(
                f"answers a {self.command.name} of {self.length} bytes at {self.offset:#x} with {length} bytes at {offset:#x}"
            )
        self.left -= length
        vectors = Vectors(self.into)
        vectors.take(start)
        return vectors.take(length)


class Connection:
    """A connection to an export. Safe for concurrent use; ServerLostError once it is over, OSError for what is refused."""

    def __init__(self, address: Address, patience: float) -> None:
        """Connect; `patience` is in seconds: of silence, and of the whole negotiation."""
        self._patience = patience
        self._wire = Wire(_connect(address, patience), patience)
        try:
            self.offer: Offer = negotiate(self._wire, address.export, time.monotonic() + patience)
        except BaseException:
            self._wire.close()
            raise
        self._cookies = itertools.count(1)
        self._sending = threading.Lock()
        self._changed = threading.Condition()  # guards what follows
        self._pending: dict[int, _Request] = {}
        self._receiving = False
        self._lost: ServerLostError | None = None

    @property
    def alive(self) -> bool:
        """Whether there is a server for the next request. One that went away while nothing was asked is noticed here."""
        with self._changed:
            if self._lost is None and not self._pending and not self._receiving and not self._wire.silent:
                self._lose(ServerLostError("hung up"))
            return self._lost is None

    def call(
        self, command: Command, offset: int, length: int, *, flags: int = 0, data: WriteBuffers = (), into: ReadBuffers = ()
    ) -> None:
        """Carry out one request."""
        deadline = time.monotonic() + self._patience + length / SLOWEST
        request = _Request(command, offset, length, into, deadline, length if command is Command.READ else 0)
        cookie = next(self._cookies)
        with self._changed:
            self._raise_lost()
            self._pending[cookie] = request
        try:
            self._send(REQUEST_HEAD.pack(REQUEST, flags, command, cookie, offset, length), data)
            while self._must_receive(request):
                self._receive_for(request)
        finally:
            with self._changed:
                del self._pending[cookie]
                if self._lost is not None:
                    self._changed.notify_all()
        if request.error is not None:
            raise request.error

    def _send(self, head: bytes, data: WriteBuffers) -> None:
        try:
            with self._sending:
                self._wire.send([head, *data])
        except ServerLostError as exc:
            with self._changed:
                self._lose(exc)

    def _must_receive(self, request: _Request) -> bool:
        """Wait for the answer, or until it is this thread's turn to receive: False, or True."""
        with self._changed:
            while True:
                if request.over:
                    return False
                if not self._receiving:
                    self._raise_lost()
                    self._receiving = True
                    return True
                left = request.deadline - time.monotonic()
                if not self._changed.wait(left if self._lost is None else None) and time.monotonic() >= request.deadline:
                    self._lose(ServerLostError("takes too long to answer"))

    def _receive_for(self, request: _Request) -> None:
        """Receive until this request's answer is there."""
        try:
            while not request.over:
                answered = self._receive_one(request.deadline)
                if answered is not None:
                    with self._changed:
                        answered.over = True
                        if answered is not request:
                            self._changed.notify_all()
        except ServerLostError as exc:
            with self._changed:
                self._lose(exc)
        finally:
            with self._changed:
                self._receiving = False
                self._changed.notify_all()

    def _lose(self, why: ServerLostError) -> None:
        """The connection is over, for the first reason there was. The caller has `_changed`."""
        if self._lost is None:
            self._lost = why
            self._wire.shut_down()

    def _raise_lost(self) -> None:
        if self._lost is not None:
            raise ServerLostError(self._lost.text) from self._lost

    # What the server says.

    def _receive_one(self, until: float) -> _Request | None:
        """One reply, or one chunk; the request if that was its end."""
        head = self._wire.receive(SIMPLE_HEAD.size, until)
        magic, code, cookie = SIMPLE_HEAD.unpack(head)
        if magic == SIMPLE_REPLY:
            return self._simple(self._request(cookie), code, until)
        if magic != STRUCTURED_REPLY or not self.offer.structured:
            raise ServerLostError(f"begins a reply with {magic:#010x}")
        head += self._wire.receive(STRUCTURED_HEAD.size - SIMPLE_HEAD.size, until)
        _magic, flags, kind, cookie, length = STRUCTURED_HEAD.unpack(head)
        request = self._request(cookie)
        take = CHUNKS.get(kind)
        if take is None and kind & ERROR_BIT:
            take = Connection._error_chunk  # an error of a later protocol
        if take is None:
            raise ServerLostError(f"sends a chunk of type {kind:#x}")
        take(self, request, length, until)
        if not flags & DONE:
            if kind == Chunk.NONE:
                raise ServerLostError("sends an empty chunk that is not the last")
            return None
        if request.left and request.error is None:
            raise ServerLostError(f"answers a read of {request.length} bytes {request.left} bytes short")
        return request

    def _request(self, cookie: int) -> _Request:
        with self._changed:
            request = self._pending.get(cookie)
        if request is None or request.over:
            raise ServerLostError(f"answers request {cookie:#x}, which is not under way")
        return request

    def _simple(self, request: _Request, code: int, until: float) -> _Request:
        if code:
            request.error = error_of(code)
        elif request.command is Command.READ:
            if self.offer.structured:
                raise ServerLostError("answers a read with a simple reply")
            self._wire.receive_into(request.part(request.offset, request.length), until)
        return request

    def _no_chunk(self, request: _Request, length: int, until: float) -> None:
        del request, until
        if length:
            raise ServerLostError(f"sends an empty chunk of {length} bytes")

    def _data_chunk(self, request: _Request, length: int, until: float) -> None:
        if length <= 8:
            raise ServerLostError(f"sends a data chunk of {length} bytes")
        offset = int.from_bytes(self._wire.receive(8, until), "big")
        self._wire.receive_into(request.part(offset, length - 8), until)

    def _hole_chunk(self, request: _Request, length: int, until: float) -> None:
        if length != 12:
            raise ServerLostError(f"sends a hole chunk of {length} bytes")
        offset, size = struct.unpack(">QI", self._wire.receive(12, until))
        fill_zero(request.part(offset, size))

    def _error_chunk(self, request: _Request, length: int, until: float) -> None:
        request.errors += 1
        if not 6 <= length <= 6 + MAX_WORDS + 8 or request.errors > MAX_ERRORS:
            raise ServerLostError(f"sends error chunk {request.errors} of a request, of {length} bytes")
        content = self._wire.receive(length, until)
        code, words = struct.unpack_from(">IH", content)
        if request.error is None:
            request.error = error_of(code, content[6 : 6 + words])

    def close(self) -> None:
        """Say goodbye and hang up; what is still under way fails."""
        self._send(REQUEST_HEAD.pack(REQUEST, 0, Command.DISC, 0, 0, 0), ())
        with self._changed:
            self._lose(ServerLostError("was left"))
            self._changed.wait_for(lambda: not self._pending)  # they use the socket
        self._wire.close()


CHUNKS: dict[int, Callable[[Connection, _Request, int, float], None]] = {
    Chunk.NONE: Connection._no_chunk,
    Chunk.OFFSET_DATA: Connection._data_chunk,
    Chunk.OFFSET_HOLE: Connection._hole_chunk,
    Chunk.ERROR: Connection._error_chunk,
    Chunk.ERROR_OFFSET: Connection._error_chunk,
}


def _connect(address: Address, patience: float) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX) if address.socket else None
    try:
        if connected is not None:
            connected.settimeout(patience)
            connected.connect(address.socket)
        else:
            connected = socket.create_connection((address.host, address.port), patience)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as exc:
        if connected is not None:
            connected.close()
        raise ServerLostError(f"cannot be reached: {exc.strerror or exc}") from exc
    return connected
