"""Either side dies, or the link is cut, at every named step: who runs, who owns the disk, and what is in the journal.

Whatever happens, every record that the guest was told is safe is on the disk once, one process at most holds the disk, and the
guest runs on one side at most. Before GO it runs on where it was; after GO without an answer it is paused and says what to do.
This is the length of it, on a raw disk; test_handover_matrix.py is the breadth, of disks and of faults.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.serial import SerialConsole
from emu.block.lock import try_lock
from emu.monitor.client import QmpCallError
from images.journal import read_journal
from migration.protocols import Step
from tests.live.conftest import Start
from tests.live.machines import PROMPT, WAIT, EmuProcess, Teller, wait_for
from tests.live.proxy import Link

SOURCE_STEPS = [step for step in Step if step.startswith("source:")]
DESTINATION_STEPS = [step for step in Step if step.startswith("destination:")]
AFTER_GO = {Step.GO_SENT, Step.RUNNING_HEARD, Step.GO_HEARD, Step.RUNNING, Step.RUNNING_SENT}
SWITCHOVER = {Step.DISKS_LET_GO, Step.GO_SENT, Step.DISKS_TAKEN, Step.READY_SENT, Step.GO_HEARD}  # struck at in every test run
RECORDS = 20000  # more than any of these tests waits for
MEMORY = 4  # MiB filled before, checked after


def params(steps: Iterable[Step]) -> list[object]:
    """Steps to parametrize a test with."""
    return [pytest.param(step, marks=() if step in SWITCHOVER else pytest.mark.every_target) for step in steps]


def start_pair(start: Start, folder: Path, **faults: tuple[Step, str] | None) -> tuple[EmuProcess, EmuProcess]:
    """A guest that writes its journal, and a machine that waits for it at unix:folder/far."""
    source = start("source", fault=faults.get("source"))
    destination = start("destination", "--incoming", f"unix:{folder / 'far'}", fault=faults.get("destination"))
    source.console.expect(PROMPT, WAIT)
    source.console.send_line(f"mem fill 7 {MEMORY}")
    source.console.expect("mem filled", WAIT)
    source.console.send_line(f"blk journal {RECORDS}")
    source.console.expect(r"journal 3\r", WAIT)
    wait_for((folder / "far").exists, "the destination listens")
    return source, destination


def stop_journal(console: SerialConsole) -> int:
    """Interrupt the journal; returns the last record the guest said is safe."""
    console.expect(r"journal \d+\r", WAIT)
    console.send("\x03")
    said = console.expect(rf"(?s)(.*){PROMPT}", WAIT).group(1)
    return max((int(number) for number in re.findall(r"journal (\d+)\r", said)), default=0)


def assert_guest_is_whole(machine: EmuProcess, disk: Path) -> None:
    """The guest runs here, with its RAM and its journal as they should be, and can write on."""
    acknowledged = stop_journal(machine.console)
    report = read_journal(disk)
    assert report.intact, report
    assert report.records >= acknowledged
    machine.console.send_line(f"mem check 7 {MEMORY}")
    machine.console.expect("mem ok", WAIT)
    machine.console.send_line("blk journal 2")
    machine.console.expect("journal done", WAIT)
    assert read_journal(disk).records == report.records + 2


def lock_is_free(disk: Path) -> bool:
    with disk.open("r+b") as file:
        return try_lock(file.fileno(), exclusive=True)


def assert_a_fresh_migration_works(source: EmuProcess, start: Start, disk: Path, folder: Path) -> None:
    source.console.send_line(f"blk journal {RECORDS}")
    fresh = start("fresh", "--incoming", f"unix:{folder / 'again'}")
    wait_for((folder / "again").exists, "the fresh destination listens")
    answer = source.migrate(f"unix:{folder / 'again'}")
    assert answer["status"] == "completed", answer
    assert_guest_is_whole(fresh, disk)


@pytest.mark.parametrize("step", params(DESTINATION_STEPS))
def test_the_destination_is_killed_at(step: Step, start: Start, disk: Path, tmp_path: Path) -> None:
    source, destination = start_pair(start, tmp_path, destination=(step, "kill"))

    answer = source.migrate(f"unix:{tmp_path / 'far'}")

    assert destination.wait_exit() == -9
    if step in AFTER_GO:  # the answer may have been sent, heard, or neither
        assert_parked_or_gone(source, answer, disk)
    elif answer["status"] == "failed" and source.status == "postmigrate":  # GO was under way when the destination died
        assert step is Step.READY_SENT
        assert_parked_or_gone(source, answer, disk)
    else:
        assert answer["status"] == "failed"
        assert source.status == "running"
        assert_guest_is_whole(source, disk)
        assert_a_fresh_migration_works(source, start, disk, tmp_path)


def assert_parked_or_gone(source: EmuProcess, answer: dict[str, object], disk: Path) -> None:
    """After GO: paused here, with the disk free, intact, and a reason that says what to do if nobody answered."""
    assert source.status == "postmigrate"
    assert answer["status"] == "completed" or "'cont' resumes it" in str(answer["error-desc"])
    assert lock_is_free(disk)
    assert read_journal(disk).intact


@pytest.mark.parametrize("step", params(SOURCE_STEPS))
def test_the_source_is_killed_at(step: Step, start: Start, disk: Path, tmp_path: Path) -> None:
    source, destination = start_pair(start, tmp_path, source=(step, "kill"))
    with contextlib.suppress(QmpCallError):  # it may die before it answers
        source.qmp("migrate", uri=f"unix:{tmp_path / 'far'}")

    assert source.wait_exit() == -9
    if step in AFTER_GO:
        destination.wait_status("running")
        assert_guest_is_whole(destination, disk)
    else:
        assert destination.wait_exit() == 1
        assert "emu: error:" in destination.errors
        assert lock_is_free(disk)
        assert read_journal(disk).intact


@pytest.mark.parametrize("step", params([*SOURCE_STEPS, *DESTINATION_STEPS]))
def test_the_link_is_cut_at(step: Step, start: Start, disk: Path, tmp_path: Path) -> None:
    teller = Teller(tmp_path / "teller")
    side = step.split(":")[0]
    source, destination = start_pair(start, tmp_path, **{side: (step, f"tell:{teller.path}")})
    link = Link(tmp_path / "near", tmp_path / "far")
    source.qmp("migrate", uri=f"unix:{link.near}")

    assert teller.wait() == step
    link.cut()
    teller.go_on()

    answer = source.wait_migration()
    if source.status == "postmigrate":
        assert step in AFTER_GO | {Step.READY_SENT, Step.READY_HEARD}
        assert_one_side_at_most(source, destination, answer, disk)
    else:
        assert answer["status"] == "failed"
        assert destination.wait_exit() == 1
        assert_guest_is_whole(source, disk)


def assert_one_side_at_most(source: EmuProcess, destination: EmuProcess, answer: dict[str, object], disk: Path) -> None:
    if destination.runs_in_the_end():
        assert_guest_is_whole(destination, disk)
        with pytest.raises(QmpCallError, match=r"is in use by process|was written to by another emu"):
            source.qmp("cont")
    else:
        assert_parked_or_gone(source, answer, disk)
        source.qmp("cont")
        assert_guest_is_whole(source, disk)
