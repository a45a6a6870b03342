"""Guest RAM as it was at one moment, while the guest writes on: the kernel's own copy-on-write, by fork.

The child holds all RAM of that moment and does nothing but hand out pages of it. Making it takes the kernel some 50 us for each
MiB that the guest has touched; a page costs memory when the guest first writes to it. Unlike write protection that a handler of
ours would have to lift, it cannot meet the GIL, and holds for the host's own writes into RAM too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence

from emu.errors import EmuError
from emu.ram import PAGE, Ram

_REQUEST = struct.Struct("<QQQ")  # number of the block, first page, pages
SOCKET_BUFFER = 4 << 20  # bytes


class RamCopy:
    """A copy of all of `rams`. One thread at a time."""

    def __init__(self, rams: Sequence[Ram]) -> None:
        """Made at this moment; EmuError when the host has no room for another process."""
        self._numbers = {ram.name: number for number, ram in enumerate(rams)}
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        with theirs, _no_signals():
            try:
                self._child = os.fork()
            except OSError as exc:
                self._socket.close()
                raise EmuError(f"the host has no room for a copy of the guest's RAM: {exc.strerror}") from exc
            if self._child == 0:
                _serve(theirs.fileno(), rams)

    def read(self, name: str, first: int, view: memoryview) -> None:
        """Fill `view`, whole pages, from page `first` of the block `name` on."""
        try:
            self._socket.sendall(_REQUEST.pack(self._numbers[name], first, len(view) // PAGE))
            while view and (count := self._socket.recv_into(view)):
                view = view[count:]
        except OSError as exc:
            raise EmuError(f"the process that holds the copy of the guest's RAM is gone: {exc.strerror}") from exc
        if view:
            raise EmuError("the process that holds the copy of the guest's RAM is gone")

    def close(self) -> None:
        """Give the memory back; harmless when done."""
        if self._child:
            self._socket.close()
            os.waitpid(self._child, 0)
            self._child = 0


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """The child shall neither end by Ctrl-C in our terminal nor handle it as we do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(fd: int, rams: Sequence[Ram]) -> None:
    """The child's life: until the parent hangs up or ends. It holds no file of the parent's, nor a lock on one."""
    try:
        gc.disable()
        os.closerange(0, fd)
        os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
        while len(request := os.read(fd, _REQUEST.size)) == _REQUEST.size:
            number, first, count = _REQUEST.unpack(request)
            view = rams[number].view[first * PAGE : (first + count) * PAGE]
            while view:
                view = view[os.write(fd, view) :]
    finally:
        os._exit(0)
