"""Disks that move with their guest: equal in the end whatever is written meanwhile, and still whole when it goes wrong."""

from __future__ import annotations

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.errors import MigrationError
from migration.manager import Migrations
from migration.protocols import BLOCK, Step
from migration.settings import DiskMode
from migration.status import Status
from tests.migration.fakes import DISK_SIZE, FakeGuest, FakeMovedDisk, pair_with_disks
from tests.migration.hooks import BEFORE_RUNNING, WAIT, Gate, Strike, cancel_at, move, uri_of

MODES = [DiskMode.FULL, DiskMode.INCREMENTAL]
BASE = bytes(range(256)) * (DISK_SIZE // 256 + 1)


def disks(mode: DiskMode) -> tuple[FakeMovedDisk, FakeMovedDisk]:
    """The source's, with something on it, and the destination's, with something else."""
    backing = BASE[:DISK_SIZE] if mode is DiskMode.INCREMENTAL else None
    here, there = FakeMovedDisk(backing=backing), FakeMovedDisk(backing=backing)
    here.change(3 * BLOCK + 7, b"here" * 50_000)
    here.change(DISK_SIZE - 5, b"ends!")
    there.change(9 * BLOCK, b"there" * 50_000)
    return here, there


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_moves_with_its_guest(mode: DiskMode, tmp_path: Path) -> None:
    here, there = disks(mode)
    guest, coming = pair_with_disks(here, there)
    source, destination = Migrations(guest), Migrations(coming)

    move(source, destination, uri_of("unix", tmp_path), mode)

    assert (source.error, destination.error) == ("", "")
    assert there.data == here.data
    assert there.flushed
    assert coming.disks.active
    assert not guest.disks.active
    assert here.changes is None
    with pytest.raises(MigrationError, match="it would be there twice"):
        source.migrate(f"file:{tmp_path / 'another'}")


Write = tuple[int, int, bytes]  # at which look at the disk, where, what
writes = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, DISK_SIZE - 1), st.sampled_from([b"a" * 700, bytes(70_000), b"z" * 200_000])),
    max_size=12,
)


@given(plan=writes, mode=st.sampled_from(MODES))
@settings(max_examples=40)
def test_what_is_written_while_a_disk_is_copied_arrives(plan: list[Write], mode: DiskMode) -> None:
    here, there = disks(mode)
    guest, coming = pair_with_disks(here, there)
    looks = iter(range(1_000_000))

    def write_some(_first: int) -> None:
        look = next(looks)
        for when, offset, data in plan:
            if when == look:
                here.change(offset, data[: DISK_SIZE - offset])

    here.on_read = write_some

    def at_step(step: Step) -> None:
        if step in (Step.DISKS_SENT, Step.FIRST_ROUND_SENT, Step.GUEST_HELD):
            write_some(0)
        if step is Step.GUEST_HELD:
            here.on_read = lambda _first: None

    with TemporaryDirectory() as folder:
        source, destination = Migrations(guest, hook=at_step), Migrations(coming)
        move(source, destination, uri_of("unix", Path(folder)), mode)

    assert (source.error, destination.error) == ("", "")
    assert there.data == here.data


