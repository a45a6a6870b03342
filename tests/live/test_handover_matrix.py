"""Whatever disks a guest has, whatever goes wrong on its way, running or paused: who owns the disks, who runs, what is on them.

The rows are tests.live.cells.ROWS, the columns FAULTS. Each step of either side is struck at in test_handover.py, on raw disks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.monitor.client import QmpCallError
from migration.protocols import Step
from tests.emu.block.nbd.server import needs_qemu_nbd
from tests.live.cells import BEGUN, ROWS, Cell, cell
from tests.live.machines import EmuProcess
from tests.live.proxy import Link

Fault = Callable[[Cell], None]


def move(cell: Cell, source: EmuProcess) -> dict[str, object]:
    """Migrate, if need be to the source's own end."""
    with contextlib.suppress(QmpCallError):
        cell.migrate(source, cell.far)
        return dict(source.wait_migration())
    return {}


def nothing(cell: Cell) -> None:
    source, destination = cell.source(), cell.destination()

    assert move(cell, source)["status"] == "completed"

    assert source.status == "postmigrate"
    cell.assert_lives(destination)


def cancelled_at(step: Step, status: str, *capabilities: str) -> Fault:
    def strike(cell: Cell) -> None:
        teller = cell.teller()
        source, destination = cell.source((step, f"tell:{teller.path}")), cell.destination()
        source.switch_on(*capabilities)
        cell.migrate(source, cell.far)
        assert teller.wait() == step
        if status == "pre-switchover":
            teller.go_on()
        source.wait_migration_status(status)

        source.qmp("migrate_cancel")
        if status != "pre-switchover":
            teller.go_on()

        assert source.wait_migration()["status"] == "cancelled"
        assert destination.wait_exit() == 1
        cell.assert_lives(source)

    return strike


def source_killed_at(step: Step) -> Fault:
    def strike(cell: Cell) -> None:
        cell.leaks = True
        source, destination = cell.source((step, "kill")), cell.destination()

        move(cell, source)

        assert source.wait_exit() == -9
        if step is Step.GO_SENT:
            destination.wait_status(cell.state)
            cell.assert_lives(destination)
        else:
            assert destination.wait_exit() == 1
            cell.assert_nobody_owns()

    return strike


def destination_killed_at(step: Step) -> Fault:
    def strike(cell: Cell) -> None:
        cell.leaks = True
        source, destination = cell.source(), cell.destination((step, "kill"))

        answer = move(cell, source)

        assert destination.wait_exit() == -9
        assert answer["status"] == "failed"
        if step is Step.GO_HEARD:
            assert "'cont' resumes it" in str(answer["error-desc"])
            assert source.status == "postmigrate"
            cell.assert_nobody_owns()
            source.qmp("cont")
            cell.assert_whole(source)
        else:
            cell.assert_lives(source)

    return strike


def link_cut(cell: Cell) -> None:
    teller = cell.teller()
    source, destination = cell.source((Step.DISKS_LET_GO, f"tell:{teller.path}")), cell.destination()
    link = Link(cell.folder / "near", cell.far)
    cell.migrate(source, link.near)

    teller.wait()
    link.cut()
    teller.go_on()

    assert source.wait_migration()["status"] == "failed"
    assert destination.wait_exit() == 1
    cell.assert_lives(source)


def link_cut_after_go(cell: Cell) -> None:
    teller = cell.teller()
    source, destination = cell.source(), cell.destination((Step.GO_HEARD, f"tell:{teller.path}"))
    link = Link(cell.folder / "near", cell.far)
    cell.migrate(source, link.near)

    teller.wait()
    link.cut()
    teller.go_on()

    answer = source.wait_migration()
    assert "'cont' resumes it" in str(answer["error-desc"])
    assert source.status == "postmigrate"
    destination.wait_status(cell.state)
    cell.assert_lives(destination)
    if cell.disks.guarded and cell.disks.far is None:
        with pytest.raises(QmpCallError, match="is in use by process"):
            source.qmp("cont")


def destination_ran_then_died(cell: Cell) -> None:
    cell.leaks = True
    source, destination = cell.source(), cell.destination()
    assert move(cell, source)["status"] == "completed"
    cell.assert_lives(destination)
    destination.close()

    cell.assert_nobody_owns()
    if cell.disks.guarded:
        gone = "on disks of its own" if cell.disks.far else "was written to by another emu since this guest let it go"
        with pytest.raises(QmpCallError, match=gone):
            source.qmp("cont")
        assert source.status == "postmigrate"
        cell.assert_nobody_owns()


