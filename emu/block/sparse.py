"""Where a file has data: what nobody ever wrote needs neither be read nor copied."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def data_runs(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the parts of a file between two offsets that may hold something; all else reads as zero.

    A file that cannot tell, such as a block device, is one part. Moves the descriptor's position.
    """
    while start < end:
        try:
            first = os.lseek(fd, start, os.SEEK_DATA)
            hole = os.lseek(fd, first, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # no data up to the end of the file
                return
            if exc.errno != errno.EINVAL:
                raise
            first = hole = start
        if not start <= first < hole:  # some devices take the seek and mean nothing by it
            first, hole = start, end
        if first < end:
            yield first, min(hole, end) - first
        start = hole
