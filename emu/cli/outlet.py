"""Guest output on its way to the host, never lost while somebody reads, never in the way of the vCPU for long."""

from __future__ import annotations

import os
import threading
import time

LIMIT = 1 << 20  # bytes that wait for a slow reader before the guest is slowed down to its pace
KEPT = 64 << 10  # bytes of the newest output kept for a reader who has yet to come: a boot's worth
STALL = 0.010  # seconds that one write waits for room: bounds the delay of whatever else the vCPU thread is asked to do
BATCH = 0.001  # seconds in which output gathers, so that a UART's single bytes do not become single system calls
CHUNK = 64 << 10  # bytes per write


class Outlet:
    """A buffer with one writer, the vCPU thread, and a thread of its own that writes it to a descriptor.

    Writes to a terminal, a pipe or a file may block for as long as they like: only that thread waits. While the buffer is over
    its limit each `write` waits STALL seconds for room and then goes on. So a guest whose reader has stopped prints a hundred
    times a second at most, its output is kept, and it can still be paused, saved, moved and ended at any moment.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._changed = threading.Condition()
        self._fd: int | None = None
        self._held = False
        self._closed = False
        self._in_flight = False
        self._thread = threading.Thread(target=self._drain, name="output", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take output, on the vCPU thread."""
        with self._changed:
            if not self._pending:
                self._changed.notify_all()
            self._pending += data
            if self._fd is None:
                del self._pending[: max(0, len(self._pending) - KEPT)]
            elif len(self._pending) > LIMIT:
                self._changed.wait(STALL)

    def attach(self, fd: int) -> None:
        """Write to `fd` from now on, first what was kept. The caller closes it, after `detach`."""
        with self._changed:
            self._fd = fd
            self._changed.notify_all()

    def detach(self) -> None:
        """The reader is gone. Returns when its descriptor is not used any more; a socket is to be shut down before."""
        with self._changed:
            self._fd = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._in_flight)

    def hold(self) -> None:
        """Keep output back: somebody else has the terminal."""
        with self._changed:
            self._held = True

    def release(self) -> None:
        """Let it flow again."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def flush(self, timeout: float) -> None:
        """Wait until all is written or nobody reads, `timeout` seconds at most."""
        with self._changed:
            self._changed.wait_for(self._at_rest, timeout)

    def close(self) -> None:
        """End the thread; one that is stuck in a write is left to the end of the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _flows(self) -> bool:
        return bool(self._pending) and self._fd is not None and not self._held

    def _at_rest(self) -> bool:
        return not self._flows() and not self._in_flight

    def _drain(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._flows())
                if self._closed:
                    return
            time.sleep(BATCH)
            with self._changed:
                if not self._flows():
                    continue
                fd, data = self._fd, bytes(self._pending[:CHUNK])
                del self._pending[:CHUNK]
                self._in_flight = True
            written = _write(fd, data)
            with self._changed:
                self._in_flight = False
                self._pending[:0] = data[written or 0 :]
                if written is None and self._fd == fd:
                    self._fd = None  # the reader hung up; another may come
                self._changed.notify_all()


def _write(fd: int | None, data: bytes) -> int | None:
    """Bytes written, None when nobody takes them any more."""
    try:
        return None if fd is None else os.write(fd, data)
    except OSError:
        return None
