"""Guests that move with disks that are not shared (`migrate -b`, `-i`): each side has image files of its own.

Whatever happens, every record that the guest was told is safe is on the disk of the side where it runs, the source's disk stays
as it was until the guest runs elsewhere, and the images that a failed move leaves behind are good for another.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.monitor.client import QmpCallError
from images.journal import read_journal
from migration.protocols import Step
from tests.emu.block.qcow2.tools import CLEAN, check, create, needs_qemu_img, qemu_img
from tests.live.conftest import DISK_SIZE
from tests.live.machines import PROMPT, WAIT, EmuProcess, Teller, wait_for
from tests.live.proxy import Link
from tests.live.test_handover import (
    AFTER_GO,
    DESTINATION_STEPS,
    MEMORY,
    RECORDS,
    SOURCE_STEPS,
    assert_guest_is_whole,
    lock_is_free,
    stop_journal,
)
from tests.live.test_journeys import SEED, type_in

FILLER = 24 << 20  # offset of what nobody writes to, past the journal
FILLER_SIZE = 6 << 20
GONE = "the guest runs on the other side, on disks of its own"

Begin = Callable[..., EmuProcess]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts machines, each with a disk of its own: begin(name, disk, *options, fault=None)."""
    machines: list[EmuProcess] = []

    def start(name: str, disk: Path, *options: str, **how: object) -> EmuProcess:
        drive = f"{disk},id=disk,format={disk.suffix[1:]}"
        machine = EmuProcess(tmp_path, name, "riscv64-tiny", "--memory", "16M", "--drive", drive, *options, **how)  # type: ignore[arg-type]  # passed on as they are
        machines.append(machine)
        return machine

    yield start
    for machine in machines:
        machine.close()


def raw(path: Path, size: int = DISK_SIZE) -> Path:
    """A raw disk that is empty."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def filled(path: Path) -> Path:
    """A raw disk with something on it that takes a while to copy."""
    with raw(path).open("r+b") as file:
        os.pwrite(file.fileno(), random.Random(1).randbytes(FILLER_SIZE), FILLER)
    return path


def stale(path: Path) -> Path:
    """A raw disk that holds something else."""
    path.write_bytes(b"stale   " * (DISK_SIZE // 8))
    return path


def filler(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return os.pread(file.fileno(), FILLER_SIZE, FILLER)


def waiting(begin: Begin, name: str, disk: Path, folder: Path, **how: object) -> EmuProcess:
    """A machine that waits for a guest at unix:FOLDER/NAME.in."""
    machine = begin(name, disk, "--incoming", f"unix:{folder / name}.in", **how)
    wait_for((folder / f"{name}.in").exists, "the destination listens")
    return machine


def boot(begin: Begin, disk: Path, **how: object) -> EmuProcess:
    """A guest that writes its journal."""
    machine = begin("source", disk, **how)
    machine.console.expect(PROMPT, WAIT)
    type_in(machine.console, f"mem fill 7 {MEMORY}", "mem filled")
    machine.console.send_line(f"blk journal {RECORDS}")
    machine.console.expect(r"journal 3\r", WAIT)
    return machine


def move(source: EmuProcess, uri: str, **how: bool) -> dict[str, object]:
    """`migrate` with blk or inc, to its end."""
    with contextlib.suppress(QmpCallError):  # it may die before it answers
        source.qmp("migrate", uri=uri, **how)
    return {**source.wait_migration()}


# Success


def journal_travels(begin: Begin, folder: Path, disks: tuple[Path, Path], *, moves: int = 3, **how: bool) -> None:
    """A -> B -> A … with `migrate -b` or `-i`, an odd number of times, the guest writing; each process stays a while."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    here, acknowledged = begin("m0", disks[0]), 0
    here.console.expect(PROMPT, WAIT)
    type_in(here.console, f"mem fill 9 {MEMORY}", "mem filled")
    left: EmuProcess | None = None
    for number in range(1, moves + 1):
        there = waiting(begin, f"m{number}", disks[number % 2], folder)
        here.console.send_line(f"blk journal {RECORDS}")
        for _ in range(chance.randrange(1, 20)):
            here.console.expect(r"journal \d+\r", WAIT)
        answer = move(here, f"unix:{folder}/m{number}.in", **how)
        assert answer["status"] == "completed", answer
        assert answer["disk"]["remaining"] == 0  # type: ignore[index]  # a map
        with pytest.raises(QmpCallError, match=GONE):
            here.qmp("cont")
        acknowledged = max(acknowledged, stop_journal(there.console))
        if left is not None:
            left.close()
        left, here = here, there
    type_in(here.console, f"mem check 9 {MEMORY}", "mem ok")
    here.console.send_line("off")
    assert here.wait_exit() == 0

    report = read_journal(as_raw(disks[1], folder))
    assert report.intact, report
    assert report.records >= acknowledged > 0


