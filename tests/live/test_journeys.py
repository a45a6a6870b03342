"""Guests that move, are saved and restored, between processes as a user starts them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from benchmarks.serial import SerialConsole
from emu.monitor.client import QmpCallError
from images.journal import read_journal
from migration.protocols import Step
from tests.emu.block.qcow2.tools import CLEAN, check, create, needs_qemu_img, qemu_img
from tests.live.conftest import DISK_SIZE, Start
from tests.live.machines import PROMPT, WAIT, EmuProcess, Teller, wait_for
from tests.live.test_handover import RECORDS, assert_guest_is_whole, start_pair, stop_journal

SEED = int(os.environ.get("EMU_TEST_SEED", "20250101"))


def type_in(console: SerialConsole, line: str, answer: str) -> None:
    console.send_line(line)
    console.expect(answer, WAIT)


def journal_travels(start: Start, disk: Path, folder: Path, *, moves: int) -> None:
    """Move a guest `moves` times while it writes its journal, over unix and tcp in turn, at random moments."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    here = start("m0")
    here.console.expect(PROMPT, WAIT)
    type_in(here.console, "mem fill 9 4", "mem filled")
    acknowledged = 0
    for move, scheme in zip(range(1, moves + 1), cycle(("unix", "tcp"))):
        uri = f"unix:{folder / f'{move}.in'}" if scheme == "unix" else "tcp:127.0.0.1:0"
        there = start(f"m{move}", "--incoming", "defer")
        there.qmp("migrate-incoming", uri=uri)
        if scheme == "tcp":
            (address,) = there.migration["socket-address"]  # type: ignore[misc]  # a list of one
            uri = f"tcp:{address['host']}:{address['port']}"  # type: ignore[index,call-overload]  # a map
        here.console.send_line(f"blk journal {RECORDS}")
        for _ in range(chance.randrange(1, 20)):
            here.console.expect(r"journal \d+\r", WAIT)
        answer = here.migrate(uri)
        assert answer["status"] == "completed", answer
        acknowledged = max(acknowledged, stop_journal(there.console))
        here.close()
        here = there
        report = read_journal(disk)
        assert report.intact
        assert report.records >= acknowledged
        type_in(here.console, f"blk journal 1 {report.records + 1}", "journal done")
    type_in(here.console, "mem check 9 4", "mem ok")
    here.console.send_line("off")
    assert here.wait_exit() == 0


def test_no_record_is_lost_or_doubled_in_ten_moves(start: Start, disk: Path, tmp_path: Path) -> None:
    journal_travels(start, disk, tmp_path, moves=10)


@needs_qemu_img
def test_no_record_is_lost_in_ten_moves_of_a_qcow2_disk_over_its_base(start_without_disk: Start, tmp_path: Path) -> None:
    base = create(tmp_path / "base.qcow2", DISK_SIZE)
    disk = create(tmp_path / "disk.qcow2", DISK_SIZE, "cluster_size=4k", backing=base)
    drive = ("--drive", f"{disk},format=qcow2")
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    here = start_without_disk("m0", *drive)
    here.console.expect(PROMPT, WAIT)
    acknowledged = 0
    for move in range(1, 11):
        here.console.send_line("blk journal 3000")
        here.console.expect(r"journal \d+\r", WAIT)
        there = start_without_disk(f"m{move}", *drive, "--incoming", f"unix:{tmp_path / f'{move}.in'}")
        wait_for((tmp_path / f"{move}.in").exists, "the destination listens")
        for _ in range(chance.randrange(20)):
            here.console.expect(r"journal \d+\r", WAIT)
        answer = here.migrate(f"unix:{tmp_path / f'{move}.in'}")
        assert answer["status"] == "completed", answer
        acknowledged = max(acknowledged, stop_journal(there.console))
        here.close()
        here = there
    here.console.send_line("off")
    assert here.wait_exit() == 0

    assert check(disk) == CLEAN
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, tmp_path / "raw")
    report = read_journal(tmp_path / "raw")
    assert report.intact
    assert report.records >= acknowledged > 0


@needs_qemu_img
def test_a_killed_machine_leaves_its_qcow2_disk_free_of_corruption(start_without_disk: Start, tmp_path: Path) -> None:
    disk = create(tmp_path / "disk.qcow2", DISK_SIZE)
    machine = start_without_disk("machine", "--drive", str(disk))  # its magic tells the format
    machine.console.expect(PROMPT, WAIT)
    machine.console.send_line("blk journal 3000")
    for _ in range(20):
        match = machine.console.expect(r"journal (\d+)\r", WAIT)
    machine.process.kill()
    machine.process.wait()

    assert check(disk).corruptions == 0
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, tmp_path / "raw")
    report = read_journal(tmp_path / "raw")
    assert report.intact
    assert report.records >= int(match[1])


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_no_record_is_lost_or_doubled_in_a_hundred_moves(start: Start, disk: Path, tmp_path: Path) -> None:
    journal_travels(start, disk, tmp_path, moves=100)


