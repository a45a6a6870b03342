"""How far a migration is, for a person: a bar on a terminal, a line a second elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from migration.vmstate import Wire

PLAIN_INTERVAL = 1.0  # seconds between lines where there is no terminal
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The numbers of one `query-migrate` that people look at, disks and RAM in one. Bytes, bytes per second, milliseconds."""

    status: str
    transferred: int
    remaining: int
    total: int
    rate: float
    dirty_pages_per_second: int
    iteration: int
    total_ms: int
    downtime_ms: int | None

    @classmethod
    def of(cls, query: Mapping[str, Wire]) -> Snapshot:
        """Read an answer to `query-migrate`; what is missing counts as 0."""
        ram = query.get("ram")
        numbers = ram if isinstance(ram, dict) else {}
        disks = query.get("disk")
        parts = (numbers, disks if isinstance(disks, dict) else {})
        transferred, remaining, total = (
            sum(_integer(part.get(key)) for part in parts) for key in ("transferred", "remaining", "total")
        )
        total_ms = _integer(query.get("total-time"))
        # The rate is known after the first round; until then the mean so far stands for it.
        rate = _integer(numbers.get("mbps")) * 1e6 / 8 or transferred * 1e3 / max(total_ms, 1)
        return cls(
            status=str(query.get("status", "none")),
            transferred=transferred,
            remaining=remaining,
            total=total,
            rate=rate,
            dirty_pages_per_second=_integer(numbers.get("dirty-pages-rate")),
            iteration=_integer(numbers.get("dirty-sync-count")),
            total_ms=total_ms,
            downtime_ms=_integer(query["downtime"]) if "downtime" in query else None,
        )

    def line(self) -> str:
        """All of it in one line."""
        text = (
            f"{self.status}: {self.transferred / _MIB:.1f} MiB sent, {self.remaining / _MIB:.1f} of "
            f"{self.total / _MIB:.0f} MiB left, {self.rate / _MIB:.0f} MiB/s, "
            f"round {self.iteration}, {self.dirty_pages_per_second} pages/s dirtied"
        )
        if self.downtime_ms is not None:
            text += f", {self.total_ms} ms, downtime {self.downtime_ms} ms"
        return text


def _integer(value: Wire) -> int:
    return value if isinstance(value, int) else 0


class Progress(Protocol):
    """Something that shows a migration while it is under way."""

    def update(self, query: Mapping[str, Wire]) -> None:
        """Show a new answer to `query-migrate`."""

    def close(self) -> None:
        """The migration is over: show the last one for good."""


class PlainProgress:
    """At most a line a second, and one at the end."""

    def __init__(self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._next = now() + PLAIN_INTERVAL
        self._latest: Snapshot | None = None

    def update(self, query: Mapping[str, Wire]) -> None:
        """Write a line unless the last one is recent."""
        self._latest = Snapshot.of(query)
        if self._now() >= self._next:
            self._next = self._now() + PLAIN_INTERVAL
            self._write(self._latest.line())

    def close(self) -> None:
        """Write the last line, which the interval may have held back."""
        if self._latest is not None:
            self._write(self._latest.line())
            self._latest = None


class BarProgress:
    """A bar of what is on the other side."""

    def __init__(self, stream: TextIO) -> None:
        # Imported here: only a person at a terminal waits for it.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.fields[status]}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(file=stream),
        )
        self._task = self._bar.add_task("", total=1, status="setup", numbers="")
        self._bar.start()

    def update(self, query: Mapping[str, Wire]) -> None:
        """Move the bar."""
        now = Snapshot.of(query)
        done = now.status == "completed"
        numbers = (
            f"{now.transferred / _MIB:.1f} MiB  {now.rate / _MIB:.0f} MiB/s  left {now.remaining / _MIB:.1f} MiB  "
            f"round {now.iteration}  dirty {now.dirty_pages_per_second}/s"
        )
        if now.downtime_ms is not None:
            numbers = f"{now.transferred / _MIB:.1f} MiB in {now.total_ms} ms, downtime {now.downtime_ms} ms"
        self._bar.update(
            self._task,
            total=max(now.total, 1),
            completed=now.total if done else now.total - now.remaining,
            status=now.status,
            numbers=numbers,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


def open_progress(stream: TextIO | None = None) -> Progress:
    """The display that suits `stream`, stderr unless given."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        return BarProgress(stream)
    return PlainProgress(lambda line: print(line, file=stream, flush=True))
