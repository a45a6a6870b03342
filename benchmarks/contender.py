"""What is measured: a machine that runs one Linux guest in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from benchmarks.serial import SerialConsole

UNLIMITED = 1 << 40  # bytes a second; more than any host copies
QEMU_DEFAULT_BANDWIDTH = 128 << 20  # bytes a second: QEMU's max-bandwidth unless a user changes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest as every contender runs it: one vCPU, a serial console, at most one virtio-blk disk (write-back), one share."""

    kernel: Path
    initrd: Path
    arch: str = "riscv64"  # Debian's name; the contender knows its machine and command line for it
    memory_mib: int = 256
    disk: Path | None = None
    disk_format: str = "raw"
    snapshots: bool = False  # savevm shall save the disk too
    share: Path | None = None  # a directory, to be mounted by the tag host0


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """A finished migration as its source tells it; milliseconds and bytes, with query-migrate's meaning."""

    total_ms: int
    downtime_ms: int
    transferred: int


class Contender(Protocol):
    """One guest in one process. `close` ends the process whatever its state and may be called at any time."""

    @property
    def console(self) -> SerialConsole:
        """The guest's console, from `start` on."""

    @property
    def incoming_uri(self) -> str:
        """Where a guest is to be migrated to."""

    @property
    def pid(self) -> int:
        """The process, from `start` on."""

    def start(self, *, incoming: bool = False) -> None:
        """Start the process and its guest; with `incoming`, return once it waits for a guest to be migrated to it."""

    def migrate(self, uri: str, *, bandwidth: int, disk: bool = False) -> Migration:
        """Move the running guest live, with at most `bandwidth` bytes a second, and with what its disk holds if `disk`.

        Return when it is there.
        """

    def savevm(self, tag: str) -> float:
        """Save RAM, devices and disk as the snapshot `tag`; the guest runs on afterwards. Seconds from STOP to RESUME."""

    def loadvm(self, tag: str) -> None:
        """Go back to a snapshot; the guest runs on from there."""

    def close(self) -> None:
        """End the process."""


Maker: TypeAlias = Callable[[Guest, Path], Contender]  # not yet started; with a directory of its own for sockets


@dataclass(frozen=True, slots=True)
class Entrant:
    """A column of the table."""

    name: str
    make: Maker
    snapshot_format: str  # of a disk that savevm saves fastest: qcow2, or raw


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, all its threads together (proc(5), stat's utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
