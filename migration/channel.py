"""Where a stream goes: tcp, unix, exec, fd and file, all as one kind of channel over file descriptors.

A channel's waits end at once when another thread cancels it, whatever it is made of. Two-way channels carry answers; on a
one-way channel (a file, a pipe) the source is done when everything is written.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from emu.errors import MigrationError, StreamError
from emu.unixsocket import UnixListener

Buffer: TypeAlias = "bytes | bytearray | memoryview"

SOCKET_BUFFER = 4 << 20  # bytes; halves the switches between the two sides on one host
IOV_MAX = 1024  # Linux's limit on buffers per call
TCP_LOST_AFTER_MS = 30_000  # a peer that acknowledges nothing for so long is gone
TCP_KEEPALIVE = (10, 5, 4)  # seconds idle, seconds between probes, probes
MAX_FD = (1 << 31) - 1
LAST_WORDS_WITHIN = 5.0  # seconds for a command to pass on what it was given


class Cancelled(Exception):  # noqa: N818 - it is an order, not an error
    """Raised inside a channel's wait when another thread cancelled the channel."""


class Canceller:
    """Ends another thread's wait, now or later. Closing and cancelling may race; the descriptor is never used once closed."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """End every `wait`; any thread."""
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def wait(self, fd: int, event: int) -> None:
        """Wait for a poll event on `fd`; raises Cancelled when ordered to end."""
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self.fd, select.POLLIN)
        if any(ready == self.fd for ready, _events in poll.poll()):
            raise Cancelled

    def close(self) -> None:
        """Give the descriptor back; harmless when closed."""
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


class Channel:
    """A byte stream over a descriptor to read, one to write, or one for both. Owns and closes them."""

    def __init__(self, read_fd: int | None, write_fd: int | None, *, two_way: bool, label: str) -> None:
        self.two_way = two_way
        self.label = label
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._canceller = Canceller()
        self._child: subprocess.Popen[bytes] | None = None
        for fd in self._fds():
            os.set_blocking(fd, False)

    def _fds(self) -> set[int]:
        return {fd for fd in (self._read_fd, self._write_fd) if fd is not None}

    def write(self, *buffers: Buffer) -> None:
        """Write all of `buffers`; raises StreamError when the peer is gone."""
        fd = self._write_fd
        if fd is None:
            raise StreamError(f"{self.label} cannot be written to")
        queue = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while queue:
            try:
                done = os.writev(fd, queue[:IOV_MAX])
            except BlockingIOError:
                self._canceller.wait(fd, select.POLLOUT)
                continue
            except OSError as exc:
                raise StreamError(f"{self.label}: the connection was lost while sending: {exc.strerror}") from exc
            while queue and done >= len(queue[0]):
                done -= len(queue.pop(0))
            if done:
                queue[0] = queue[0][done:]

    def read_into(self, view: memoryview) -> None:
        """Fill `view`; raises StreamError when the stream ends first."""
        fd = self._read_fd
        if fd is None:
            raise StreamError(f"{self.label} cannot be read from")
        wanted = len(view)
        while view:
            try:
                count = os.readv(fd, [view])
            except BlockingIOError:
                self._canceller.wait(fd, select.POLLIN)
                continue
            except OSError as exc:
                raise StreamError(f"{self.label}: the connection was lost while receiving: {exc.strerror}") from exc
            if count == 0:
                raise StreamError(f"{self.label}: the stream ends {len(view)} bytes short of the {wanted} expected")
            view = view[count:]

    @property
    def readable(self) -> bool:
        """Whether something has come, or the end has, so that a read would not wait."""
        poll = select.poll()
        if self._read_fd is None:
            return False
        poll.register(self._read_fd, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def file(self) -> int | None:
        """The descriptor to write, or else to read, when it is a regular file, whose pages can be mapped."""
        for fd in (self._write_fd, self._read_fd):
            if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
        return None

    def end_of_writing(self) -> None:
        """Tell a one-way peer that all is written; raises MigrationError when a command that took it failed."""
        self._hang_up_writing()
        if self._child is not None and self._child.wait() != 0:
            raise MigrationError(f"{self.label}: the command ended with status {self._child.returncode}")

    def end_of_answers(self) -> None:
        """Have a command pass on the answers to its end; `close` would end it with the last one in its hands."""
        if self._child is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._hang_up_writing()
                self._child.wait(LAST_WORDS_WITHIN)

    def _hang_up_writing(self) -> None:
        if self._write_fd is not None and self._write_fd != self._read_fd:
            os.close(self._write_fd)
            self._write_fd = None
        elif self._write_fd is not None and stat.S_ISSOCK(os.fstat(self._write_fd).st_mode):
            with socket.socket(fileno=os.dup(self._write_fd)) as peer:
                peer.shutdown(socket.SHUT_WR)

    def cancel(self) -> None:
        """End every wait in this channel, now and later, with Cancelled; any thread."""
        self._canceller.cancel()
        self._end_child()

    def _end_child(self) -> None:
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # `cancel` and `close` may race, and the other has waited for it
                os.killpg(self._child.pid, signal.SIGTERM)

    def close(self) -> None:
        """Close the descriptors; harmless when closed."""
        for fd in self._fds():
            os.close(fd)
        self._read_fd = self._write_fd = None
        self._canceller.close()
        if self._child is not None:
            self._end_child()
            self._child.wait()

    def run_by(self, child: subprocess.Popen[bytes]) -> Channel:
        """Own the command at the other end too."""
        self._child = child
        return self


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed migration URI."""

    scheme: str  # a key of SCHEMES
    text: str  # what follows the colon
    uri: str


