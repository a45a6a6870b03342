"""`emu ls`: the guests that run on this host."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from emu.cli.registry import RunningGuest, open_registry
from emu.errors import EmuError
from emu.monitor.client import qmp_call

if TYPE_CHECKING:
    from migration.protocols import StepHook

ANSWER_WITHIN = 1.0  # seconds; a guest that takes longer is listed all the same
NO_ANSWER = "no answer"
HEADINGS = ("NAME", "TARGET", "STATUS", "MEMORY", "PID", "UPTIME")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="a JSON array with everything known")


def execute(arguments: argparse.Namespace, _hook: StepHook | None) -> int:
    """Print the table."""
    guests = [(guest, status_of(guest)) for guest in open_registry().running()]
    if arguments.json:
        print(json.dumps([asdict(guest.description) | {"status": status} for guest, status in guests], indent=2))
    else:
        now = time.time()
        print_table([HEADINGS, *(_row(guest, status, now) for guest, status in guests)])
    return 0


def status_of(guest: RunningGuest) -> str:
    """The run state, or that the process does not answer."""
    try:
        match qmp_call(guest.socket, "query-status", timeout=ANSWER_WITHIN):
            case {"status": str(status)}:
                return status
    except EmuError:
        pass
    return NO_ANSWER


def _row(guest: RunningGuest, status: str, now: float) -> tuple[str, ...]:
    known = guest.description
    return known.name, known.target, status, f"{known.memory >> 20} MiB", str(known.pid), uptime(now - known.started)


def uptime(seconds: float) -> str:
    """`1d 02:03:04`, without the days when there are none."""
    days, rest = divmod(max(0, int(seconds)), 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
