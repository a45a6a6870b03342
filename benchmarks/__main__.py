"""`python -m benchmarks`: emu and QEMU in turn, sample by sample, in one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import emu, qemu
from benchmarks.contender import Entrant
from benchmarks.measure import MEASUREMENTS, REPEATS, measure_all
from benchmarks.table import print_table
from emu.errors import EmuError

ENTRANTS: dict[str, Callable[[], Entrant]] = {
    "emu": lambda: Entrant(f"emu {emu.version()}", emu.Emu, emu.SNAPSHOT_FORMAT),
    "qemu": lambda: Entrant(f"QEMU {qemu.version()}", qemu.Qemu, qemu.SNAPSHOT_FORMAT),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="emu beside QEMU, with Debian's riscv64 kernel.")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="samples of each measurement (default: %(default)s)")
    parser.add_argument("--contender", choices=ENTRANTS, action="append", help="only this one")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="only this measurement")
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats} is less than 1")
    try:
        entrants = [ENTRANTS[name]() for name in arguments.contender or ENTRANTS]
        print_table(measure_all(entrants, arguments.only or list(MEASUREMENTS), arguments.repeats))
    except EmuError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
