"""The migration story between two guests in one process; whole machines in two processes are in tests/live."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from emu.errors import EmuError, MigrationError
from migration.manager import Migrations
from migration.protocols import Step
from migration.status import Status, StatusMachine
from tests.migration.fakes import FakeGuest, pair
from tests.migration.hooks import BEFORE_RUNNING, WAIT, Gate, Strike, move, uri_of


def assert_equal(ours: FakeGuest, theirs: FakeGuest) -> None:
    assert np.array_equal(ours.ram.words, theirs.ram.words)
    assert [device.state for device in ours.devices] == [device.state for device in theirs.devices]


@pytest.mark.parametrize("scheme", ["unix", "tcp", "tcp6"])
def test_a_guest_moves_with_everything_it_has(scheme: str, tmp_path: Path) -> None:
    here, there = pair()
    source, destination = Migrations(here), Migrations(there)

    move(source, destination, uri_of(scheme, tmp_path))

    assert (source.status, destination.status) == (Status.COMPLETED, Status.COMPLETED)
    assert_equal(there, here)
    assert (here.state, there.state) == ("postmigrate", "running")
    assert there.disks.active
    assert not here.disks.active


def test_a_paused_guest_stays_paused_and_moves_on(tmp_path: Path) -> None:
    here, there = pair(running=False)
    move(Migrations(here), Migrations(there), uri_of("unix", tmp_path))
    assert there.state == "paused"

    further = FakeGuest(type(there.disks)(there.disks._disk, active=False), running=False, state="inmigrate")
    move(Migrations(there), Migrations(further), uri_of("unix", tmp_path))

    assert_equal(further, here)
    assert further.state == "paused"
    assert further.disks.active


@pytest.mark.parametrize("step", BEFORE_RUNNING)
def test_a_failure_before_the_guest_runs_leaves_it_running_where_it_was(step: Step, tmp_path: Path) -> None:
    here, there = pair()
    strike = Strike(step)
    source, destination = Migrations(here, hook=strike), Migrations(there, hook=strike)

    move(source, destination, uri_of("unix", tmp_path))

    assert source.status is Status.FAILED
    assert here.running
    assert not there.running
    assert here.disks.active
    assert source.error
    retry, fresh = pair()
    del retry
    fresh.disks = type(there.disks)(here.disks._disk, active=False)
    move(Migrations(here), Migrations(fresh), uri_of("unix", tmp_path))
    assert_equal(fresh, here)
    assert fresh.running


def test_a_destination_that_cannot_serve_the_state_leaves_the_guest_running_where_it_was(tmp_path: Path) -> None:
    here, there = pair()
    there.unprepared = "share 'host0' has other files than the guest knows: 'a' (gone)"
    source, destination = Migrations(here), Migrations(there)

    move(source, destination, uri_of("unix", tmp_path))

    assert source.status is Status.FAILED
    assert there.unprepared in source.error
    assert here.running
    assert here.disks.active
    assert there.devices[0].state.value == 0


def test_a_source_that_hears_nothing_after_go_stays_paused_and_says_what_to_do(tmp_path: Path) -> None:
    here, there = pair()
    source, destination = Migrations(here, hook=Strike(Step.GO_SENT)), Migrations(there)

    move(source, destination, uri_of("unix", tmp_path))

    assert source.status is Status.FAILED
    assert here.state == "postmigrate"
    assert there.running
    assert there.disks.active


def test_pre_switchover_waits_for_migrate_continue(tmp_path: Path) -> None:
    here, there = pair()
    seen = threading.Event()
    source = Migrations(here, on_status=lambda status: seen.set() if status is Status.PRE_SWITCHOVER else None)
    source.capabilities.pause_before_switchover = True
    destination = Migrations(there)
    source.migrate(destination.incoming(uri_of("unix", tmp_path)))
    assert seen.wait(WAIT)

    source.proceed()

    assert source.wait_over(WAIT)
    assert source.status is Status.COMPLETED


def test_a_blocked_guest_is_refused_with_the_reason(tmp_path: Path) -> None:
    here, there = pair()
    here.reasons = ["The share is mounted: unmount it first."]
    source = Migrations(here)

    with pytest.raises(MigrationError, match="unmount it first"):
        source.migrate(Migrations(there).incoming(uri_of("unix", tmp_path)))

    assert source.status is Status.NONE
    assert here.running


def test_what_a_guest_wrote_before_is_flushed_while_it_runs(tmp_path: Path) -> None:
    here, there = pair()
    unflushed = []
    source = Migrations(here, hook=lambda step: unflushed.append(here.disks.written) if step is Step.GUEST_HELD else None)

    move(source, Migrations(there), uri_of("unix", tmp_path))

    assert unflushed == [False]


def test_a_disk_that_cannot_be_let_go_fails_the_migration_not_the_guest(tmp_path: Path) -> None:
    here, there = pair()
    here.disks.fail_inactivate = True
    source, destination = Migrations(here), Migrations(there)

    move(source, destination, uri_of("unix", tmp_path))

    assert source.status is Status.FAILED
    assert "no space left" in source.error
    assert here.running
    assert here.disks.active


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": 4096}, "differ in memory"),
        ({"target": "other"}, "differ in target"),
        ({"extra": 1}, "only this machine has extra"),
    ],
)
def test_another_machine_is_refused_in_one_sentence(change: dict[str, int | str], words: str, tmp_path: Path) -> None:
    here, there = pair()
    there.machine = {**there.machine, **change}
    source, destination = Migrations(here), Migrations(there)

    move(source, destination, uri_of("unix", tmp_path))

    assert words in source.error
    assert words in destination.error
    assert here.running


def test_another_uuid_is_refused_only_when_asked(tmp_path: Path) -> None:
    here, there = pair()
    there.machine = {**there.machine, "uuid": "2"}
    source, destination = Migrations(here), Migrations(there)
    destination.capabilities.validate_uuid = True
    move(source, destination, uri_of("unix", tmp_path))
    assert "uuid" in source.error

    destination.capabilities.validate_uuid = False
    move(source, destination, uri_of("unix", tmp_path))

    assert source.status is Status.COMPLETED


def test_pages_written_during_the_rounds_arrive(tmp_path: Path) -> None:
    here, there = pair()

    def dirty(step: Step) -> None:
        if step in (Step.FIRST_ROUND_SENT, Step.GUEST_HELD):
            here.ram.write(7, 4242)
            here.ram.write(0, 0)

    source, destination = Migrations(here, hook=dirty), Migrations(there)

    move(source, destination, uri_of("unix", tmp_path))

    assert_equal(there, here)


@pytest.mark.parametrize("offset", [0, 4096, 12345])
def test_a_guest_goes_through_a_file_and_what_stood_before_the_offset_stays(offset: int, tmp_path: Path) -> None:
    here, there = pair()
    path = tmp_path / "stream"
    path.write_bytes(b"h" * offset)
    source, destination = Migrations(here), Migrations(there)

    source.migrate(f"file:{path},offset={offset}")
    assert source.wait_over(WAIT)
    destination.incoming(f"file:{path},offset={offset}")
    assert destination.wait_over(WAIT)

    assert (source.error, destination.error) == ("", "")
    assert_equal(there, here)
    assert path.read_bytes()[:offset] == b"h" * offset
    assert there.disks.active


def test_a_guest_goes_through_a_command(tmp_path: Path) -> None:
    here, there = pair()
    path = tmp_path / "stream.gz"
    source, destination = Migrations(here), Migrations(there)

    source.migrate(f"exec:gzip -1 > {path}")
    assert source.wait_over(WAIT)
    destination.incoming(f"exec:gzip -dc {path}")
    assert destination.wait_over(WAIT)

    assert (source.error, destination.error) == ("", "")
    assert_equal(there, here)


def test_a_command_that_fails_fails_the_migration() -> None:
    here, _there = pair()
    source = Migrations(here)

    source.migrate("exec:cat > /dev/null; exit 3")
    assert source.wait_over(WAIT)

    assert "status 3" in source.error
    assert here.running
    assert here.disks.active


@pytest.mark.parametrize("uri", ["", "tcp", "tcp:", "tcp:host", "tcp:host:port", "tcp:host:99999", "gopher:x", "fd:x"])
def test_a_bad_uri_is_refused_in_one_line(uri: str) -> None:
    here, _there = pair()
    source = Migrations(here)

    with pytest.raises(EmuError) as refusal:
        source.migrate(uri)
        source.wait_over(WAIT)
        raise EmuError(source.error)

    assert "\n" not in str(refusal.value)
    assert str(refusal.value)
    assert here.running


def test_a_second_migration_is_refused_while_one_is_under_way(tmp_path: Path) -> None:
    here, there = pair()
    gate = Gate(Step.CONNECTED)
    source, destination = Migrations(here, hook=gate), Migrations(there)
    uri = destination.incoming(uri_of("unix", tmp_path))
    source.migrate(uri)
    assert gate.reached.wait(WAIT)

    with pytest.raises(MigrationError, match="under way already, in status setup"):
        source.migrate(uri)

    gate.go_on.set()
    assert source.wait_over(WAIT)
    assert source.status is Status.COMPLETED


def test_an_illegal_step_names_both_ends() -> None:
    with pytest.raises(MigrationError, match="from none to completed"):
        StatusMachine().go(Status.COMPLETED)


def test_waiting_for_a_guest_can_be_cancelled(tmp_path: Path) -> None:
    _here, there = pair()
    destination = Migrations(there)
    destination.incoming(uri_of("unix", tmp_path))

    destination.cancel()

    assert destination.wait_over(WAIT)
    assert destination.status is Status.CANCELLED
    assert not (tmp_path / "m.sock").exists()


def test_query_has_qemus_fields(tmp_path: Path) -> None:
    here, there = pair()
    source, destination = Migrations(here), Migrations(there)
    move(source, destination, uri_of("unix", tmp_path))

    answer = source.query()

    assert answer["status"] == "completed"
    assert {"total-time", "downtime", "setup-time", "ram"} <= set(answer)
    ram = answer["ram"]
    assert isinstance(ram, dict)
    assert ram["normal"] == len(range(0, 64, 3))
    assert ram["normal-bytes"] == ram["normal"] * 4096
    assert ram["remaining"] == 0
