"""NBD servers to test against: Debian's, and one in this process that can be made to say anything."""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emu.block.nbd import wire
from emu.block.nbd.wire import Chunk, Command, Export, Info, Option, OptionReply
from tests.live.machines import wait_for

needs_qemu_nbd = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd is not installed (Debian: qemu-utils)")
needs_nbdkit = pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed (Debian: nbdkit)")

ALL = Export.HAS_FLAGS | Export.SEND_FLUSH | Export.SEND_TRIM | Export.SEND_WRITE_ZEROES


@contextmanager
def running(command: Sequence[object], listens: Callable[[], bool]) -> Iterator[None]:
    """A server of another program."""
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens() or process.poll() is not None, f"{command[0]} listens")
        assert process.poll() is None, f"{command[0]} ended with status {process.returncode}"
        yield
    finally:
        process.kill()
        process.wait()


def is_listening(path: Path) -> bool:
    """A socket has its name a moment before anybody listens there."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def qemu_nbd(image: Path, at: Path, *options: object, clients: int = 4) -> Iterator[str]:
    """qemu-nbd with a raw image at a unix socket; yields the drive's path."""
    at.unlink(missing_ok=True)
    command = ("qemu-nbd", "-k", at, "-f", "raw", "-e", clients, "-t", "-x", "disk", "--discard=unmap", *options, image)
    with running(command, lambda: is_listening(at)):
        yield f"nbd:unix:{at}:exportname=disk"


@dataclass
class FakeServer:
    """An NBD server in a thread, with its disk in memory; `says` answers a request in its place when it returns bytes."""

    path: Path
    disk: bytearray = field(default_factory=lambda: bytearray(1 << 16))
    flags: Export = ALL
    structured: bool = True
    minimum: int = 1
    payload: int = 1 << 20
    says: Callable[[Command, int, int, int], bytes | None] = lambda *_: None
    greets: Callable[[socket.socket], bool] = lambda _: False
    commands: list[Command] = field(default_factory=list)  # all that came

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._peers: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"

    def hang_up(self) -> None:
        """Drop every client."""
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _name = self._listener.accept()
                self._peers.append(peer)
                with peer, contextlib.suppress(OSError, EOFError):
                    if not self.greets(peer):
                        self._negotiate(peer)
                        self._answer_all(peer)

    def _negotiate(self, peer: socket.socket) -> None:
        peer.sendall(struct.pack(">QQH", wire.GREETING, wire.NEW_STYLE, wire.Handshake.FIXED_NEWSTYLE))
        take(peer, 4)
        while True:
            _magic, option, length = wire.OPTION_HEAD.unpack(take(peer, wire.OPTION_HEAD.size))
            take(peer, length)
            if option == Option.GO:
                peer.sendall(
                    option_reply(option, OptionReply.INFO, struct.pack(">HQH", Info.EXPORT, len(self.disk), self.flags))
                )
                sizes = struct.pack(">HIII", Info.BLOCK_SIZE, self.minimum, 4096, self.payload)
                peer.sendall(option_reply(option, OptionReply.INFO, sizes))
            refused = option == Option.STRUCTURED_REPLY and not self.structured
            peer.sendall(option_reply(option, OptionReply.ERROR + 1 if refused else OptionReply.ACK))
            if option == Option.GO:
                return

    def _answer_all(self, peer: socket.socket) -> None:
        while True:
            _magic, _flags, command, cookie, offset, length = wire.REQUEST_HEAD.unpack(take(peer, wire.REQUEST_HEAD.size))
            data = take(peer, length) if command == Command.WRITE else b""
            self.commands.append(Command(command))
            if command == Command.DISC:
                return
            said = self.says(Command(command), cookie, offset, length)
            peer.sendall(self._answer(command, cookie, offset, length, data) if said is None else said)

    def _answer(self, command: int, cookie: int, offset: int, length: int, data: bytes) -> bytes:
        if offset % self.minimum or length % self.minimum or (data and length > self.payload):
            return simple(cookie, errno.EINVAL)
        if command == Command.READ:
            found = bytes(self.disk[offset : offset + length])
            return chunk(cookie, Chunk.OFFSET_DATA, at(offset) + found) if self.structured else simple(cookie) + found
        if command in (Command.WRITE, Command.WRITE_ZEROES):
            self.disk[offset : offset + length] = data or bytes(length)
        return simple(cookie)


def take(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = peer.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return wire.OPTION_REPLY_HEAD.pack(wire.OPTION_REPLY, option, kind, len(data)) + data


def simple(cookie: int, error: int = 0) -> bytes:
    return wire.SIMPLE_HEAD.pack(wire.SIMPLE_REPLY, error, cookie)


def chunk(cookie: int, kind: int, data: bytes = b"", *, done: bool = True) -> bytes:
    return wire.STRUCTURED_HEAD.pack(wire.STRUCTURED_REPLY, wire.DONE if done else 0, kind, cookie, len(data)) + data


def at(offset: int) -> bytes:
    return struct.pack(">Q", offset)
