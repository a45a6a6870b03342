"""NBD's numbers (proto.md), and whole transfers over a socket within a time."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from enum import IntEnum, IntFlag

from emu.block.file import IOV_MAX, ReadBuffers, WriteBuffers, after

GREETING = 0x4E42444D41474943  # "NBDMAGIC"
NEW_STYLE = OPTION = 0x49484156454F5054  # "IHAVEOPT"
OLD_STYLE = 0x0000420281861253
OPTION_REPLY = 0x0003E889045565A9
REQUEST = 0x25609513
SIMPLE_REPLY = 0x67446698
STRUCTURED_REPLY = 0x668E33EF

OPTION_HEAD = struct.Struct(">QII")  # magic, option, length
OPTION_REPLY_HEAD = struct.Struct(">QIII")  # magic, option, type, length
REQUEST_HEAD = struct.Struct(">IHHQQI")  # magic, flags, command, cookie, offset, length
SIMPLE_HEAD = struct.Struct(">IIQ")  # magic, error, cookie
STRUCTURED_HEAD = struct.Struct(">IHHQI")  # magic, flags, type, cookie, length


class Handshake(IntFlag):
    """What both sides can do while they negotiate."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class Option(IntEnum):
    """What is negotiated."""

    GO = 7
    STRUCTURED_REPLY = 8


class OptionReply(IntEnum):
    """Answers to an option; those from `ERROR` on refuse it."""

    ACK = 1
    INFO = 3
    ERROR = 1 << 31


class Info(IntEnum):
    """What a server tells of an export."""

    EXPORT = 0
    BLOCK_SIZE = 3


class Export(IntFlag):
    """What an export can do ("transmission flags")."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6


class Command(IntEnum):
    """Requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


NO_HOLE = 1 << 1  # of WRITE_ZEROES: the space is kept
DONE = 1 << 0  # of a chunk: the last one of its reply
ERROR_BIT = 1 << 15  # of a chunk's type


class Chunk(IntEnum):
    """Parts of a structured reply; those with ERROR_BIT say that the request failed."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


class ServerLostError(OSError):
    """Raised when a server cannot be reached, hangs up, is silent, or breaks the protocol; the connection is over."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EIO, f"the NBD server {text}")
        self.text = text


class Wire:
    """A connected socket."""

    def __init__(self, connected: socket.socket, patience: float) -> None:
        """`patience` is in seconds: how long nothing at all may come or go."""
        self._socket = connected
        self._socket.settimeout(patience)

    def send(self, buffers: WriteBuffers) -> None:
        """Send all of `buffers`."""
        length = sum(map(len, buffers))
        try:
            while length:
                done = self._socket.sendmsg(buffers[:IOV_MAX])
                length -= done
                buffers = after(buffers, done) if length else ()
        except TimeoutError as exc:
            raise ServerLostError("takes nothing more") from exc
        except OSError as exc:
            raise ServerLostError(f"hung up: {exc.strerror}") from exc

    def receive_into(self, buffers: ReadBuffers, until: float) -> None:
        """Fill all of `buffers`; what has not come by `until`, in time.monotonic's seconds, does not come."""
        length = sum(map(len, buffers))
        while length:
            try:
                done, _ancillary, _flags, _address = self._socket.recvmsg_into(buffers[:IOV_MAX])
            except TimeoutError as exc:
                raise ServerLostError("does not answer") from exc
            except OSError as exc:
                raise ServerLostError(f"hung up: {exc.strerror}") from exc
            if done == 0:
                raise ServerLostError("hung up")
            if time.monotonic() > until:
                raise ServerLostError("takes too long to answer")
            length -= done
            buffers = after(buffers, done) if length else ()

    def receive(self, length: int, until: float) -> bytes:
        """The next `length` bytes."""
        data = bytearray(length)
        self.receive_into([data], until)
        return bytes(data)

    @property
    def silent(self) -> bool:
        """Whether nothing has come that was not received; a server that hung up is not silent."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def shut_down(self) -> None:
        """End all that waits for the server, in other threads as well."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def printable(raw: bytes) -> str:
    """A server's words, for an error line: at most 80 characters that can be shown."""
    return "".join(char for char in raw.decode(errors="replace") if char.isprintable())[:80]


def error_of(code: int, words: bytes = b"") -> OSError:
    """What a server answered a request with; numbers that the protocol does not have stand for EINVAL."""
    known = (errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW, errno.ENOTSUP, errno.ESHUTDOWN)
    number = code if code in known else errno.EINVAL
    said = f" ({printable(words)})" if words else ""
    return OSError(number, f"{os.strerror(number)}{said}")