@pytest.mark.parametrize("step", BEFORE_RUNNING)
def test_a_failure_leaves_the_source_its_disk_and_the_images_good_for_another_try(step: Step, tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    before = bytes(here.data)
    guest, coming = pair_with_disks(here, there)
    strike = Strike(step)
    source, destination = Migrations(guest, hook=strike), Migrations(coming, hook=strike)

    move(source, destination, uri_of("unix", tmp_path), DiskMode.FULL)

    assert source.status is Status.FAILED
    assert guest.running
    assert guest.disks.active
    assert here.data == before
    assert here.changes is None
    assert not coming.disks.active
    source.refuse_if_twice()
    fresh = FakeGuest(coming.disks, running=False, state="inmigrate", moved=[there])
    move(Migrations(guest), Migrations(fresh), uri_of("unix", tmp_path), DiskMode.FULL)
    assert there.data == here.data
    assert fresh.running


@pytest.mark.parametrize("step", [Step.ACCEPTED, Step.DISKS_SENT, Step.FIRST_ROUND_SENT, Step.READY_HEARD])
def test_a_cancel_leaves_the_source_its_disk(step: Step, tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    guest, coming = pair_with_disks(here, there)
    gate = Gate(step)
    source, destination = Migrations(guest, hook=gate), Migrations(coming)
    source.migrate(destination.incoming(uri_of("unix", tmp_path)), DiskMode.FULL)

    cancel_at(gate, source, destination)

    assert source.status is Status.CANCELLED
    assert guest.running
    assert guest.disks.active
    assert not coming.disks.active


def test_the_destination_owns_its_images_while_the_guest_runs(tmp_path: Path) -> None:
    guest, coming = pair_with_disks(*disks(DiskMode.FULL))
    gate = Gate(Step.DISKS_SENT)
    source, destination = Migrations(guest, hook=gate), Migrations(coming)
    source.migrate(destination.incoming(f"unix:{tmp_path / 'm.sock'}"), DiskMode.FULL)
    assert gate.reached.wait(WAIT)

    assert guest.running
    assert guest.disks.active
    assert coming.disks.active

    gate.go_on.set()
    assert source.wait_over(WAIT)
    assert destination.wait_over(WAIT)


def test_a_disk_that_is_full_over_there_is_told_on_both_sides(tmp_path: Path) -> None:
    here, there = FakeMovedDisk(size=200 * BLOCK), FakeMovedDisk(size=200 * BLOCK)
    here.change(0, b"x" * here.size)
    there.full_at = 64
    guest, coming = pair_with_disks(here, there)
    source, destination = Migrations(guest), Migrations(coming)

    move(source, destination, uri_of("unix", tmp_path), DiskMode.FULL)

    assert "No space left on device" in destination.error
    assert source.error == f"the other side refused: {destination.error}"
    assert guest.running
    assert guest.disks.active


def test_a_disk_that_cannot_be_let_go_after_a_failure_hides_neither_the_failure_nor_its_end(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    there.full_at = 0
    guest, coming = pair_with_disks(here, there)
    coming.disks.fail_inactivate = True
    source, destination = Migrations(guest), Migrations(coming)

    move(source, destination, uri_of("unix", tmp_path), DiskMode.FULL)

    assert destination.status is Status.FAILED
    assert "No space left on device" in destination.error
    assert "No space left on device" in source.error
    assert guest.running


@pytest.mark.parametrize("step", [Step.ACCEPTED, Step.LAST_ROUND_SENT])
def test_a_disk_that_cannot_be_flushed_over_there_leaves_the_guest_running(step: Step, tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    guest, coming = pair_with_disks(here, there)

    def break_it(at: Step) -> None:
        there.flush_fails = there.flush_fails or at is step

    source, destination = Migrations(guest, hook=break_it), Migrations(coming)
    move(source, destination, uri_of("unix", tmp_path), DiskMode.FULL)

    assert "flushing failed" in destination.error
    assert "flushing failed" in source.error
    assert guest.running
    assert guest.disks.active
    assert not coming.running


def test_what_is_written_in_pre_switchover_arrives(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    guest, coming = pair_with_disks(here, there)
    seen = threading.Event()
    source = Migrations(guest, on_status=lambda status: seen.set() if status is Status.PRE_SWITCHOVER else None)
    source.capabilities.pause_before_switchover = True
    destination = Migrations(coming)
    source.migrate(destination.incoming(f"unix:{tmp_path / 'm.sock'}"), DiskMode.FULL)
    assert seen.wait(WAIT)

    here.change(5 * BLOCK, b"a job's last words")
    source.proceed()

    assert source.wait_over(WAIT)
    assert destination.wait_over(WAIT)
    assert there.data == here.data


def test_the_same_image_on_both_sides_is_refused(tmp_path: Path) -> None:
    guest, coming = pair_with_disks(*disks(DiskMode.FULL))
    coming.disks = type(coming.disks)(guest.disks._disk, active=False)
    source, destination = Migrations(guest), Migrations(coming)

    move(source, destination, uri_of("unix", tmp_path), DiskMode.FULL)

    assert (
        "is in use by another process; disks that move with their guest (migrate -b) need images of their own" in source.error
    )
    assert guest.running
    assert guest.disks.active


def test_the_same_bytes_on_both_sides_are_refused_where_no_lock_tells(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    there.place = here.place
    guest, coming = pair_with_disks(here, there)
    source, destination = Migrations(guest), Migrations(coming)

    move(source, destination, uri_of("unix", tmp_path), DiskMode.FULL)

    assert "drive 'disk' is the same image here as on the source" in source.error
    assert guest.running
    assert not coming.disks.active


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "the source sends the disks disk, this machine's that can be written are none"),
        ([FakeMovedDisk("other")], "the source sends the disks disk, this machine's that can be written are other"),
        ([FakeMovedDisk()], "drive 'disk' has no backing file here"),
        ([FakeMovedDisk(backing=b"x" * DISK_SIZE)], "drive 'disk' has another backing file here"),
    ],
)
def test_disks_that_do_not_fit_are_refused_before_anything_is_written(
    there: list[FakeMovedDisk], words: str, tmp_path: Path
) -> None:
    here, _there = disks(DiskMode.INCREMENTAL)
    guest, coming = pair_with_disks(here, here)
    coming.moved = list(there)
    source, destination = Migrations(guest), Migrations(coming)

    move(source, destination, uri_of("unix", tmp_path), DiskMode.INCREMENTAL)

    assert words in source.error
    assert words in destination.error
    assert guest.running
    assert not coming.disks.active


def test_a_disk_without_a_backing_file_goes_whole_in_an_incremental_move(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    guest, coming = pair_with_disks(here, there)

    move(Migrations(guest), Migrations(coming), uri_of("unix", tmp_path), DiskMode.INCREMENTAL)

    assert there.data == here.data


def test_a_paused_guest_moves_on_from_where_it_never_ran(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    guest, coming = pair_with_disks(here, there)
    guest.running = False
    destination = Migrations(coming)
    destination.capabilities.late_block_activate = True
    move(Migrations(guest), destination, uri_of("unix", tmp_path), DiskMode.FULL)
    assert not coming.disks.active  # until `cont`

    farther = FakeMovedDisk()
    _, last = pair_with_disks(there, farther)
    move(destination, Migrations(last), uri_of("unix", tmp_path), DiskMode.FULL)

    assert destination.error == ""
    assert farther.data == here.data
    assert last.disks.active


def test_a_disk_goes_through_a_file(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    guest, coming = pair_with_disks(here, there)
    source, destination = Migrations(guest), Migrations(coming)

    source.migrate(f"file:{tmp_path / 'stream'}", DiskMode.FULL)
    assert source.wait_over(WAIT)
    destination.incoming(f"file:{tmp_path / 'stream'}")
    assert destination.wait_over(WAIT)

    assert (source.error, destination.error) == ("", "")
    assert there.data == here.data
    source.refuse_if_twice()  # nobody said that it runs: who keeps the file decides


def test_the_disks_are_in_the_numbers(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    source = Migrations(pair_with_disks(here, there)[0])

    source.migrate(f"file:{tmp_path / 'stream'}", DiskMode.FULL)
    assert source.wait_over(WAIT)

    disk = source.query()["disk"]
    assert isinstance(disk, dict)
    assert disk["total"] == DISK_SIZE
    assert disk["remaining"] == 0
    assert 4 * BLOCK < int(str(disk["transferred"])) < 8 * BLOCK  # zero blocks are not data


def test_what_is_left_of_the_disks_counts_against_the_downtime(tmp_path: Path) -> None:
    here, there = disks(DiskMode.FULL)
    guest, coming = pair_with_disks(here, there)
    busy = iter(range(3))
    rounds: list[int] = []

    def keep_busy(iteration: int) -> None:
        rounds.append(iteration)
        if next(busy, None) is not None:
            here.change(0, b"w" * 10 * BLOCK)

    source = Migrations(guest, on_pass=keep_busy)
    source.parameters.avail_switchover_bandwidth = BLOCK  # bytes per second: one block is a second
    source.parameters.downtime_limit = 500
    destination = Migrations(coming)
    move(source, destination, uri_of("unix", tmp_path), DiskMode.FULL)

    assert len(rounds) > 3
    assert there.data == here.data


def test_a_destination_without_this_is_told_to_be_older(tmp_path: Path) -> None:
    guest, coming = pair_with_disks(*disks(DiskMode.FULL))
    source, destination = Migrations(guest), Migrations(coming)
    uri = destination.incoming(f"unix:{tmp_path / 'm.sock'}")
    incoming = destination._incoming
    assert incoming is not None
    answer = incoming._answer
    incoming._answer = lambda kind, _fields=None: answer(kind)  # type: ignore[method-assign]  # as it was before

    source.migrate(uri, DiskMode.FULL)

    assert source.wait_over(WAIT)
    assert "emu is older" in source.error
    assert guest.running