def test_a_paused_guest_goes_from_a_to_b_to_c_and_runs_there(start: Start, disk: Path, tmp_path: Path) -> None:
    here = start("a")
    here.console.expect(PROMPT, WAIT)
    type_in(here.console, "mem fill 5 4", "mem filled")
    here.qmp("stop")
    for name in ("b", "c"):
        there = start(name, "--incoming", f"unix:{tmp_path / name}.in")
        wait_for((tmp_path / f"{name}.in").exists, f"{name} listens")
        assert here.migrate(f"unix:{tmp_path / name}.in")["status"] == "completed"
        assert there.status == "paused"
        here = there

    here.qmp("cont")

    type_in(here.console, "mem check 5 4", "mem ok")
    type_in(here.console, "blk journal 3", "journal done 3")
    assert read_journal(disk).records == 3


@pytest.mark.parametrize(
    ("step", "status"),
    [
        (Step.CONNECTED, "setup"),
        (Step.FIRST_ROUND_SENT, "active"),
        (Step.GUEST_HELD, "active"),
        (Step.DISKS_LET_GO, "device"),
        (Step.STATE_SENT, "device"),
        (Step.READY_HEARD, "device"),
    ],
)
def test_cancel_undoes_a_migration(step: Step, status: str, start: Start, disk: Path, tmp_path: Path) -> None:
    teller = Teller(tmp_path / "teller")
    source, destination = start_pair(start, tmp_path, source=(step, f"tell:{teller.path}"))
    source.qmp("migrate", uri=f"unix:{tmp_path / 'far'}")
    assert teller.wait() == step
    assert source.migration["status"] == status

    source.qmp("migrate_cancel")
    teller.go_on()

    assert source.wait_migration()["status"] == "cancelled"
    assert destination.wait_exit() == 1
    assert source.status == "running"
    assert_guest_is_whole(source, disk)


def test_a_guest_can_be_taken_back_if_nobody_wrote_to_its_disk(start: Start, tmp_path: Path) -> None:
    source = start("source")
    source.console.expect(PROMPT, WAIT)
    source.qmp("stop")
    destination = start("destination", "--incoming", f"unix:{tmp_path / 'far'}")
    wait_for((tmp_path / "far").exists, "the destination listens")
    assert source.migrate(f"unix:{tmp_path / 'far'}")["status"] == "completed"
    with pytest.raises(QmpCallError, match=r"disk\.img: is in use by process"):
        source.qmp("cont")

    destination.close()
    source.qmp("cont")

    type_in(source.console, "blk journal 2", "journal done 2")


def test_a_source_never_resumes_on_a_disk_that_the_guest_wrote_to_elsewhere(start: Start, disk: Path, tmp_path: Path) -> None:
    source, destination = start_pair(start, tmp_path)
    assert source.migrate(f"unix:{tmp_path / 'far'}")["status"] == "completed"
    stop_journal(destination.console)
    destination.close()

    with pytest.raises(QmpCallError, match="was written to by another emu since this guest let it go"):
        source.qmp("cont")

    assert source.status == "postmigrate"
    assert read_journal(disk).intact


def test_a_second_machine_on_the_same_disk_is_refused_by_name_and_pid(start: Start, disk: Path) -> None:
    first = start("first")
    first.console.expect(PROMPT, WAIT)

    second = start("second")

    assert second.wait_exit() == 1
    assert f"{disk}: is in use by process {first.process.pid}" in second.errors


def test_a_guest_moves_through_a_file(start: Start, disk: Path, tmp_path: Path) -> None:
    source = start("source")
    source.console.expect(PROMPT, WAIT)
    type_in(source.console, "mem fill 3 4", "mem filled")
    type_in(source.console, "blk journal 4", "journal done 4")
    assert source.migrate(f"file:{tmp_path / 'stream'}")["status"] == "completed"
    source.close()

    destination = start("destination", "--incoming", f"file:{tmp_path / 'stream'}")

    destination.wait_status("running")
    type_in(destination.console, "mem check 3 4", "mem ok")
    type_in(destination.console, "blk journal 1", "journal 5")
    assert read_journal(disk).records == 5


