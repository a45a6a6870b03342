"""RAM on the wire: 4 MiB frames of page numbers and page data, made and taken apart by numpy alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.errors import StreamError
from migration.protocols import PAGE, DirtyLog, RamBlock
from migration.stream import PAGES_PER_FRAME, Frame, Kind, StreamWriter
from migration.vmstate import Wire

SHORTEST_WAIT = 0.001  # seconds; what is less waits for the next frame
LONGEST_WAIT = 0.1  # seconds until a rate that was changed meanwhile counts


def page_numbers(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """All page numbers in `runs` (shape (n, 2): first page, count), in order."""
    if not len(runs):
        return np.empty(0, np.int64)
    first, count = runs[:, 0], runs[:, 1]
    ends = np.cumsum(count)
    return np.repeat(first - (ends - count), count) + np.arange(ends[-1])


def merge_runs(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of length 1 for every page in either, each page once."""
    # Not np.union1d, whose first call loads numpy.ma: 10 ms, in which the guest would stand still.
    pages = np.sort(np.concatenate((page_numbers(one), page_numbers(other))))
    pages = pages[np.diff(pages, prepend=-1) != 0]
    return np.stack((pages, np.ones_like(pages)), axis=1)


@dataclass(slots=True)
class RamCounters:
    """What went over the wire; `query-migrate` shows these."""

    normal: int = 0  # pages sent with their data
    duplicate: int = 0  # zero pages, sent as numbers

    @property
    def normal_bytes(self) -> int:
        """Page data in bytes."""
        return self.normal * PAGE


class Pacer:
    """Keeps a stream below a rate that may change while it runs."""

    def __init__(
        self, rate: Callable[[], int], sleep: Callable[[float], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        """`rate` in bytes per second, 0 for no limit; `sleep` ends early, by an exception, when the migration is cancelled."""
        self._rate = rate
        self._sleep = sleep
        self._now = now
        self._looked_at = now()
        self._ahead = 0.0  # bytes sent that the rate had not allowed when last looked at

    def sent(self, size: int) -> None:
        """Account for `size` bytes and wait until they are allowed to have been sent."""
        self._ahead += size
        while (wait := self._seconds_ahead()) > SHORTEST_WAIT:
            self._sleep(min(wait, LONGEST_WAIT))

    def _seconds_ahead(self) -> float:
        rate, now = self._rate(), self._now()
        self._ahead = max(0.0, self._ahead - (now - self._looked_at) * rate) if rate else 0.0
        self._looked_at = now
        return self._ahead / rate if rate else 0.0


class RamSender:
    """Sends pages of one block. A page is copied, then looked at, so that a guest that writes meanwhile tears nothing."""

    def __init__(self, block: RamBlock, log: DirtyLog, writer: StreamWriter, counters: RamCounters) -> None:
        self._block = block
        self._log = log
        self._writer = writer
        self._counters = counters
        self._staging = np.empty((PAGES_PER_FRAME, PAGE // 8), np.uint64)
        self._packed = np.empty_like(self._staging)  # kept: memory fresh from the host costs more than the copy into it

    def send(self, runs: NDArray[np.int64], after_frame: Callable[[int], None] = lambda _size: None) -> None:
        """Send the pages in `runs`; `after_frame` hears each frame's size in bytes."""
        numbers = page_numbers(runs)
        for start in range(0, len(numbers), PAGES_PER_FRAME):
            chunk = numbers[start : start + PAGES_PER_FRAME]
            before = self._writer.bytes_written
            self._send_chunk(chunk)
            after_frame(self._writer.bytes_written - before)

    def _send_chunk(self, chunk: NDArray[np.int64]) -> None:
        pages = self._staging[: len(chunk)]
        np.take(self._log.words, chunk, axis=0, out=pages)
        filled = np.bitwise_or.reduce(pages, axis=1) != 0
        data = pages if filled.all() else np.compress(filled, pages, axis=0, out=self._packed[: np.count_nonzero(filled)])
        self._counters.normal += len(data)
        self._counters.duplicate += len(chunk) - len(data)
        fields: dict[str, Wire] = {
            "block": self._block.name,
            "pages": chunk[filled].astype("<u4").tobytes(),
            "zero": chunk[~filled].astype("<u4").tobytes(),
        }
        self._writer.frame(Kind.RAM, fields, data.data.cast("B") if len(data) else memoryview(b""))


def find_block(blocks: Sequence[RamBlock], name: Wire) -> RamBlock:
    """The block called `name`; an unknown one is a StreamError."""
    for block in blocks:
        if block.name == name:
            return block
    raise StreamError(f"RAM block {name!r:.40} is none of this machine's: {', '.join(block.name for block in blocks)}")


class RamReceiver:
    """Puts received pages where they belong, after checking every number against the block."""

    def __init__(self, blocks: Sequence[RamBlock]) -> None:
        """All of `blocks` is zero."""
        self._blocks = blocks
        self._filled = {block.name: np.zeros(len(block.words), np.bool_) for block in blocks}
        self.counters = RamCounters()

    def take(self, frame: Frame) -> None:
        """Apply one RAM frame."""
        fields, data = frame.fields_and_data()
        block = find_block(self._blocks, fields.get("block"))
        pages = _numbers(fields, "pages", block)
        zero = _numbers(fields, "zero", block)
        if len(data) != len(pages) * PAGE:
            raise StreamError(f"RAM frame has {len(data)} bytes of data for {len(pages)} pages")
        filled = self._filled[block.name]
        if len(pages):
            block.words[pages] = np.frombuffer(data, np.uint64).reshape(-1, PAGE // 8)
            filled[pages] = True
        if len(zero):
            stale = zero[filled[zero]]  # a page that is absent stays so, unread
            block.words[stale] = 0
            filled[stale] = False
        self.counters.normal += len(pages)
        self.counters.duplicate += len(zero)


def _numbers(fields: dict[str, Wire], key: str, block: RamBlock) -> NDArray[np.int64]:
    raw = fields.get(key)
    if not isinstance(raw, bytes) or len(raw) % 4 or len(raw) > 4 * PAGES_PER_FRAME:
        raise StreamError(f"RAM frame: {key} must be at most {PAGES_PER_FRAME} page numbers of 4 bytes")
    numbers = np.frombuffer(raw, "<u4").astype(np.int64)
    if len(numbers) and int(numbers.max()) >= len(block.words):
        raise StreamError(f"RAM frame: page {int(numbers.max())} is outside block {block.name!r} of {len(block.words)} pages")
    return numbers
