"""`python -m benchmarks.switchover`: what a 10 GiB qcow2 disk adds to a move's downtime, on emu's block layer alone.

Two Images of one file, as the two sides have them. Each round the one that owns it has read in every cluster's place, written
at random and flushed, as a guest's last requests before a move; then it lets the image go, the other takes it and reads. All of
the disk has clusters. The median round is shown, with its processor time, which a busy host disturbs least.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

from emu.block.image import open_image
from images.apt import LOCAL_SECONDS, run

SIZE = 10 << 30
CLUSTER = 64 << 10
REQUEST = 4096
WRITES = 500  # before each round, flushed
ROUNDS = 21


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds."""

    inactivate: float
    activate: float
    first_read: float
    cpu: float


def measure(path: Path, rounds: int) -> list[Round]:
    """Let the image go and take it, to and fro."""
    chance, buffer, taken = random.Random(1), bytearray(REQUEST), []
    here, there = (open_image(str(path), "qcow2", read_only=False, active=active) for active in (True, False))
    with closing(here), closing(there):
        for _ in range(rounds):
            for place in range(0, SIZE, CLUSTER):
                here.readv(place, [buffer])
            for _ in range(WRITES):
                here.writev(chance.randrange(SIZE // REQUEST) * REQUEST, [bytes(REQUEST)])
            here.flush()
            cpu, times = time.process_time(), [time.perf_counter()]
            for step in (here.inactivate, there.activate, partial(there.readv, SIZE // 2, [buffer])):
                step()
                times.append(time.perf_counter())
            cpu = time.process_time() - cpu
            taken.append(Round(times[1] - times[0], times[2] - times[1], times[3] - times[2], cpu))
            here, there = there, here
    return taken


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.switchover", description="Letting a disk go and taking it.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds} is less than 1")
    with tempfile.TemporaryDirectory(prefix="emu-bench-") as directory:
        path = Path(directory, "disk.qcow2")
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"preallocation=metadata,cluster_size={CLUSTER}"]
        run([*create, str(path), str(SIZE)], LOCAL_SECONDS)
        rounds = measure(path, arguments.rounds)
    middle = [statistics.median(column) * 1e3 for column in zip(*map(astuple, rounds), strict=True)]
    both = [(taken.inactivate + taken.activate) * 1e3 for taken in rounds]
    print("inactivate {:.1f} ms, activate {:.1f} ms, first read {:.1f} ms, processor {:.1f} ms".format(*middle))
    print(
        f"inactivate and activate: median {statistics.median(both):.1f} ms, best {min(both):.1f} ms, worst {max(both):.1f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
