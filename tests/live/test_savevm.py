"""Snapshots inside a running guest's qcow2 disk: the moment of the order, in a new process too, and after SIGKILL."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from benchmarks.serial import ConsoleError
from emu.errors import EmuError
from images.journal import JournalReport, read_journal
from tests.emu.block.qcow2.tools import CLEAN, MIB, SEED, check, create, needs_qemu_img, qemu_img
from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for
from tests.live.test_handover import lock_is_free
from tests.live.test_journeys import type_in

pytestmark = needs_qemu_img

Start = Callable[..., EmuProcess]
KILLS = 2
SOAK_KILLS = 200


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return create(tmp_path / "disk.qcow2", 32 * MIB)


@pytest.fixture
def start(tmp_path: Path, disk: Path) -> Iterator[Start]:
    machines: list[EmuProcess] = []

    def begin(name: str, *options: str) -> EmuProcess:
        machines.append(EmuProcess(tmp_path, name, "riscv64-tiny", "--memory", "16M", "--drive", str(disk), *options))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


def journal(disk: Path) -> JournalReport:
    raw = disk.with_suffix(".raw")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, raw)
    return read_journal(raw)


def run_job(machine: EmuProcess, command: str, **arguments: object) -> dict[str, object]:
    """A snapshot job to its end; its last JobInfo."""
    machine.qmp(command, job_id="job", devices=["drive0"], **arguments)  # type: ignore[arg-type]  # as QMP takes them

    def job() -> dict[str, object]:
        return cast("list[dict[str, object]]", machine.qmp("query-jobs"))[0]

    wait_for(lambda: job()["status"] == "concluded", command)
    last = job()
    machine.qmp("job-dismiss", id="job")
    return last


def test_a_snapshot_goes_on_twice_here_and_in_a_new_process(start: Start, disk: Path) -> None:
    first = start("first")
    first.console.expect(PROMPT, WAIT)
    type_in(first.console, "blk journal 5", "journal done 5")
    type_in(first.console, "mem churn 7 600 4", "mem filled")
    assert first.monitor("savevm churning") == ""
    for _ in range(2):
        first.console.send("\x03")
        first.console.expect(f"mem ok {4 * MIB}", WAIT)  # what churn wrote since the last look is what it finds
        type_in(first.console, "blk journal 7", "journal done 12")
        assert first.monitor("loadvm churning") == ""
    first.qmp("quit")
    assert first.wait_exit() == 0
    assert check(disk) == CLEAN
    assert "churning" in qemu_img("snapshot", "-l", disk)
    assert journal(disk).records == 5

    second = start("second", "--loadvm", "churning")

    second.console.send("\x03")
    second.console.expect(f"mem ok {4 * MIB}", WAIT)
    type_in(second.console, "blk journal 1", "journal done 6")


def test_jobs_save_load_and_delete(start: Start, disk: Path) -> None:
    machine = start("machine")
    machine.console.expect(PROMPT, WAIT)
    type_in(machine.console, "mem fill 11 4", "mem filled")

    saved = run_job(machine, "snapshot-save", tag="one", vmstate="drive0")
    (listed,) = cast("list[dict[str, dict[str, dict[str, list[dict[str, object]]]]]]", machine.qmp("query-block"))
    again = run_job(machine, "snapshot-save", tag="one", vmstate="drive0")
    type_in(machine.console, "mem fill 12 4", "mem filled")
    loaded = run_job(machine, "snapshot-load", tag="one", vmstate="drive0")
    type_in(machine.console, "mem check 11 4", "mem ok")
    deleted = run_job(machine, "snapshot-delete", tag="one")
    machine.qmp("quit")
    machine.wait_exit()

    assert [(entry["id"], entry["name"]) for entry in listed["inserted"]["image"]["snapshots"]] == [("1", "one")]
    assert [job.get("error") for job in (saved, loaded, deleted)] == [None] * 3
    assert saved["current-progress"] == saved["total-progress"]
    assert 4 * MIB <= cast(int, saved["total-progress"]) <= 16 * MIB
    assert again["error"] == "Snapshot 'one' already exists in one or more devices"
    assert check(disk) == CLEAN


def kill_while_saving(start: Start, disk: Path, number: int) -> None:
    """SIGKILL while snapshots come and go and the guest writes its journal."""
    seed = SEED + number
    print(f"seed {seed}")
    first = start(f"first{number}")
    first.console.expect(PROMPT, WAIT)
    type_in(first.console, "mem fill 11 4", "mem filled")
    first.console.send_line("blk journal 20000")
    first.console.expect(r"journal \d+\r", WAIT)
    saving = threading.Thread(target=save_and_delete, args=(first,))
    saving.start()
    last = int(first.console.expect(rf"journal (\d*{random.Random(seed).randrange(10, 100)})\r", WAIT)[1])

    first.process.kill()

    with contextlib.suppress(ConsoleError):
        while True:
            last = int(first.console.expect(r"journal (\d+)\r", WAIT)[1])
    saving.join()
    first.process.wait()
    wait_for(lambda: lock_is_free(disk), "the disk is free")  # a copy of RAM that was just being made lives a moment longer
    found = check(disk)
    assert (found.corruptions, found.errors) == (0, 0)
    report = journal(disk)
    assert report.records >= last
    assert report.intact
    tags = [line.split()[1] for line in qemu_img("snapshot", "-l", disk).splitlines()[2:]]
    for tag in tags:
        assert_guest_is_whole(start(f"second{number}{tag}", "--loadvm", tag))
    assert check(disk).corruptions == 0


def save_and_delete(machine: EmuProcess) -> None:
    with contextlib.suppress(EmuError, OSError):
        for number in range(1000):
            machine.monitor(f"savevm s{number}")
            machine.monitor(f"delvm s{number - 1}")
            machine.monitor(f"savevm s{number}")


def assert_guest_is_whole(machine: EmuProcess) -> None:
    """RAM and disk are of one moment: the guest goes on with its journal, which it then finds without a gap."""
    machine.console.expect(r"journal \d+\r", WAIT)
    machine.console.send("\x03")
    done = int(machine.console.expect(r"journal done (\d+)\r", WAIT)[1])
    type_in(machine.console, "mem check 11 4", "mem ok")
    type_in(machine.console, "blk journal 1", f"journal found {done}\r")
    machine.qmp("quit")
    assert machine.wait_exit() == 0


@pytest.mark.parametrize("number", range(KILLS))
def test_a_process_killed_at_savevm_or_delvm_loses_nothing(number: int, start: Start, disk: Path) -> None:
    kill_while_saving(start, disk, number)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_processes_killed_at_savevm_or_delvm_lose_nothing(start: Start, disk: Path) -> None:
    for number in range(SOAK_KILLS):
        disk.unlink()
        create(disk, 32 * MIB)
        kill_while_saving(start, disk, number)
