"""Capabilities, parameters, events and blockers: what each promises, kept by machines in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu.qmp.legacy import QEMUMonitorProtocol

from emu.monitor.client import QmpCallError
from images.journal import read_journal
from tests.live.conftest import Start
from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for
from tests.live.test_handover import assert_guest_is_whole, lock_is_free, start_pair
from tests.live.test_journeys import type_in

MIB = 1 << 20
UUIDS = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")
REASON = "Share 'src' is mounted in the guest: unmount it first."
BLOCKED = ("tests.live.blocked", REASON, "--")


def boot(start: Start, name: str, *options: str, **how: object) -> EmuProcess:
    """A guest at its prompt."""
    machine = start(name, *options, **how)
    machine.console.expect(PROMPT, WAIT)
    return machine


def await_guest(
    start: Start, uri: str, *options: str, name: str = "destination", capabilities: tuple[str, ...] = ()
) -> EmuProcess:
    """A machine that waits for a guest at `uri`, with `capabilities`."""
    machine = start(name, *options, "--incoming", "defer")
    if capabilities:
        machine.switch_on(*capabilities)
    machine.qmp("migrate-incoming", uri=uri)
    return machine


def move_paused(source: EmuProcess, destination_uri: str) -> None:
    """Pause a guest if it runs, and move it."""
    source.qmp("stop")
    answer = source.migrate(destination_uri)
    assert answer["status"] == "completed", answer


# late-block-activate


def test_a_paused_guest_takes_its_disk_on_arrival(start: Start, disk: Path, tmp_path: Path) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri)

    move_paused(source, uri)

    assert destination.status == "paused"
    assert not lock_is_free(disk)


def test_late_block_activate_leaves_the_disk_free_until_cont(start: Start, disk: Path, tmp_path: Path) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri, capabilities=("late-block-activate",))
    move_paused(source, uri)
    assert destination.status == "paused"
    assert lock_is_free(disk)

    destination.qmp("cont")

    assert not lock_is_free(disk)
    type_in(destination.console, "blk journal 2", "journal done 2")
    assert read_journal(disk).records == 2


def test_late_block_activate_makes_no_difference_to_a_guest_that_runs(start: Start, disk: Path, tmp_path: Path) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri, capabilities=("late-block-activate",))

    assert source.migrate(uri)["status"] == "completed"

    assert destination.status == "running"
    assert not lock_is_free(disk)
    type_in(destination.console, "blk journal 2", "journal done 2")


def test_a_guest_whose_disk_was_never_taken_moves_on(start: Start, disk: Path, tmp_path: Path) -> None:
    here = boot(start, "a")
    type_in(here.console, "mem fill 5 4", "mem filled")
    for name in ("b", "c"):
        uri = f"unix:{tmp_path / name}.in"
        there = await_guest(start, uri, name=name, capabilities=("late-block-activate",))
        move_paused(here, uri)
        assert lock_is_free(disk)
        here = there

    here.qmp("cont")

    type_in(here.console, "mem check 5 4", "mem ok")
    type_in(here.console, "blk journal 2", "journal done 2")


def test_a_guest_that_came_without_its_disk_never_runs_on_one_that_changed(start: Start, disk: Path, tmp_path: Path) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri, capabilities=("late-block-activate",))
    move_paused(source, uri)
    source.qmp("cont")  # takes the guest back: the disk is free
    type_in(source.console, "blk journal 2", "journal done 2")
    with pytest.raises(QmpCallError, match=r"disk\.img: is in use by process"):
        destination.qmp("cont")
    source.close()

    with pytest.raises(QmpCallError, match="was written to by another emu since this guest let it go"):
        destination.qmp("cont")

    assert destination.status == "paused"
    assert lock_is_free(disk)


# validate-uuid


def test_another_uuid_is_accepted_unless_it_is_validated(start: Start, tmp_path: Path) -> None:
    source, uri = boot(start, "source", "--uuid", UUIDS[0]), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri, "--uuid", UUIDS[1])

    assert source.migrate(uri)["status"] == "completed"

    type_in(destination.console, "blk journal 1", "journal done 1")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_validate_uuid_refuses_another_uuid(side: str, start: Start, tmp_path: Path) -> None:
    on = {side: ("validate-uuid",)}
    source, uri = boot(start, "source", "--uuid", UUIDS[0]), f"unix:{tmp_path / 'far'}"
    source.switch_on(*on.get("source", ()))
    destination = await_guest(start, uri, "--uuid", UUIDS[1], capabilities=on.get("destination", ()))

    answer = source.migrate(uri)

    told = f"the machines differ in uuid: the source has '{UUIDS[0]}', this one has '{UUIDS[1]}'"
    assert answer["status"] == "failed"
    assert told in str(answer["error-desc"])
    destination.wait_status("inmigrate")
    wait_for(lambda: destination.migration["status"] == "failed", "the destination gives up")
    assert destination.migration["error-desc"] == told
    assert source.status == "running"
    type_in(source.console, "blk journal 1", "journal done 1")


def test_validate_uuid_accepts_the_same_uuid(start: Start, tmp_path: Path) -> None:
    source, uri = boot(start, "source", "--uuid", UUIDS[0]), f"unix:{tmp_path / 'far'}"
    source.switch_on("validate-uuid")
    await_guest(start, uri, "--uuid", UUIDS[0].upper(), capabilities=("validate-uuid",))

    assert source.migrate(uri)["status"] == "completed"


# pause-before-switchover


def begin_and_pause(start: Start, folder: Path) -> tuple[EmuProcess, EmuProcess]:
    """A migration that stands in pre-switchover, of a guest that writes its journal."""
    source, destination = start_pair(start, folder)
    source.switch_on("pause-before-switchover")
    source.qmp("migrate", uri=f"unix:{folder / 'far'}")
    wait_for(lambda: source.migration["status"] == "pre-switchover", "pre-switchover")
    return source, destination


def test_pause_before_switchover_waits_with_the_disks_still_ours(start: Start, disk: Path, tmp_path: Path) -> None:
    source, destination = begin_and_pause(start, tmp_path)
    assert (source.status, destination.status) == ("finish-migrate", "inmigrate")
    assert not lock_is_free(disk)
    with pytest.raises(QmpCallError, match="not finalised yet, it is in status pre-switchover"):
        source.qmp("cont")

    source.qmp("migrate-continue", state="pre-switchover")

    assert source.wait_migration()["status"] == "completed"
    assert_guest_is_whole(destination, disk)


def test_cancel_in_pre_switchover_lets_the_guest_run_again(start: Start, disk: Path, tmp_path: Path) -> None:
    source, destination = begin_and_pause(start, tmp_path)

    source.qmp("migrate_cancel")

    assert source.wait_migration()["status"] == "cancelled"
    assert source.status == "running"
    assert destination.wait_exit() == 1
    assert_guest_is_whole(source, disk)


def test_migrate_continue_without_a_pause_is_refused(start: Start) -> None:
    source = boot(start, "source")

    with pytest.raises(QmpCallError, match="in status none, it can be continued only in pre-switchover"):
        source.qmp("migrate-continue", state="pre-switchover")


# max-bandwidth and downtime-limit


def test_max_bandwidth_is_kept(start: Start, tmp_path: Path) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    type_in(source.console, "mem fill 5 6", "mem filled")
    destination = await_guest(start, uri)
    source.qmp("migrate-set-parameters", max_bandwidth=8 * MIB)

    answer = source.migrate(uri)

    assert answer["status"] == "completed"
    assert 750 <= float(str(answer["total-time"])) < 5000  # milliseconds; 6 MiB at 8 MiB/s, and what surrounds them
    type_in(destination.console, "mem check 5 6", "mem ok")


def test_max_bandwidth_may_change_while_a_migration_runs(start: Start, tmp_path: Path) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    type_in(source.console, "mem fill 5 6", "mem filled")
    destination = await_guest(start, uri)
    source.qmp("migrate-set-parameters", max_bandwidth=64 << 10)  # a minute and a half
    source.qmp("migrate", uri=uri)
    wait_for(lambda: transferred(source) > 0, "the first pages are sent")
    assert source.migration["status"] == "active"

    source.qmp("migrate-set-parameters", max_bandwidth=0)

    answer = source.wait_migration()
    assert answer["status"] == "completed"
    assert float(str(answer["total-time"])) < 10_000
    type_in(destination.console, "mem check 5 6", "mem ok")


def ram(machine: EmuProcess) -> dict[str, int]:
    """query-migrate's numbers of RAM."""
    numbers = machine.migration.get("ram", {})
    assert isinstance(numbers, dict)
    return numbers  # type: ignore[return-value]  # all of them are integers


