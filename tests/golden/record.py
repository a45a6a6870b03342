"""Records a golden stream, when tests/live/test_golden.py asks for one:

    python -m tests.golden.record            writes tests/golden/riscv64-tiny-N.stream.gz with the next N
    python -m tests.golden.record --inside   the same as the snapshot `golden` inside its disk, riscv64-tiny-N.qcow2.gz

It holds a guest in the middle of its work: it has used its disk and its entropy source, has a line typed ahead, and was stopped
while it fills memory, after a few pages, for their content is all that makes the file large. Going on, it fills the rest with
what its registers hold, and its own check then sees every word: `mem filled`, `mem ok`.
"""

from __future__ import annotations

import argparse
import gzip
import re
import tempfile
import threading
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from emu.chardev import Chardev
from emu.cli.options import add_arguments, parse_machine
from emu.machine import Machine
from images.apt import LOCAL_SECONDS, run
from migration.protocols import PAGE
from migration.status import Status
from targets import find_target

HERE = Path(__file__).parent
SUFFIX = ".stream.gz"
INSIDE = ".qcow2.gz"
TAG = "golden"
GUEST = "riscv64-tiny"
OPTIONS = ("--memory", "16M", "--append", "golden", "--uuid", "676f6c64-656e-0000-0000-000000000001")
DISK_SIZE = 1 << 20
BEFORE = (b"blk journal 3\n", b"rand\n", b"info\n")
TYPED = b"mem fill 7 1\nmem check 7 1\n"
GOES_ON = (r"mem filled 1048576 seed 7\r", r"mem ok 1048576\r", "tiny> ")  # what the guest prints then
PAGES = range(2, 6)  # filled when it is stopped
WITHIN = 30  # seconds; only a hang takes so long


def golden_streams(guest: str = GUEST, suffix: str = SUFFIX) -> list[Path]:
    """All that were recorded, the oldest first."""
    return sorted(HERE.glob(f"{guest}-*{suffix}"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split(".")[0].rpartition("-")[2])


class Transcript(Chardev):
    """A console that keeps what the guest prints."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._printed = threading.Condition()

    def write(self, data: bytes) -> None:
        """Keep it."""
        with self._printed:
            self.text += data.decode()
            self._printed.notify_all()

    def wait_for_prompts(self, count: int) -> None:
        """Wait until the guest has asked for a command so often."""
        with self._printed:
            if not self._printed.wait_for(lambda: self.text.count("tiny> ") >= count, WITHIN):
                raise SystemExit(f"the guest has printed no more than {self.text!r}")


def filled_pages(machine: Machine, console: Transcript) -> int:
    """How many pages of the memory that `mem fill` fills hold something."""
    found = re.search(r"mem_base=(\w+)", console.text)
    if found is None:
        raise SystemExit(f"the guest does not tell where its free memory is: {console.text!r}")
    (ram,) = machine.board.rams
    first = (int(found[1], 0) - ram.base) // PAGE
    return int((ram.words[first : first + DISK_SIZE // PAGE] != 0).any(axis=1).sum())


def record(folder: Path, *, inside: bool) -> bytes | None:
    """A stream or a disk, or None when the guest was stopped too late, as it mostly is."""
    disk, stream = folder / "disk.img", folder / "stream"
    disk.write_bytes(bytes(DISK_SIZE))
    if inside:
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), str(DISK_SIZE)], LOCAL_SECONDS)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([GUEST, *OPTIONS, "--drive", str(disk)])
    console = Transcript()
    with ExitStack() as keep:
        config = parse_machine(arguments, keep)
        machine = keep.enter_context(closing(Machine(config, find_target(config.target), console)))
        machine.cont()
        for prompts, command in enumerate(BEFORE, 1):
            console.wait_for_prompts(prompts)
            machine.call(partial(console.feed, command))
        console.wait_for_prompts(len(BEFORE) + 1)
        machine.stop()
        machine.call(partial(console.feed, TYPED))
        while not (filled := filled_pages(machine, console)):
            machine.cont()
            machine.stop()
        if filled not in PAGES:
            return None
        if inside:
            machine.savevm(TAG)
            machine.disks.inactivate()
            return disk.read_bytes()
        machine.migrations.migrate(f"file:{stream}")
        machine.migrations.wait_over(WITHIN)
        if machine.migrations.status is not Status.COMPLETED:
            raise SystemExit(f"the guest could not be recorded: {machine.migrations.error}")
    return stream.read_bytes()


def main() -> None:
    """Record until the guest was stopped in time, and store the stream."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.record")
    parser.add_argument("--inside", action="store_true", help="as a snapshot inside a qcow2 disk")
    inside = parser.parse_args().inside
    suffix = INSIDE if inside else SUFFIX
    with tempfile.TemporaryDirectory() as folder:
        while (stream := record(Path(folder), inside=inside)) is None:
            pass
    number = max((_number(path) for path in golden_streams(suffix=suffix)), default=0) + 1
    path = HERE / f"{GUEST}-{number}{suffix}"
    path.write_bytes(gzip.compress(stream, mtime=0))
    print(f"{path.relative_to(Path.cwd())}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
