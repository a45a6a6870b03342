"""`python -m benchmarks.share`: Debian's kernel at work in a directory of the host, emu's share beside QEMU's, in turn.

Each sample is a fresh process, its directory mounted with messages of 512 KiB and Linux's default cache, none; for the last two
parts with cache=loose, which alone makes messages of more than a page. Rates are by the host's clock, console and all; beside
them is the processor time of the process, all its threads together, which a busy host disturbs least.
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
from benchmarks.contender import Guest, Maker, cpu_seconds
from emu.errors import EmuError
from images.linux import fetch

REPEATS = 7
PART_SECONDS = 600  # a busy host
MSIZE = 512 << 10
MIB = 32  # of the large file
LOOSE_MIB = 256
SMALL = 2000
DIRECTORIES, IN_EACH = 50, 100  # of what `find` walks through


@dataclass(frozen=True, slots=True)
class Part:
    """A shell command, and how much of what it does: more per second is better."""

    title: str
    command: str
    amount: int
    unit: str
    cache: str = "none"


def sequential(mib: int, cache: str) -> tuple[Part, Part]:
    """A large file, written and read."""
    return (
        Part(f"sequential write, {cache}", f"dd if=/dev/zero of=big bs=1M count={mib} conv=fsync 2>&1", mib, "MiB/s", cache),
        Part(f"sequential read, {cache}", "dd if=big of=/dev/null bs=1M 2>&1", mib, "MiB/s", cache),
    )


CREATE = f"mkdir small; i=0; while [ $i -lt {SMALL} ]; do echo content >small/$i; i=$((i+1)); done"
PARTS = (
    *sequential(MIB, "none"),
    Part(f"create {SMALL} files", CREATE, SMALL, "/s"),
    Part(f"delete {SMALL} files", "rm -r small", SMALL, "/s"),
    Part(f"find, {DIRECTORIES * IN_EACH} files", "find tree | wc -l", DIRECTORIES * IN_EACH, "/s"),
    *sequential(LOOSE_MIB, "loose"),
)
MOUNT = f"cd /; umount /mnt 2>/dev/null; mount -t 9p -o trans=virtio,version=9p2000.L,msize={MSIZE}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a part takes: amounts per second, and seconds of processor time."""

    rate: float
    cpu: float


Sample = dict[str, Cost]  # by title


def fill(share: Path) -> None:
    """What `find` walks through."""
    for directory in range(DIRECTORIES):
        folder = share / "tree" / str(directory)
        folder.mkdir(parents=True)
        for file in range(IN_EACH):
            (folder / f"file {file}").touch()


def take_sample(make: Maker, guest: Guest, share: Path) -> Sample:
    """Boot a guest, mount the directory and do every part."""
    with tempfile.TemporaryDirectory(prefix="emu-bench-") as directory, closing(make(guest, Path(directory))) as machine:
        machine.start()
        machine.console.expect("^BOOT-OK", PART_SECONDS)
        machine.console.run("dmesg -n 1", PART_SECONDS)
        sample = {}
        for part in PARTS:
            # Anew for each part: what the part before has left in the guest's caches is no part of it.
            machine.console.run(f"{MOUNT},cache={part.cache} host0 /mnt && cd /mnt", PART_SECONDS)
            cpu, began = cpu_seconds(machine.pid), time.monotonic()
            machine.console.run(part.command, PART_SECONDS)
            rate = part.amount / (time.monotonic() - began)
            sample[part.title] = Cost(rate, cpu_seconds(machine.pid) - cpu)
    (share / "big").unlink()
    return sample


def measure(arch: str, makers: Sequence[Maker], repeats: int, say: Callable[[str], None]) -> list[list[Sample]]:
    """The samples of each maker, taken in turn."""
    image = fetch(arch, progress=say)
    kernel = image.packed if qemu.PROGRAMS[arch].packed else image.kernel
    samples: list[list[Sample]] = [[] for _ in makers]
    with tempfile.TemporaryDirectory(prefix="emu-share-") as directory:
        share = Path(directory)
        fill(share)
        guest = Guest(kernel=kernel, initrd=image.initrd, arch=arch, share=share)
        for number in range(repeats):
            for taken, make in zip(samples, makers, strict=True):
                say(f"{arch}: {make.__name__}, {number + 1}/{repeats}")
                taken.append(take_sample(make, guest, share))
    return samples


def print_table(arch: str, samples: Sequence[Sequence[Sample]]) -> None:
    """Medians; with QEMU the ratios of the rates, and of the processor times turned over: above 1 emu is the faster."""
    table = Table(f"{arch}, medians")
    names = ("emu", "QEMU", "ratio", "emu CPU", "QEMU CPU", "ratio") if len(samples) == 2 else ("emu", "emu CPU")
    for name in names:
        table.add_column(name, justify="right")
    for part in PARTS:
        rates = [statistics.median(sample[part.title].rate for sample in taken) for taken in samples]
        times = [statistics.median(sample[part.title].cpu for sample in taken) for taken in samples]
        cells = [f"{rate:.0f} {part.unit}" for rate in rates], [f"{seconds:.2f} s" for seconds in times]
        if len(samples) == 2:
            cells[0].append(f"{rates[0] / rates[1]:.2f}")
            cells[1].append(f"{times[1] / times[0]:.2f}")
        table.add_row(part.title, *cells[0], *cells[1])
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.share", description="A shared directory, emu's and QEMU's.")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="samples of each (default: %(default)s)")
    parser.add_argument("--arch", choices=qemu.PROGRAMS, default="riscv64", help="default: %(default)s")
    parser.add_argument("--emu-only", action="store_true", help="leave QEMU out, to look at emu with a profiler")
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats} is less than 1")
    makers: list[Maker] = [emu.Emu] if arguments.emu_only else [emu.Emu, qemu.Qemu]
    try:
        samples = measure(arguments.arch, makers, arguments.repeats, lambda text: print(text, file=sys.stderr))
    except EmuError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print_table(arguments.arch, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
