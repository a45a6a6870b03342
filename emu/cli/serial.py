"""The host's end of the guest's serial line: standard input and output, a unix socket, a file, or nothing.

    guest -> UART -> SerialLine.write -> Outlet -> descriptor        descriptor -> SerialLine.send -> backlog -> UART -> guest

A back-end gives the line a descriptor to write to, and sends it what it reads. Both directions keep every byte: input that the
guest does not take is not read, output that is not read slows the guest down (outlet.py). Only while nobody has connected to a
socket yet is old output given up for new.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from emu.chardev import Chardev
from emu.cli.options import Endpoint, EndpointKind
from emu.cli.outlet import Outlet
from emu.errors import ConfigError
from emu.unixsocket import UnixListener

T = TypeVar("T")

READ = 4096  # bytes per read; no more fit the backlog of a line
STDIN, STDOUT = 0, 1


class GuestThread(Protocol):
    """What runs a function on the vCPU thread: a machine."""

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` between slices and return its result."""


class SerialLine(Chardev):
    """The line itself. `write` is the vCPU thread's, all else the event loop's."""

    def __init__(self) -> None:
        super().__init__()
        self.outlet = Outlet()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._open = asyncio.Event()
        self._guest: GuestThread | None = None

    def write(self, data: bytes) -> None:
        """Take the guest's output."""
        self.outlet.write(data)

    def room_made(self) -> None:
        """The guest has read: go on sending."""
        self._loop.call_soon_threadsafe(self._room.set)

    def open(self, guest: GuestThread) -> None:
        """Let input in. Before a guest has come in it would be lost: the guest brings its own line's state."""
        self._guest = guest
        self._open.set()

    async def send(self, data: bytes) -> None:
        """Give input to the guest; returns when it has all of it."""
        await self._open.wait()
        while data:
            self._room.clear()
            taken = await asyncio.to_thread(self._feed, data)
            data = data[taken:]
            if data:
                await self._room.wait()

    def _feed(self, data: bytes) -> int:
        return 0 if self._guest is None else self._guest.call(lambda: self.feed(data))


async def read_ready(fd: int) -> bytes:
    """Wait for input on a descriptor that need not be non-blocking, and read what is there; empty at its end."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def note() -> None:
        loop.remove_reader(fd)
        ready.set_result(None)

    with contextlib.suppress(PermissionError):  # epoll takes no regular files, which are always ready
        loop.add_reader(fd, note)
        try:
            await ready
        finally:
            loop.remove_reader(fd)
    try:
        return os.read(fd, READ)
    except OSError:
        return b""  # reset by the peer, or a terminal that hung up


def listen_unix(path: Path, option: str) -> UnixListener:
    """A listener at `path`; ConfigError, naming the option that asks for it, when that cannot be."""
    try:
        return UnixListener(path)
    except OSError as exc:
        raise ConfigError(f"{option} unix:{path}: {exc.strerror or exc}") from exc


class Backend(Protocol):
    """Serves a line until it is cancelled."""

    async def serve(self, line: SerialLine) -> None:
        """Connect the line with the host."""

    def close(self) -> None:
        """Give back what was opened."""


class NoBackend:
    """A line that leads nowhere."""

    async def serve(self, line: SerialLine) -> None:
        """Nothing is sent; the newest output waits for nobody."""

    def close(self) -> None:
        """Nothing was opened."""


class StdioBackend:
    """Standard input and output, byte for byte. The end of the input is not an end of the guest."""

    async def serve(self, line: SerialLine) -> None:
        """Send everything there is on standard input."""
        line.outlet.attach(STDOUT)
        while data := await read_ready(STDIN):
            await line.send(data)

    def close(self) -> None:
        """Both are the process's own."""


class FileBackend:
    """A file that output is added to."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigError(f"--serial file:{path}: {exc.strerror}") from exc
        self._line: SerialLine | None = None

    async def serve(self, line: SerialLine) -> None:
        """Write there."""
        self._line = line
        line.outlet.attach(self._fd)

    def close(self) -> None:
        """Close the file."""
        if self._line is not None:
            self._line.outlet.detach()
        os.close(self._fd)


class UnixBackend:
    """A unix socket where one client after the other gets the line; more wait until the one before has gone."""

    def __init__(self, path: Path) -> None:
        self._listener = listen_unix(path, "--serial")

    async def serve(self, line: SerialLine) -> None:
        """Accept clients for ever."""
        loop = asyncio.get_running_loop()
        while True:
            client, _name = await loop.sock_accept(self._listener.socket)
            client.setblocking(True)  # the outlet's thread waits in its writes
            line.outlet.attach(client.fileno())
            try:
                while data := await read_ready(client.fileno()):
                    await line.send(data)
            finally:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                line.outlet.detach()
                client.close()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


def open_backend(endpoint: Endpoint) -> Backend:
    """The back-end of `--serial`; `stdio` here is the transparent one, without keys of its own."""
    match endpoint.kind:
        case EndpointKind.STDIO:
            return StdioBackend()
        case EndpointKind.UNIX:
            return UnixBackend(endpoint.path)
        case EndpointKind.FILE:
            return FileBackend(endpoint.path)
        case EndpointKind.NONE:
            return NoBackend()