@pytest.fixture
def start_without_disk(tmp_path: Path) -> Iterator[Start]:
    """Starts machines that can be saved, their snapshots in one folder."""
    machines: list[EmuProcess] = []

    def begin(name: str, *options: str) -> EmuProcess:
        store = ("--snapshots", str(tmp_path / "snapshots"))
        machines.append(EmuProcess(tmp_path, name, "riscv64-tiny", "--memory", "16M", *store, *options))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


def test_a_snapshot_goes_on_in_a_new_process(start_without_disk: Start) -> None:
    first = start_without_disk("first")
    first.console.expect(PROMPT, WAIT)
    type_in(first.console, "mem fill 11 4", "mem filled")
    first.console.send_line("tick 100")
    first.console.expect("tick 5\r", WAIT)
    assert first.monitor("savevm one") == ""
    first.close()

    second = start_without_disk("second", "--loadvm", "one")

    second.console.expect("tick 100\r", WAIT)
    type_in(second.console, "mem check 11 4", "mem ok")
    assert "one" in second.monitor("info snapshots")


def test_a_snapshot_brings_its_kernel_with_it(start_without_disk: Start, tmp_path: Path) -> None:
    first = start_without_disk("first")
    first.console.expect(PROMPT, WAIT)
    type_in(first.console, "mem fill 11 4", "mem filled")
    assert first.monitor("savevm one") == ""
    first.close()

    second = start_without_disk("second", "--loadvm", "one", "--kernel", str(tmp_path / "gone"))

    type_in(second.console, "mem check 11 4", "mem ok")


def analyze(snapshot: Path) -> object:
    """What `emu analyze` tells of a snapshot."""
    command = [sys.executable, "-m", "emu.cli.main", "analyze", str(snapshot), "--full"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=WAIT, cwd=Path(__file__).parents[2])
    return json.loads(done.stdout)


def test_saving_again_without_running_gives_the_same_bytes(start_without_disk: Start, tmp_path: Path) -> None:
    first = start_without_disk("first")
    first.console.expect(PROMPT, WAIT)
    type_in(first.console, "mem fill 11 4", "mem filled")
    first.qmp("stop")
    assert first.monitor("savevm one") == ""
    uuid = first.qmp("query-uuid")["UUID"]  # type: ignore[index,call-overload]  # a map with one text
    first.close()

    second = start_without_disk("second", "--loadvm", "one", "--paused", "--uuid", str(uuid))
    assert second.status == "prelaunch"
    assert second.monitor("savevm two") == ""
    second.close()

    one, two = (tmp_path / "snapshots" / f"{tag}.emu" for tag in ("one", "two"))
    assert analyze(one) == analyze(two)  # says which field, before the bytes say that
    same = one.read_bytes() == two.read_bytes()
    assert same


def test_savevm_with_a_writable_raw_drive_is_refused_with_the_way_out(start: Start) -> None:
    machine = start("machine")
    machine.console.expect(PROMPT, WAIT)

    answer = machine.monitor("savevm one")

    assert "Device 'drive0' is writable but does not support snapshots" in answer
    assert "readonly" in answer
    assert machine.status == "running"


def test_another_machine_is_refused_in_one_sentence_and_the_source_runs_on(start: Start, tmp_path: Path) -> None:
    source = start("source")
    source.console.expect(PROMPT, WAIT)
    other = start("other", "--memory", "32M", "--incoming", f"unix:{tmp_path / 'far'}")
    wait_for((tmp_path / "far").exists, "the other listens")

    answer = source.migrate(f"unix:{tmp_path / 'far'}")

    assert "the machines differ in memory" in str(answer["error-desc"])
    assert other.wait_exit() == 1
    assert "the machines differ in memory" in other.errors
    assert source.status == "running"
    type_in(source.console, "blk journal 1", "journal done 1")


def test_a_snapshot_with_a_copy_of_the_disk_brings_both_back(start_without_disk: Start, disk: Path) -> None:
    drive = ("--drive", f"{disk},savevm=copy")
    first = start_without_disk("first", *drive)
    first.console.expect(PROMPT, WAIT)
    type_in(first.console, "blk journal 5", "journal done 5")
    assert first.monitor("savevm one") == ""
    type_in(first.console, "blk journal 7", "journal done 12")
    first.close()
    assert read_journal(disk).records == 12

    second = start_without_disk("second", *drive, "--loadvm", "one")

    type_in(second.console, "blk journal 1", "journal found 5")
    second.console.expect("journal done 6", WAIT)
    report = read_journal(disk)
    assert (report.records, report.intact) == (6, True)
