"""`python -m benchmarks.restore`: from a snapshot to the guest's first instruction, and what an idle guest costs the host.

The snapshot is of a Linux guest with 1 GiB that is busy, so that its first instruction is not one of an idle guest's next timer
tick. Interpreter and imports (the engine's library is loaded with them) are told apart from the rest, which is emu's own work.
Memory and CPU time are those of a second process, whose guest has 256 MiB and nothing to do.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contender import Guest, cpu_seconds
from benchmarks.emu import Emu, arguments
from benchmarks.measure import BOOT_SECONDS, MIB, SETTLE_SECONDS
from emu.errors import EmuError
from images.linux import fetch

REPEATS = 11
RESTORED_MIB = 1024
IDLE_SECONDS = 10.0
CHILD_SECONDS = 60
BUSY = "while :; do :; done &"


@dataclass(frozen=True, slots=True)
class Start:
    """Milliseconds of one restore."""

    interpreter: float
    imports: float
    rest: float


@dataclass(frozen=True, slots=True)
class Idle:
    """What an idle guest costs: MiB of memory, and CPU time per time."""

    guest_ram: float  # touched by the guest
    beside: float  # all else that the process has in memory
    cpu: float


def restore(guest: Guest, folder: Path, repeats: int) -> list[Start]:
    """Save a busy guest, and restore it `repeats` times in new processes."""
    machine = Emu(guest, folder)
    try:
        machine.start()
        machine.console.expect("^BOOT-OK", BOOT_SECONDS)
        machine.console.send_line(BUSY)
        time.sleep(SETTLE_SECONDS)
        machine.savevm("bench")
    finally:
        machine.close()
    modules = folder / "modules"
    _restore_once(guest, folder, modules)  # finds out what is imported, and leaves bytecode and page cache warm
    return [_restore_once(guest, folder, modules) for _ in range(repeats)]


def _restore_once(guest: Guest, folder: Path, modules: Path) -> Start:
    report = folder / "report"
    command = [sys.executable, "-m", "benchmarks.restored", str(report), str(modules)]
    command += ["run", *arguments(guest), "--name", "restored", "--snapshots", str(folder / "snapshots"), "--loadvm", "bench"]
    command += ["--serial", "none", "--monitor", "none"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    began = time.monotonic()
    subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, timeout=CHILD_SECONDS, check=True)
    up, loaded, first = (float(line) for line in report.read_text().split())
    return Start((up - began) * 1e3, (loaded - up) * 1e3, (first - loaded) * 1e3)


def idle(guest: Guest, folder: Path) -> Idle:
    """Boot a guest, leave it alone, and look at its process."""
    machine = Emu(guest, folder)
    try:
        machine.start()
        machine.console.expect("^BOOT-OK", BOOT_SECONDS)
        time.sleep(SETTLE_SECONDS)
        before, began = cpu_seconds(machine.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        cpu = (cpu_seconds(machine.pid) - before) / (time.monotonic() - began)
        mappings = _resident(machine.pid)
        # No other mapping is as large as the guest's RAM and in memory.
        ram = max(resident for size, resident in mappings if size >= guest.memory_mib * MIB)
        return Idle(ram / MIB, (sum(resident for _size, resident in mappings) - ram) / MIB, cpu)
    finally:
        machine.close()


def _resident(pid: int) -> list[tuple[int, int]]:
    """(size, resident) of every mapping, in bytes."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    sizes = re.findall(r"^Size: +(\d+) kB\n(?:.*\n)*?Rss: +(\d+) kB$", text, re.MULTILINE)
    return [(int(size) << 10, int(resident) << 10) for size, resident in sizes]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restore", description="Restore, and an idle guest's cost.")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="restores (default: %(default)s)")
    repeats = parser.parse_args(argv).repeats
    if repeats < 1:
        parser.error(f"--repeats {repeats} is less than 1")
    try:
        image = fetch("riscv64", progress=lambda text: print(text, file=sys.stderr))
        with tempfile.TemporaryDirectory(prefix="emu-bench-") as folder:
            starts = restore(Guest(kernel=image.kernel, initrd=image.initrd, memory_mib=RESTORED_MIB), Path(folder), repeats)
        with tempfile.TemporaryDirectory(prefix="emu-bench-") as folder:
            cost = idle(Guest(kernel=image.kernel, initrd=image.initrd), Path(folder))
    except EmuError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    parts = ("interpreter", "imports", "rest")
    medians = ", ".join(f"{part} {statistics.median(getattr(start, part) for start in starts):.1f} ms" for part in parts)
    print(f"restore of {RESTORED_MIB} MiB to the first instruction, median of {repeats}: {medians}")
    print(f"idle guest: {cost.guest_ram:.0f} MiB of its RAM touched, {cost.beside:.0f} MiB beside it, {cost.cpu:.1%} of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
