"""Guest RAM as it was at one moment, while the guest writes on: the kernel's own copy-on-write, by fork.

The child holds all RAM of that moment and does nothing but put pages of it into a window of memory that both see. Making it
takes the kernel some 50 us for each MiB that the guest has touched; a page costs memory when the guest first writes to it.
Unlike write protection that a handler of ours would have to lift, it cannot meet the GIL, and holds for the host's own writes
into RAM too.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence

from emu.errors import EmuError
from emu.ram import PAGE, Ram

WINDOW = 4 << 20  # bytes
_REQUEST = struct.Struct("<QQQ")  # number of the block, first page, pages
_DONE = b"."


class RamCopy:
    """A copy of all of `rams`. One thread at a time."""

    def __init__(self, rams: Sequence[Ram]) -> None:
        """Made at this moment; EmuError when the host has no room for another process."""
        self._numbers = {ram.name: number for number, ram in enumerate(rams)}
        self._window = memoryview(mmap.mmap(-1, WINDOW))
        self._socket, theirs = socket.socketpair()
        with theirs, _no_signals():
            try:
                self._child = os.fork()
            except OSError as exc:
                self._socket.close()
                raise EmuError(f"the host has no room for a copy of the guest's RAM: {exc.strerror}") from exc
            if self._child == 0:
                _serve(theirs.fileno(), rams, self._window)

    def read(self, name: str, first: int, size: int) -> memoryview:
        """`size` bytes, whole pages and WINDOW at most, from page `first` of the block `name` on; valid until the next read."""
        try:
            self._socket.sendall(_REQUEST.pack(self._numbers[name], first, size // PAGE))
            answer = self._socket.recv(len(_DONE))
        except OSError as exc:
            raise EmuError(f"the process that holds the copy of the guest's RAM is gone: {exc.strerror}") from exc
        if not answer:
            raise EmuError("the process that holds the copy of the guest's RAM is gone")
        return self._window[:size]

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


def _serve(fd: int, rams: Sequence[Ram], window: memoryview) -> None:
    """The child's life: until the parent hangs up or ends. It holds no file of the parent's, nor a lock on one."""
    try:
        gc.disable()
        os.closerange(0, fd)
        os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
        while len(request := os.read(fd, _REQUEST.size)) == _REQUEST.size:
            number, first, count = _REQUEST.unpack(request)
            window[: count * PAGE] = rams[number].view[first * PAGE : (first + count) * PAGE]
            os.write(fd, _DONE)
    finally:
        os._exit(0)