def destination_cannot_lock(cell: Cell) -> None:
    teller = cell.teller()
    step = Step.CONNECTED if cell.disks.far else Step.DISKS_LET_GO  # disks of its own are taken at once
    source, destination = cell.source((step, f"tell:{teller.path}")), cell.destination()
    cell.migrate(source, cell.far)
    teller.wait()

    with cell.locked():
        teller.go_on()
        assert destination.wait_exit() == 1
    assert "is in use by process" in destination.errors

    assert source.wait_migration()["status"] == "failed"
    cell.assert_lives(source)


def destination_cannot_read(cell: Cell) -> None:
    assert cell.disks.spoil is not None
    teller = cell.teller()
    source, destination = cell.source((Step.DISKS_LET_GO, f"tell:{teller.path}")), cell.destination()
    cell.migrate(source, cell.far)
    teller.wait()

    with cell.disks.spoil():
        teller.go_on()
        assert destination.wait_exit() == 1
        answer = source.wait_migration()
    assert answer["status"] == "failed"
    assert "the guest stays paused" in str(answer["error-desc"])  # nobody could read it

    source.qmp("cont")
    cell.assert_whole(source)


def disk_full(cell: Cell) -> None:
    source, destination = cell.source((Step.GUEST_HELD, "full")), cell.destination()

    answer = move(cell, source)

    assert answer["status"] == "failed"
    assert "No space left on device" in str(answer["error-desc"])
    assert destination.wait_exit() == 1
    with pytest.raises(AssertionError, match="is not free"):
        cell.assert_nobody_owns()
    if cell.paused:
        assert source.status == "paused"
        source.qmp("cont")
    source.wait_status("io-error")  # it ran on, and its own next flush has no room either
    cell.assert_journal_holds(BEGUN, "source")


def to_and_fro(cell: Cell) -> None:
    """A -> B -> A -> C, each in a process of its own; a paused guest runs on none of them before the last."""
    here = cell.source()
    for name in ("b", "a", "c"):
        there = cell.destination(name=name)
        assert move(cell, here)["status"] == "completed"
        assert there.status == cell.state
        here.qmp("quit")
        assert here.wait_exit() == 3
        here = there
    cell.assert_lives(here)


FAULTS: dict[str, Fault] = {
    "nothing": nothing,
    "nothing, three times": to_and_fro,
    "cancel in setup": cancelled_at(Step.CONNECTED, "setup"),
    "cancel in active": cancelled_at(Step.FIRST_ROUND_SENT, "active"),
    "cancel in pre-switchover": cancelled_at(Step.GUEST_HELD, "pre-switchover", "pause-before-switchover"),
    "cancel in device": cancelled_at(Step.STATE_SENT, "device"),
    "source killed before GO": source_killed_at(Step.DISKS_LET_GO),
    "source killed after GO": source_killed_at(Step.GO_SENT),
    "destination killed before GO": destination_killed_at(Step.DISKS_TAKEN),
    "destination killed after GO": destination_killed_at(Step.GO_HEARD),
    "link cut": link_cut,
    "link cut after GO": link_cut_after_go,
    "destination ran then died": destination_ran_then_died,
    "destination cannot lock": destination_cannot_lock,
    "destination cannot read": destination_cannot_read,
    "disk full": disk_full,
}

NOT_POSSIBLE = {
    ("-b", "destination cannot read"): "its disk is written, not read",
    ("-i", "destination cannot read"): "its disk is written, not read",
    ("NBD", "destination cannot lock"): "NBD has no locks",
    ("NBD", "disk full"): "the server has the disk",
    ("raw", "destination cannot read"): "there is nothing in it to read",
    ("read-only", "destination cannot read"): "there is nothing in it to read",
    ("read-only", "disk full"): "nothing is written to it",
}


def cells() -> list[object]:
    """All of the matrix; one of each fault, with each row in turn, beside the targets' tests and the others in the soak."""
    found: list[object] = []
    for at, fault in enumerate(FAULTS):
        possible = [row for row in ROWS if (row, fault) not in NOT_POSSIBLE]
        for row in possible:
            for paused in (False, True):
                chosen = row == possible[at % len(possible)] and paused == bool(at & 1)
                marks = [pytest.mark.every_target if chosen else pytest.mark.soak]
                if row == "NBD":
                    marks.append(needs_qemu_nbd)
                found.append(
                    pytest.param(row, fault, paused, marks=marks, id=f"{row}-{fault}-{'paused' if paused else 'running'}")
                )
    return found


@pytest.mark.parametrize(("row", "fault", "paused"), cells())
def test_guest_and_disks_are_in_one_place_after(row: str, fault: str, paused: bool, tmp_path: Path) -> None:
    with cell(tmp_path, row, paused=paused) as found:
        FAULTS[fault](found)
