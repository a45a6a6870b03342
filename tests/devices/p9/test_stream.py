"""Messages over a connection: whole ones whatever pieces they come in, and an end where there is none to be found."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.p9 import stream, wire
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from devices.p9.wire import Type
from tests.devices.p9.client import MSIZE, fields

WAIT = 30  # seconds; only a hang takes so long
NO_TAG = 0xFFFF  # for Tversion
VERSION = wire.message(Type.VERSION, NO_TAG, wire.u32(MSIZE) + wire.string(wire.VERSION))
ATTACH = wire.message(Type.ATTACH, 1, fields("II", 0, 0xFFFF_FFFF) + wire.string(b"") * 2 + wire.u32(0))


@pytest.fixture
def peer(share: Path) -> Iterator[socket.socket]:
    """A client's end."""
    ours, theirs = socket.socketpair()
    session = Session(HostFs(share, readonly=False, mapped=False), None)

    def serve() -> None:
        with theirs, contextlib.suppress(OSError):  # as `emu serve-9p` does: the client may be gone before its answer
            stream.serve(theirs, Server(session))

    thread = threading.Thread(target=serve)
    thread.start()
    ours.settimeout(WAIT)
    yield ours
    ours.close()
    thread.join(WAIT)
    assert not thread.is_alive()
    session.close()


def reply(peer: socket.socket) -> tuple[int, bytes]:
    """Type and body of one message."""
    with peer.makefile("rb", buffering=0) as file:
        size, kind, _tag = wire.HEADER.unpack(_exactly(file.read, wire.HEADER.size))
        return kind, _exactly(file.read, size - wire.HEADER.size)


def _exactly(read: object, size: int) -> bytes:
    assert callable(read)
    data = b""
    while len(data) < size:
        part = read(size - len(data))
        assert part, "the server hung up"
        data += part
    return data


def test_messages_may_come_together_and_in_pieces(peer: socket.socket) -> None:
    together = VERSION + ATTACH
    for at in range(0, len(together), 5):
        peer.sendall(together[at : at + 5])
    assert [reply(peer)[0] for _ in range(2)] == [Type.VERSION + 1, Type.ATTACH + 1]


def test_data_is_written_and_read(peer: socket.socket, share: Path) -> None:
    content = bytes(range(256)) * 200
    peer.sendall(VERSION + ATTACH)
    peer.sendall(wire.message(Type.LCREATE, 2, wire.u32(0) + wire.string(b"file") + fields("III", 2, 0o644, 0)))
    peer.sendall(wire.message(Type.WRITE, 3, fields("IQI", 0, 0, len(content)), len(content)) + content)
    peer.sendall(wire.message(Type.READ, 4, fields("IQI", 0, 1, MSIZE)))

    answers = [reply(peer) for _ in range(5)]

    assert (share / "file").read_bytes() == content
    assert answers[-1] == (Type.READ + 1, wire.u32(len(content) - 1) + content[1:])


@pytest.mark.parametrize("size", [0, 6, 4097, 0xFFFF_FFFF])
def test_a_size_that_no_message_has_ends_the_connection(peer: socket.socket, size: int) -> None:
    peer.sendall(wire.HEADER.pack(size, Type.VERSION, 0))
    assert peer.recv(1) == b""


def test_a_client_may_hang_up_in_the_middle(peer: socket.socket) -> None:
    peer.sendall(VERSION[:9])
    peer.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b""