def transferred(machine: EmuProcess) -> int:
    """Bytes of RAM sent so far."""
    return ram(machine).get("transferred", 0)


def test_a_guest_that_writes_faster_than_allowed_moves_once_its_downtime_may_be_longer(start: Start, tmp_path: Path) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri)
    type_in(source.console, "mem churn 5 600 4", "mem filled")
    source.qmp("migrate-set-parameters", max_bandwidth=32 * MIB, downtime_limit=1)
    source.qmp("migrate", uri=uri)
    wait_for(lambda: ram(source).get("dirty-sync-count", 0) >= 5, "the fifth round")
    rounds = source.migration
    assert rounds["status"] == "active"
    assert float(str(rounds["expected-downtime"])) > 1
    assert source.status == "running"

    source.qmp("migrate-set-parameters", downtime_limit=60_000)

    assert source.wait_migration()["status"] == "completed"
    destination.console.send("\x03")
    destination.console.expect(r"mem churn done \d+", WAIT)
    destination.console.expect(f"mem ok {4 * MIB}", WAIT)


# events


@pytest.fixture
def clients() -> Iterator[list[QEMUMonitorProtocol]]:
    """QMP connections to be closed."""
    opened: list[QEMUMonitorProtocol] = []
    yield opened
    for client in opened:
        client.close()


