"""A link between two machines that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class Link:
    """Listens at `near`, passes everything on to `far` (unix sockets) and back, until `cut`."""

    def __init__(self, near: Path, far: Path) -> None:
        self.near = near
        self._far = far
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(near))
        self._server.listen(1)
        self._ends: list[socket.socket] = []
        self._connected = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            caller, _name = self._server.accept()
            callee = socket.socket(socket.AF_UNIX)
            callee.connect(str(self._far))
            self._ends = [caller, callee]
            self._connected.set()
            for source, sink in ((caller, callee), (callee, caller)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Break the link for both, once it is there; nothing that is under way arrives any more."""
        assert self._connected.wait(10)
        self._server.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
