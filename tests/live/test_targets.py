"""The tiny guest on every target: its shell, its disk, its interrupts; saved, restored and moved while it works."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest

from images import BUNDLED, TINY
from images.journal import read_journal
from tests.live.machines import PROMPT, WAIT, EmuProcess, guests, wait_for
from tests.live.test_handover import RECORDS, stop_journal

SEED = int(os.environ.get("EMU_TEST_SEED", "20260101"))
Begin = Callable[..., EmuProcess]

pytestmark = pytest.mark.parametrize("guest", guests(TINY))


@pytest.fixture
def begin(guest: str, tmp_path: Path, disk: Path) -> Iterator[Begin]:
    """Starts the guest with the disk in `emu run`: begin(name, *options)."""
    machines: list[EmuProcess] = []

    def run(name: str, *options: str) -> EmuProcess:
        machine = EmuProcess(tmp_path, name, guest, "--memory", "16M", "--drive", f"{disk},savevm=copy", *options)
        machines.append(machine)
        return machine

    yield run
    for machine in machines:
        machine.close()


def ask(machine: EmuProcess, line: str, answer: str) -> None:
    machine.console.send_line(line)
    machine.console.expect(answer, WAIT)


def test_its_commands_work(guest: str, begin: Begin, disk: Path) -> None:
    machine = begin("one")
    machine.console.expect(PROMPT, WAIT)
    isa = BUNDLED[guest].target

    ask(machine, "info", rf"isa={isa}\r?\n")
    ask(machine, "tick 20", r"tick 20\r?\n")
    ask(machine, "sleep 30", r"slept ([3-9]\d|\d{3,}) ms")  # a busy host is late
    ask(machine, "mem fill 3 4", "mem filled 4194304 seed 3")
    ask(machine, "mem check 3 4", "mem ok 4194304")
    ask(machine, "blk write 5 77", "blk sector 5")
    ask(machine, "blk journal 20", "journal done 20")
    ask(machine, "rand", r"[0-9a-f]{8}")
    ask(machine, "irq", r"timer=\d+")
    machine.console.send_line("off")

    assert machine.wait_exit() == 0
    assert read_journal(disk).records == 20


def test_a_reset_starts_it_again(begin: Begin) -> None:
    machine = begin("one")
    machine.console.expect(PROMPT, WAIT)

    machine.console.send_line("reboot")

    machine.console.expect(PROMPT, WAIT)
    ask(machine, "info", r"boots=2")


def test_it_goes_on_from_a_snapshot_in_a_new_process(begin: Begin, tmp_path: Path) -> None:
    store = ("--snapshots", str(tmp_path / "snapshots"))
    machine = begin("one", *store)
    machine.console.expect(PROMPT, WAIT)
    ask(machine, "mem fill 11 4", "mem filled")
    ask(machine, "blk journal 5", "journal done 5")
    machine.console.send_line("tick 100000")
    machine.console.expect(r"tick 10\r?\n", WAIT)
    assert machine.monitor("savevm mid") == ""
    machine.close()

    again = begin("two", *store, "--loadvm", "mid")

    again.console.expect(r"tick \d+\r?\n", WAIT)
    again.console.send("\x03")
    again.console.expect(PROMPT, WAIT)
    ask(again, "mem check 11 4", "mem ok")
    ask(again, "blk journal 5", "journal done 10")


def travel(begin: Begin, disk: Path, folder: Path, *, moves: int) -> None:
    """Move the guest again and again, at random moments, in turn while it writes its journal and while it fills memory."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    here = begin("m0")
    here.console.expect(PROMPT, WAIT)
    ask(here, "mem fill 9 2", "mem filled")
    acknowledged = 0
    for move, work in zip(range(1, moves + 1), cycle((f"blk journal {RECORDS}", "mem churn 40 1000 1"))):
        uri = f"unix:{folder / f'{move}.in'}"
        there = begin(f"m{move}", "--incoming", uri)
        wait_for((folder / f"{move}.in").exists, "the destination listens")
        here.console.send_line(work)
        here.console.expect(rf"{work}\r?\n", WAIT)
        if work.startswith("blk"):
            for _ in range(chance.randrange(1, 20)):
                here.console.expect(r"journal \d+\r", WAIT)
        answer = here.migrate(uri)
        assert answer["status"] == "completed", answer
        here.close()
        here = there
        if work.startswith("blk"):
            acknowledged = max(acknowledged, stop_journal(here.console))
            report = read_journal(disk)
            assert report.intact
            assert report.records >= acknowledged
        else:
            here.console.send("\x03")
            here.console.expect("mem ok", WAIT)
            here.console.expect(PROMPT, WAIT)
            ask(here, "mem fill 9 2", "mem filled")
        ask(here, "mem check 9 2", "mem ok")
    here.console.send_line("off")
    assert here.wait_exit() == 0


def test_it_is_moved_while_it_works(begin: Begin, disk: Path, tmp_path: Path) -> None:
    travel(begin, disk, tmp_path, moves=2)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_it_is_moved_twenty_times_while_it_works(begin: Begin, disk: Path, tmp_path: Path) -> None:
    travel(begin, disk, tmp_path, moves=20)