def as_raw(disk: Path, folder: Path) -> Path:
    """What a disk holds, as a raw image."""
    if disk.suffix == ".raw":
        return disk
    assert check(disk) == CLEAN
    qemu_img("convert", "-O", "raw", disk, folder / "content")
    return folder / "content"


def test_a_raw_disk_moves_along_to_and_fro(begin: Begin, tmp_path: Path) -> None:
    disks = filled(tmp_path / "a.raw"), stale(tmp_path / "b.raw")
    before = filler(disks[0])

    journal_travels(begin, tmp_path, disks, blk=True)

    assert filler(disks[1]) == before
    assert disks[1].stat().st_blocks * 512 < DISK_SIZE * 3 // 4  # what is zero here took no space over there, or gave it back


@needs_qemu_img
def test_an_overlay_moves_along_to_and_fro_over_its_base(begin: Begin, tmp_path: Path) -> None:
    base = filled(tmp_path / "base.raw")
    disks = (
        create(tmp_path / "a.qcow2", DISK_SIZE, backing=base, backing_format="raw"),
        create(tmp_path / "b.qcow2", DISK_SIZE, backing=base, backing_format="raw"),
    )

    journal_travels(begin, tmp_path, disks, inc=True)

    assert filler(tmp_path / "content") == filler(base)
    assert disks[1].stat().st_size < FILLER_SIZE  # the base's content stayed where it was


@needs_qemu_img
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("moves", "one"),
    [
        pytest.param(3, "raw", marks=pytest.mark.every_target),
        pytest.param(3, "qcow2", marks=pytest.mark.every_target),
        pytest.param(51, "raw", marks=pytest.mark.soak),
        pytest.param(51, "qcow2", marks=pytest.mark.soak),
    ],
)
def test_a_disk_moves_along_into_another_kind_of_image(moves: int, one: str, begin: Begin, tmp_path: Path) -> None:
    disk = raw(tmp_path / "a.raw") if one == "raw" else create(tmp_path / "a.qcow2", DISK_SIZE)
    other = create(tmp_path / "b.qcow2", DISK_SIZE, "cluster_size=4k")
    journal_travels(begin, tmp_path, (disk, other), moves=moves, blk=True)


@pytest.mark.every_target
def test_a_paused_guest_goes_through_a_file_with_its_disk(begin: Begin, tmp_path: Path) -> None:
    disk, other = filled(tmp_path / "a.raw"), stale(tmp_path / "b.raw")
    source = boot(begin, disk)
    acknowledged = stop_journal(source.console)
    source.qmp("stop")
    answer = move(source, f"file:{tmp_path / 'stream'}", blk=True)
    assert answer["status"] == "completed", answer

    there = begin("there", other, "--incoming", f"file:{tmp_path / 'stream'}")
    there.wait_status("paused")
    there.qmp("cont")

    there.console.send_line("blk journal 1")
    there.console.expect("journal done", WAIT)
    assert read_journal(other).records >= acknowledged
    assert filler(other) == filler(disk)
    source.qmp("cont")  # it was told nothing of a guest that runs: whoever has the file decides
    assert source.status == "running"


@pytest.mark.every_target
def test_a_disk_is_sent_no_faster_than_max_bandwidth(begin: Begin, tmp_path: Path) -> None:
    source = begin("source", filled(tmp_path / "a.raw"))
    source.console.expect(PROMPT, WAIT)
    waiting(begin, "there", raw(tmp_path / "b.raw"), tmp_path)
    source.qmp("migrate-set-parameters", max_bandwidth=8 << 20)

    answer = move(source, f"unix:{tmp_path}/there.in", blk=True)

    assert answer["status"] == "completed", answer
    assert int(str(answer["total-time"])) >= 1000 * FILLER_SIZE // (8 << 20) * 3 // 4


# Refusals


