"""`python -m benchmarks.work`: Debian's kernels at work, emu beside QEMU in turn, one table for each architecture.

Each sample is a fresh process: it boots, then does each part once. A part's cost is the processor time of the process, all its
threads together, which a busy host disturbs least; the wall clock's is shown beside it. Every sample of an architecture has to
print the same answers. QEMU's boot on a PC includes its firmware, both boots on armhf the kernel's own unpacking.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import emu, qemu
from benchmarks.contender import Contender, Guest, Maker, cpu_seconds
from emu.errors import EmuError
from images.linux import fetch

REPEATS = 3
PART_SECONDS = 600  # a busy host; 15 s on an idle one
BOOT = "boot to the shell"

# Title and shell command. A program is run by its path, for busybox's shell would run some of its own within itself.
PARTS: dict[str, str] = {
    "md5sum of 64 MiB": "head -c 67108864 /dev/zero | /bin/md5sum",
    "gzip of 48 MiB": "head -c 50331648 /dev/zero | /bin/gzip | wc -c",
    "shell loop, 30,000 turns": "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo $i",
    "60 forks": "i=0; while [ $i -lt 60 ]; do /bin/true && i=$((i+1)); done; echo $i",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one part, and what it printed."""

    cpu: float
    wall: float
    answer: str


@dataclass(frozen=True, slots=True)
class Row:
    """A part's median seconds, emu's and QEMU's."""

    title: str
    cpu: tuple[float, float]
    wall: tuple[float, float]


def take_sample(make: Maker, guest: Guest) -> dict[str, Cost]:
    """Boot one guest and have it do every part."""
    with tempfile.TemporaryDirectory(prefix="emu-bench-") as directory, closing(make(guest, Path(directory))) as machine:
        began = time.monotonic()
        machine.start()
        machine.console.expect("^BOOT-OK", PART_SECONDS)
        sample = {BOOT: Cost(cpu_seconds(machine.pid), time.monotonic() - began, "")}
        machine.console.run("dmesg -n 1", PART_SECONDS)
        return sample | {title: _cost(machine, command) for title, command in PARTS.items()}


def _cost(machine: Contender, command: str) -> Cost:
    cpu, began = cpu_seconds(machine.pid), time.monotonic()
    answer = machine.console.run(command, PART_SECONDS)
    return Cost(cpu_seconds(machine.pid) - cpu, time.monotonic() - began, answer)


def compare(arch: str, repeats: int, say: Callable[[str], None]) -> list[Row]:
    """Measure one architecture, the two in turn; EmuError when a part's answers differ."""
    image = fetch(arch, progress=say)
    kernel = image.packed if qemu.PROGRAMS[arch].packed else image.kernel
    guest = Guest(kernel=kernel, initrd=image.initrd, arch=arch)
    makers: tuple[Maker, Maker] = emu.Emu, qemu.Qemu
    samples: tuple[list[dict[str, Cost]], list[dict[str, Cost]]] = [], []
    for number in range(repeats):
        for taken, make in zip(samples, makers, strict=True):
            say(f"{arch}: {make.__name__}, {number + 1}/{repeats}")
            taken.append(take_sample(make, guest))
    rows = []
    for title in (BOOT, *PARTS):
        ours, theirs = ([sample[title] for sample in taken] for taken in samples)
        if len(answers := {cost.answer for cost in ours + theirs}) > 1:
            raise EmuError(f"{arch}: {title}: the answers differ: {', '.join(sorted(answers))}")
        cpu = statistics.median(cost.cpu for cost in ours), statistics.median(cost.cpu for cost in theirs)
        wall = statistics.median(cost.wall for cost in ours), statistics.median(cost.wall for cost in theirs)
        rows.append(Row(title, cpu, wall))
    return rows


def geometric_mean(pairs: Sequence[tuple[float, float]]) -> float:
    """Of emu's ratio to QEMU."""
    return statistics.geometric_mean(ours / theirs for ours, theirs in pairs)


def print_table(arch: str, rows: Sequence[Row]) -> None:
    """Print an architecture's rows and the geometric means of their ratios."""
    table = Table(f"{arch}, median seconds")
    for name in ("emu CPU", "QEMU CPU", "ratio", "emu wall", "QEMU wall", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [[f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}"] for ours, theirs in (row.cpu, row.wall)]
        table.add_row(row.title, *cells[0], *cells[1])
    means = [f"{geometric_mean(pairs):.2f}" for pairs in ([row.cpu for row in rows], [row.wall for row in rows])]
    table.add_row("geometric mean", "", "", means[0], "", "", means[1])
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.work", description="Debian at work on emu and on QEMU.")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="samples of each guest (default: %(default)s)")
    parser.add_argument("--arch", choices=qemu.PROGRAMS, action="append", help="only this architecture")
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats} is less than 1")
    try:
        for arch in arguments.arch or qemu.PROGRAMS:
            print(f"emu {emu.version()} beside QEMU {qemu.version(arch)}", file=sys.stderr)
            print_table(arch, compare(arch, arguments.repeats, lambda text: print(text, file=sys.stderr)))
    except EmuError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
