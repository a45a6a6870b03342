"""Standard input goes to a unix socket, what comes from there to standard output: the command of an `exec:` migration.

python -m tests.live.relay listen PATH | python -m tests.live.relay connect PATH
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

CHUNK = 1 << 20


def listen(path: Path) -> socket.socket:
    """The one caller; `path` is there only once somebody listens."""
    with socket.socket(socket.AF_UNIX) as server:
        early = path.with_name(f"{path.name}.early")
        server.bind(str(early))
        server.listen(1)
        early.rename(path)
        return server.accept()[0]


def connect(path: Path) -> socket.socket:
    """A call to whoever listens at `path`."""
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    return peer


def pass_on_input(peer: socket.socket) -> None:
    """Until standard input ends."""
    while data := os.read(sys.stdin.fileno(), CHUNK):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    _program, how, place = sys.argv
    with {"listen": listen, "connect": connect}[how](Path(place)) as other:
        sender = threading.Thread(target=pass_on_input, args=(other,))
        sender.start()
        while answer := other.recv(CHUNK):
            sys.stdout.buffer.write(answer)
            sys.stdout.buffer.flush()
        os.close(sys.stdout.fileno())
        sender.join()
