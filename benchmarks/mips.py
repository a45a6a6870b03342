"""`python -m benchmarks.mips`: millions of guest instructions a second in two loops of the tiny guest, on each target.

`mem fill` computes a random stream and stores it, `mem check` computes it again and compares. How many instructions a loop
has is told by `--icount`, exactly; how long it takes is processor time of the vCPU thread (emu) or of the process (QEMU), which
a busy host disturbs least. The fastest of a few runs counts. QEMU runs the same guest where it has a board that it knows.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from rich.console import Console
from rich.table import Table

from benchmarks.contender import cpu_seconds
from benchmarks.serial import SerialConsole
from emu.chardev import Chardev
from emu.config import MachineConfig
from emu.errors import EmuError
from emu.icount import NS_PER_INSTRUCTION
from emu.machine import Machine
from images import BUNDLED
from targets import TARGETS, find_target

MIB = 1 << 20
MEMORY = 64 * MIB
COUNTED = 4  # MiB that a loop goes through while its instructions are counted
TIMED = 32  # MiB while it is timed
QEMU_TIMES = 8  # a process's time is told in steps of 10 ms
WAIT = 300.0  # seconds
PROMPT = b"tiny> "
LOOPS = ("fill", "check")


@dataclass(frozen=True, slots=True)
class QemuBoard:
    """A board of QEMU's that the tiny guest knows. One without `flat` loads ELF files with the device tree in its register."""

    command: str
    flat: tuple[int, int, int] | None = None  # where a file that is no ELF goes; a branch instruction, and its unit in bytes


VIRTIO = "-display none -monitor none -nodefaults -global virtio-mmio.force-legacy=false -accel tcg,thread=single"
QEMU: dict[str, QemuBoard] = {
    "arm": QemuBoard("qemu-system-arm -machine virt -cpu cortex-a15", (0x4001_0000, 0xEAFF_FFFE, 4)),
    "arm64": QemuBoard("qemu-system-aarch64 -machine virt -cpu cortex-a57", (0x4008_0000, 0x1400_0000, 4)),
    "riscv64": QemuBoard("qemu-system-riscv64 -machine virt"),
}


class Stopwatch(Chardev):
    """A console that reads a clock at the guest's every prompt and at every line it ends."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__()
        self.prompt = threading.Event()
        self._clock = clock
        self._line = b""
        self._newline = self._reply = 0

    def write(self, data: bytes) -> None:
        """Take output, a character or a few at a time."""
        self._line = (self._line + data).rpartition(b"\n")[2]
        if b"\n" in data:
            self._newline = self._clock()
        if self._line == b"m":  # the first letter of the answer
            self.elapsed = self._clock() - self._newline
        if self._line == PROMPT:
            self.prompt.set()


class Bench:
    """A tiny guest in this process."""

    def __init__(self, target: str, *, icount: bool) -> None:
        with BUNDLED[f"{target}-tiny"].kernel() as kernel:
            config = MachineConfig(target=target, memory=MEMORY, kernel=kernel, icount=icount)
            self._watch = Stopwatch(self._instructions if icount else time.thread_time_ns)
            self._machine = Machine(config, find_target(target), self._watch)
        self._machine.cont()
        self._wait()

    def _instructions(self) -> int:
        return self._machine.now() // NS_PER_INSTRUCTION

    def _wait(self) -> None:
        if not self._watch.prompt.wait(WAIT):
            raise EmuError(f"the tiny guest of {self._machine.config.target} gave no prompt within {WAIT} s")
        self._watch.prompt.clear()

    def run(self, loop: str, mib: int) -> int:
        """Instructions of one loop, or the ns of processor time that it took."""
        self._machine.call(lambda: self._watch.feed(f"mem {loop} 1 {mib}\n".encode()))
        self._wait()
        return self._watch.elapsed

    def close(self) -> None:
        """End the machine."""
        self._machine.close()


def count(target: str) -> dict[str, float]:
    """Instructions of each loop for a MiB."""
    with closing(Bench(target, icount=True)) as bench:
        return {loop: bench.run(loop, COUNTED) / COUNTED for loop in LOOPS}


def time_emu(target: str, repeats: int) -> dict[str, float]:
    """Seconds of each loop for a MiB."""
    with closing(Bench(target, icount=False)) as bench:
        times: dict[str, list[int]] = {loop: [] for loop in LOOPS}
        for _ in range(repeats + 1):  # the first translates the code
            for loop in LOOPS:
                times[loop].append(bench.run(loop, TIMED))
    return {loop: min(taken) / 1e9 / TIMED for loop, taken in times.items()}


def flatten(path: Path, base: int, branch: int, unit: int) -> bytes:
    """An ELF file as the memory from `base` on, with a branch to its entry in front."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        loads = [segment for segment in elf.iter_segments("PT_LOAD") if segment["p_filesz"]]
        memory = bytearray(max(segment["p_paddr"] + segment["p_filesz"] for segment in loads) - base)
        for segment in loads:
            at = segment["p_paddr"] - base
            memory[at : at + segment["p_filesz"]] = segment.data()
        if elf["e_entry"] != base:
            memory[:4] = (branch + (elf["e_entry"] - base) // unit).to_bytes(4, "little")
    return bytes(memory)


def time_qemu(target: str, repeats: int) -> dict[str, float]:
    """The same on QEMU."""
    board = QEMU[target]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emu-bench-")))
        kernel = stack.enter_context(BUNDLED[f"{target}-tiny"].kernel())
        if board.flat is not None:
            (folder / "flat").write_bytes(flatten(kernel, *board.flat))
            kernel = folder / "flat"
        ours, theirs = socket.socketpair()
        console = stack.enter_context(closing(SerialConsole(ours)))
        command = [*board.command.split(), *VIRTIO.split(), "-m", f"{MEMORY // MIB}M", "-kernel", str(kernel)]
        command += ["-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console"]
        with theirs:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        stack.callback(process.wait)
        stack.callback(process.kill)
        console.expect("^tiny> ", WAIT)
        times: dict[str, list[float]] = {loop: [] for loop in LOOPS}
        for _ in range(repeats):
            for loop in LOOPS:
                began = cpu_seconds(process.pid)
                for _ in range(QEMU_TIMES):
                    console.send_line(f"mem {loop} 1 {TIMED}")
                    console.expect("^tiny> ", WAIT)
                times[loop].append(cpu_seconds(process.pid) - began)
    return {loop: min(taken) / TIMED / QEMU_TIMES for loop, taken in times.items()}


def measure(target: str, repeats: int) -> list[str]:
    """The cells of a target's row."""
    counts, ours = count(target), time_emu(target, repeats)
    installed = target in QEMU and shutil.which(QEMU[target].command.split()[0])
    theirs = time_qemu(target, repeats) if installed else None
    cells = [target]
    for loop in LOOPS:
        cells.append(f"{counts[loop] / ours[loop] / 1e6:.0f}")
        cells += [f"{counts[loop] / theirs[loop] / 1e6:.0f}", f"{ours[loop] / theirs[loop]:.2f}"] if theirs else ["", ""]
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mips", description="The tiny guest's speed on each target.")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each loop (default: %(default)s)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this target")
    arguments = parser.parse_args(argv)
    table = Table("millions of instructions a second")
    for loop in LOOPS:
        for name in (f"{loop}: emu", "QEMU", "time, emu/QEMU"):
            table.add_column(name, justify="right")
    try:
        for target in arguments.target or TARGETS:
            print(target, file=sys.stderr)
            table.add_row(*measure(target, arguments.repeats))
    except EmuError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