def assert_refused(source: EmuProcess, there: EmuProcess, uri: str, words: str) -> None:
    """One clear sentence on both sides, and the source runs on."""
    answer = move(source, uri, blk=True)
    assert words in str(answer["error-desc"])
    assert there.wait_exit() == 1
    assert words in there.errors
    assert there.errors.count("error:") == 1
    assert source.status == "running"


def test_a_disk_that_is_full_over_there_leaves_the_guest_running(begin: Begin, tmp_path: Path) -> None:
    disk, other = filled(tmp_path / "a.raw"), raw(tmp_path / "b.raw")
    source = boot(begin, disk)
    there = waiting(begin, "there", other, tmp_path)
    resource.prlimit(there.process.pid, resource.RLIMIT_FSIZE, (FILLER + (1 << 20), FILLER + (1 << 20)))

    assert_refused(source, there, f"unix:{tmp_path}/there.in", "b.raw: writing")

    again = waiting(begin, "again", other, tmp_path)
    assert move(source, f"unix:{tmp_path}/again.in", blk=True)["status"] == "completed"
    assert_guest_is_whole(again, other)
    assert filler(other) == filler(disk)


@pytest.mark.every_target
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("a.raw", "drive 'disk' is the same image here as on the source"),
        ("a.raw,locking=off", "drive 'disk' is the same image here as on the source"),
        ("small.raw", "the machines differ in drives.disk.size"),
        ("b.raw,readonly", "the machines differ in drives.disk.readonly"),
        ("b.raw,id=other", "the machines differ: only this machine has drives.other"),
    ],
)
def test_images_that_do_not_fit_are_refused(options: str, words: str, begin: Begin, tmp_path: Path) -> None:
    raw(tmp_path / "b.raw")
    raw(tmp_path / "small.raw", DISK_SIZE // 2)
    source = boot(begin, raw(tmp_path / "a.raw"))
    drive = f"{tmp_path / options},format=raw" + ("" if "id=" in options else ",id=disk")
    there = EmuProcess(
        tmp_path, "there", "riscv64-tiny", "--memory", "16M", "--drive", drive, "--incoming", f"unix:{tmp_path}/there.in"
    )
    wait_for((tmp_path / "there.in").exists, "the destination listens")
    try:
        assert_refused(source, there, f"unix:{tmp_path}/there.in", words)
    finally:
        there.close()


@pytest.mark.every_target
def test_a_move_that_is_cancelled_in_the_middle_of_a_disk_leaves_it_whole(begin: Begin, tmp_path: Path) -> None:
    disk, other = filled(tmp_path / "a.raw"), stale(tmp_path / "b.raw")
    source = boot(begin, disk)
    there = waiting(begin, "there", other, tmp_path)
    source.qmp("migrate-set-parameters", max_bandwidth=1 << 20)
    source.qmp("migrate", uri=f"unix:{tmp_path}/there.in", blk=True)
    wait_for(lambda: "'transferred': 0" not in str(source.migration.get("disk", "'transferred': 0")), "blocks that are sent")

    source.qmp("migrate_cancel")

    assert source.wait_migration()["status"] == "cancelled"
    assert there.wait_exit() == 1
    assert lock_is_free(other)
    assert_guest_is_whole(source, disk)


# Faults: both sides, every step. In the middle of a disk in every run of the tests, all others in the longer ones.


def cells(steps: list[Step], often: Step) -> list[object]:
    return [pytest.param(step, marks=() if step is often else pytest.mark.every_target) for step in steps]


@pytest.mark.parametrize("step", cells(DESTINATION_STEPS, Step.FIRST_PAGES))
def test_the_destination_is_killed_at(step: Step, begin: Begin, tmp_path: Path) -> None:
    disk, other = filled(tmp_path / "a.raw"), raw(tmp_path / "b.raw")
    source = boot(begin, disk)
    there = waiting(begin, "there", other, tmp_path, fault=(step, "kill"))

    answer = move(source, f"unix:{tmp_path}/there.in", blk=True)

    assert there.wait_exit() == -9
    assert lock_is_free(other)
    if source.status == "postmigrate":  # GO was sent, or under way
        assert step in AFTER_GO | {Step.READY_SENT}
        assert_parked_or_gone(source, answer, disk)
        return
    assert answer["status"] == "failed"
    assert_guest_is_whole(source, disk)
    source.console.send_line(f"blk journal {RECORDS}")
    fresh = waiting(begin, "fresh", other, tmp_path)
    assert move(source, f"unix:{tmp_path}/fresh.in", blk=True)["status"] == "completed"
    assert_guest_is_whole(fresh, other)
    assert filler(other) == filler(disk)


@needs_qemu_img
@pytest.mark.every_target
@pytest.mark.parametrize("step", [Step.FIRST_PAGES, Step.STATE_HEARD, Step.DISKS_TAKEN])
def test_a_killed_destination_leaves_its_qcow2_image_good_for_another_move(step: Step, begin: Begin, tmp_path: Path) -> None:
    disk, other = filled(tmp_path / "a.raw"), create(tmp_path / "b.qcow2", DISK_SIZE, "cluster_size=4k")
    source = boot(begin, disk)
    there = waiting(begin, "there", other, tmp_path, fault=(step, "kill"))
    assert move(source, f"unix:{tmp_path}/there.in", blk=True)["status"] == "failed"
    assert there.wait_exit() == -9
    assert check(other).corruptions == 0

    fresh = waiting(begin, "fresh", other, tmp_path)
    assert move(source, f"unix:{tmp_path}/fresh.in", blk=True)["status"] == "completed"

    acknowledged = stop_journal(fresh.console)
    fresh.close()
    assert check(other).corruptions == 0
    qemu_img("convert", "-O", "raw", other, tmp_path / "content")
    report = read_journal(tmp_path / "content")
    assert report.intact
    assert report.records >= acknowledged > 0
    assert filler(tmp_path / "content") == filler(disk)


def assert_parked_or_gone(source: EmuProcess, answer: dict[str, object], disk: Path) -> None:
    """After GO: the guest runs elsewhere, or nobody said so, and a person may order it to run here."""
    assert lock_is_free(disk)
    assert read_journal(disk).intact
    if answer["status"] == "completed":
        with pytest.raises(QmpCallError, match=GONE):
            source.qmp("cont")
    else:
        assert "the disks here cannot tell" in str(answer["error-desc"])
        source.qmp("cont")
        assert_guest_is_whole(source, disk)


@pytest.mark.parametrize("step", cells(SOURCE_STEPS, Step.DISKS_SENT))
def test_the_source_is_killed_at(step: Step, begin: Begin, tmp_path: Path) -> None:
    disk, other = filled(tmp_path / "a.raw"), stale(tmp_path / "b.raw")
    source = boot(begin, disk, fault=(step, "kill"))
    there = waiting(begin, "there", other, tmp_path)

    with contextlib.suppress(QmpCallError):  # it may die before it answers
        source.qmp("migrate", uri=f"unix:{tmp_path}/there.in", blk=True)

    assert source.wait_exit() == -9
    assert read_journal(disk).intact
    assert lock_is_free(disk)
    if step in AFTER_GO:
        there.wait_status("running")
        assert_guest_is_whole(there, other)
        assert filler(other) == filler(disk)
    else:
        assert there.wait_exit() == 1
        assert "emu: error:" in there.errors
        assert lock_is_free(other)


@pytest.mark.parametrize("step", cells([*SOURCE_STEPS, *DESTINATION_STEPS], Step.READY_SENT))
def test_the_link_is_cut_at(step: Step, begin: Begin, tmp_path: Path) -> None:
    disk, other = filled(tmp_path / "a.raw"), raw(tmp_path / "b.raw")
    teller = Teller(tmp_path / "teller")
    fault = (step, f"tell:{teller.path}")
    source = boot(begin, disk, fault=fault if step in SOURCE_STEPS else None)
    there = waiting(begin, "there", other, tmp_path, fault=fault if step in DESTINATION_STEPS else None)
    link = Link(tmp_path / "near", tmp_path / "there.in")
    source.qmp("migrate", uri=f"unix:{link.near}", blk=True)

    assert teller.wait() == step
    link.cut()
    teller.go_on()

    answer = {**source.wait_migration()}
    if source.status == "postmigrate":
        assert step in AFTER_GO | {Step.READY_SENT, Step.READY_HEARD}
        if there.runs_in_the_end():
            assert_guest_is_whole(there, other)
        else:
            assert_parked_or_gone(source, answer, disk)
    else:
        assert answer["status"] == "failed"
        assert there.wait_exit() == 1
        assert_guest_is_whole(source, disk)