def parse_uri(uri: str) -> Address:
    """Split `SCHEME:REST`; an unknown scheme is a MigrationError that lists the known ones."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES or not rest:
        raise MigrationError(f"migration URI {uri!r} is none of {', '.join(f'{known}:…' for known in SCHEMES)}")
    return Address(scheme, rest, uri)


def connect(address: Address, *, return_path: bool = False) -> Channel:
    """Open the sending end; `return_path` says that a command answers on its output."""
    try:
        return SCHEMES[address.scheme].connect(address, return_path)
    except OSError as exc:
        raise MigrationError(f"cannot migrate to {address.uri}: {exc.strerror or exc}") from exc


def listen(address: Address) -> Listener:
    """Open the receiving end."""
    try:
        return SCHEMES[address.scheme].listen(address)
    except OSError as exc:
        raise MigrationError(f"cannot receive at {address.uri}: {exc.strerror or exc}") from exc


class Listener:
    """A place where a source may call; `accept` hands out one channel."""

    def __init__(
        self,
        address: Address,
        server: socket.socket | UnixListener | None,
        channel: Channel | None = None,
    ) -> None:
        self.address = address
        self._opened = server
        self._server = server.socket if isinstance(server, UnixListener) else server
        self._channel = channel
        self._canceller = Canceller()

    @property
    def uri(self) -> str:
        """The URI to give to the source, with the port that was chosen when 0 was asked for."""
        if self._server is None or self.address.scheme != "tcp":
            return self.address.uri
        host, port = self._server.getsockname()[:2]
        return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"

    def accept(self) -> Channel:
        """Wait for the source; raises Cancelled when `close` is called meanwhile."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            return channel
        if self._server is None:
            raise MigrationError(f"{self.address.uri} has been read already")
        self._canceller.wait(self._server.fileno(), select.POLLIN)
        peer, _name = self._server.accept()
        return _socket_channel(peer, self.address.uri)

    def cancel(self) -> None:
        """End the wait in `accept`; any thread."""
        self._canceller.cancel()

    def close(self) -> None:
        """Stop listening and remove a unix socket's name."""
        if self._opened is not None:
            self._opened.close()
            self._opened = self._server = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._canceller.close()


def _socket_channel(peer: socket.socket, label: str) -> Channel:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        peer.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
    if peer.family in (socket.AF_INET, socket.AF_INET6):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_LOST_AFTER_MS)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), TCP_KEEPALIVE, strict=True):
            peer.setsockopt(socket.IPPROTO_TCP, name, value)
    fd = peer.detach()
    return Channel(fd, fd, two_way=True, label=label)


def _tcp_host_port(address: Address) -> tuple[str, int]:
    host, colon, port = address.text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise MigrationError(f"{address.uri} must be tcp:HOST:PORT with a port of 0..65535")
    return host.strip("[]"), int(port)


