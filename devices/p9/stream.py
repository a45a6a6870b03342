"""9P over a connection: messages one behind the other, each with its size in front, answered in their order."""

from __future__ import annotations

import logging
import socket

from devices.p9 import wire
from devices.p9.server import Server

log = logging.getLogger(__name__)


def serve(connection: socket.socket, server: Server) -> None:
    """Answer one client until it hangs up, or sends what is no message: there is no way to find the next one behind that."""
    buffer, room = memoryview(bytearray(wire.MSIZE_MAX)), memoryview(bytearray(wire.MSIZE_MAX))
    while _fill(connection, buffer[: wire.HEADER.size]):
        size, kind, _tag = wire.HEADER.unpack_from(buffer)
        limit = server.session.msize or wire.MSIZE_MIN
        if not wire.HEADER.size <= size <= limit:
            log.info("9p: a message of %d bytes, must have %d..%d", size, wire.HEADER.size, limit)
            return
        if not _fill(connection, buffer[wire.HEADER.size : size]):
            return
        end = min(size, wire.WRITE_HEADER) if kind == wire.Type.WRITE else size
        reply, filled = server.serve(bytes(buffer[:end]), [buffer[end:size]], [room[: limit - wire.READ_HEADER]])
        connection.sendall(reply)
        connection.sendall(room[:filled])


def _fill(connection: socket.socket, part: memoryview) -> bool:
    """False when the client hangs up first."""
    while part:
        size = connection.recv_into(part)
        if size == 0:
            return False
        part = part[size:]
    return True