def listen_to(machine: EmuProcess, clients: list[QEMUMonitorProtocol]) -> QEMUMonitorProtocol:
    """A QMP connection that hears all that happens from now on."""
    client = QEMUMonitorProtocol(str(machine.qmp_path))
    clients.append(client)
    client.connect()
    return client


def heard(client: QEMUMonitorProtocol, last: str) -> list[str]:
    """The events up to `last`, as NAME or NAME STATUS or NAME PASS."""
    told: list[str] = []
    while last not in told:
        event = client.pull_event(wait=float(WAIT)) or {}
        told.append(" ".join([str(event["event"]), *(str(value) for value in event.get("data", {}).values())]))
    return told


def test_events_tell_a_migration_step_by_step(start: Start, tmp_path: Path, clients: list[QEMUMonitorProtocol]) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    destination = start("destination", "--incoming", "defer")
    for machine in (source, destination):
        machine.switch_on("events")
    source.switch_on("pause-before-switchover")
    here, there = listen_to(source, clients), listen_to(destination, clients)
    destination.qmp("migrate-incoming", uri=uri)
    source.qmp("migrate", uri=uri)
    before = heard(here, "MIGRATION pre-switchover")
    source.qmp("migrate-continue", state="pre-switchover")

    passes = [f"MIGRATION_PASS {number}" for number in range(1, ram(source)["dirty-sync-count"] + 1)]
    assert before == ["MIGRATION setup", "MIGRATION active", *passes, "STOP", "MIGRATION pre-switchover"]
    assert heard(here, "MIGRATION completed") == ["MIGRATION device", "MIGRATION completed"]
    steps = ["MIGRATION setup", "MIGRATION active", "MIGRATION device", "RESUME", "MIGRATION completed"]
    assert heard(there, "MIGRATION completed") == steps


def test_without_the_capability_only_the_guest_is_told_of(
    start: Start, tmp_path: Path, clients: list[QEMUMonitorProtocol]
) -> None:
    source, uri = boot(start, "source"), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri)
    here, there = listen_to(source, clients), listen_to(destination, clients)

    assert source.migrate(uri)["status"] == "completed"

    assert heard(here, "STOP") == ["STOP"]
    assert heard(there, "RESUME") == ["RESUME"]


# blockers


def test_a_blocked_guest_is_neither_moved_nor_saved_and_says_why(start: Start, tmp_path: Path) -> None:
    source, uri = boot(start, "source", launcher=BLOCKED), f"unix:{tmp_path / 'far'}"
    destination = await_guest(start, uri)

    with pytest.raises(QmpCallError) as refusal:
        source.qmp("migrate", uri=uri)
    answer = source.monitor("savevm one")

    assert str(refusal.value) == f"the guest cannot be migrated: {REASON}"
    assert f"the guest cannot be saved: {REASON}" in answer
    assert source.migration == {"blocked-reasons": [REASON]}
    assert REASON in source.monitor("info migrate")
    assert (source.status, destination.status) == ("running", "inmigrate")
    type_in(source.console, "blk journal 1", "journal done 1")


def test_only_migratable_refuses_to_start_what_is_blocked(start: Start, disk: Path) -> None:
    machine = start("machine", "--only-migratable", launcher=BLOCKED)

    assert machine.wait_exit() == 1
    assert machine.errors == f"emu: error: --only-migratable: {REASON}\n"
    assert lock_is_free(disk)


def test_only_migratable_starts_what_can_move(start: Start, tmp_path: Path) -> None:
    source, uri = boot(start, "source", "--only-migratable"), f"unix:{tmp_path / 'far'}"
    await_guest(start, uri, "--only-migratable")

    assert source.migrate(uri)["status"] == "completed"