def _connect_tcp(address: Address, _return_path: bool) -> Channel:
    return _socket_channel(socket.create_connection(_tcp_host_port(address), timeout=10), address.uri)


def _listen_tcp(address: Address) -> Listener:
    host, port = _tcp_host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Listener(address, socket.create_server((host, port), family=family, backlog=1))


def _connect_unix(address: Address, _return_path: bool) -> Channel:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(address.text)
    except OSError:
        peer.close()
        raise
    return _socket_channel(peer, address.uri)


def _listen_unix(address: Address) -> Listener:
    return Listener(address, UnixListener(Path(address.text)))  # for its user alone: whoever may connect becomes the guest


def _command(address: Address, *, stdin: int, stdout: int | None) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C in our terminal is for us.
    return subprocess.Popen(["/bin/sh", "-c", address.text], stdin=stdin, stdout=stdout, start_new_session=True)


def _connect_exec(address: Address, return_path: bool) -> Channel:
    ours, theirs = socket.socketpair()
    with theirs:
        child = _command(address, stdin=theirs.fileno(), stdout=theirs.fileno() if return_path else None)
    fd = ours.detach()
    return Channel(fd, fd, two_way=return_path, label=address.uri).run_by(child)


def _listen_exec(address: Address) -> Listener:
    ours, theirs = socket.socketpair()
    with theirs:
        child = _command(address, stdin=theirs.fileno(), stdout=theirs.fileno())
    fd = ours.detach()
    return Listener(address, None, Channel(fd, fd, two_way=True, label=address.uri).run_by(child))


def _fd_channel(address: Address) -> Channel:
    """Takes the descriptor over: a copy left open here would keep the peer from noticing that this side hung up."""
    if not address.text.isdecimal() or int(address.text) > MAX_FD:
        raise MigrationError(f"{address.uri} must be fd:NUMBER, a descriptor this process was given")
    number = int(address.text)
    mode = os.fstat(number).st_mode
    if not (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        raise MigrationError(f"{address.uri} is no socket, pipe or file; a descriptor serves one migration")
    fd = os.dup(number)
    with Path(os.devnull).open("rb") as null:
        os.dup2(null.fileno(), number)  # not closed: nothing opened later is to come by this number
    return Channel(fd, fd, two_way=stat.S_ISSOCK(mode), label=address.uri)


def _listen_fd(address: Address) -> Listener:
    return Listener(address, None, _fd_channel(address))


def file_and_offset(address: Address) -> tuple[Path, int]:
    """`PATH[,offset=N]`; N in bytes, with an optional suffix KMG."""
    path, comma, option = address.text.partition(",offset=")
    if not comma:
        return Path(path), 0
    digits, factor = (
        (option[:-1], {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[option[-1]]) if option[-1:] in "KMG" else (option, 1)
    )
    if not digits.isdecimal():
        raise MigrationError(
            f"{address.uri}: offset {option!r} must be a number of bytes, with K, M or G behind it if you like"
        )
    return Path(path), int(digits) * factor


def _connect_file(address: Address, _return_path: bool) -> Channel:
    path, offset = file_and_offset(address)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.ftruncate(fd, offset)  # what stands before the offset is someone else's header and stays
    os.lseek(fd, offset, os.SEEK_SET)
    return Channel(None, fd, two_way=False, label=address.uri)


def _listen_file(address: Address) -> Listener:
    path, offset = file_and_offset(address)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(fd).st_size
    if offset > size:
        os.close(fd)
        raise MigrationError(f"{address.uri}: offset {offset} is past the end of the file, which has {size} bytes")
    os.lseek(fd, offset, os.SEEK_SET)
    return Listener(address, None, Channel(fd, None, two_way=False, label=address.uri))


@dataclass(frozen=True, slots=True)
class _Scheme:
    connect: Callable[[Address, bool], Channel]
    listen: Callable[[Address], Listener]


def _connect_fd(address: Address, _return_path: bool) -> Channel:
    return _fd_channel(address)


SCHEMES: dict[str, _Scheme] = {
    "tcp": _Scheme(_connect_tcp, _listen_tcp),
    "unix": _Scheme(_connect_unix, _listen_unix),
    "exec": _Scheme(_connect_exec, _listen_exec),
    "fd": _Scheme(_connect_fd, _listen_fd),
    "file": _Scheme(_connect_file, _listen_file),
}
