"""Cancelling a migration in every state it can be in."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from migration.manager import Migrations
from migration.protocols import Step
from migration.status import TRANSITIONS, UNDER_WAY, Status
from tests.migration.fakes import pair
from tests.migration.hooks import WAIT, Gate, cancel_at, uri_of


@pytest.mark.parametrize(
    ("step", "status"),
    [
        (Step.CONNECTED, Status.SETUP),
        (Step.FIRST_ROUND_SENT, Status.ACTIVE),
        (Step.DISKS_LET_GO, Status.DEVICE),
        (Step.READY_HEARD, Status.DEVICE),
    ],
)
def test_cancel_undoes_a_migration_in(step: Step, status: Status, tmp_path: Path) -> None:
    here, there = pair()
    gate = Gate(step)
    source, destination = Migrations(here, hook=gate), Migrations(there)
    source.migrate(destination.incoming(uri_of("unix", tmp_path)))
    assert gate.reached.wait(WAIT)
    assert source.status is status

    cancel_at(gate, source, destination)

    assert source.status is Status.CANCELLED
    assert here.running
    assert here.disks.active
    assert not there.running


def test_cancel_in_pre_switchover_lets_the_guest_run_again(tmp_path: Path) -> None:
    here, there = pair()
    seen = threading.Event()
    source = Migrations(here, on_status=lambda status: seen.set() if status is Status.PRE_SWITCHOVER else None)
    source.capabilities.pause_before_switchover = True
    destination = Migrations(there)
    source.migrate(destination.incoming(uri_of("unix", tmp_path)))
    assert seen.wait(WAIT)
    assert not here.running
    assert here.disks.active

    source.cancel()

    assert source.wait_over(WAIT)
    assert source.status is Status.CANCELLED
    assert here.running


@pytest.mark.parametrize("status", [Status.NONE, Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_cancel_changes_nothing_in(status: Status) -> None:
    here, _there = pair()
    migrations = Migrations(here)
    migrations._status._status = status

    migrations.cancel()

    assert migrations.status is status


def test_cancel_after_go_is_too_late(tmp_path: Path) -> None:
    here, there = pair()
    gate = Gate(Step.GO_SENT)
    source, destination = Migrations(here, hook=gate), Migrations(there)
    source.migrate(destination.incoming(uri_of("unix", tmp_path)))
    assert gate.reached.wait(WAIT)

    source.cancel()
    gate.go_on.set()

    assert source.wait_over(WAIT)
    assert source.status is Status.COMPLETED
    assert there.running
    assert not here.running


def test_cancel_is_decided_for_every_status() -> None:
    undone = {Status.SETUP, Status.ACTIVE, Status.PRE_SWITCHOVER, Status.DEVICE}
    already = {Status.CANCELLING, Status.FAILING}
    unchanged = {Status.NONE, Status.COMPLETED, Status.CANCELLED, Status.FAILED}
    assert undone | already | unchanged == set(Status)
    assert undone | already == UNDER_WAY
    assert all(Status.CANCELLING in TRANSITIONS[status] for status in undone)
