"""Which blocks of a disk were changed, while somebody wants to know: whoever copies it while its guest writes.

A change is noted when it is made, before the guest hears of it, and may be noted for nothing (a write that failed). So whoever
takes the notes first and reads the disk afterwards reads what they told of, or finds it noted again.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt


class Changes:
    """The notes of one disk. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._block = 1
        self._flags: npt.NDArray[np.bool_] | None = None

    def start(self, size: int, block: int) -> None:
        """Begin to note changes of a disk of `size` bytes in blocks of `block`."""
        with self._lock:
            self._block, self._flags = block, np.zeros(-(-size // block), np.bool_)

    def note(self, offset: int, length: int) -> None:
        """These bytes of the disk have been changed, or may have been."""
        if self._flags is None:
            return
        with self._lock:
            if self._flags is not None:
                self._flags[offset // self._block : -(-(offset + length) // self._block)] = True

    def take(self) -> npt.NDArray[np.bool_]:
        """A flag for each block that changed since `start` or the last `take`; empty when nothing is noted."""
        with self._lock:
            if self._flags is None:
                return np.zeros(0, np.bool_)
            flags, self._flags = self._flags, np.zeros_like(self._flags)
            return flags

    def stop(self) -> None:
        """Note nothing any more; harmless when not started."""
        with self._lock:
            self._flags = None
