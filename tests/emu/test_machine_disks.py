"""What a machine holds beside RAM: its disks and whose they are, its snapshots, its shares, and what forbids saving."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from emu.board import BoardDevice
from emu.config import DriveConfig, ShareConfig
from emu.device import Device
from emu.errors import ConfigError, EmuError, ImageError, MigrationError
from emu.runstate import RunState, RunStateError
from migration.protocols import Pause
from migration.status import Status
from migration.vmstate import State
from tests.emu.conftest import MIB, Build
from tests.emu.test_machine import WAIT
from tests.live.machines import wait_for


def test_an_incoming_machine_owns_no_disk(build: Build, drive: DriveConfig) -> None:
    owner = build(drives=(drive,))
    waiting = build(incoming=True, drives=(drive,))
    assert owner.disks.active
    assert not waiting.disks.active
    with pytest.raises(MigrationError, match="while a migration is under way"):
        waiting.savevm("tag")


def test_two_machines_cannot_own_one_disk(build: Build, drive: DriveConfig) -> None:
    build(drives=(drive,))
    with pytest.raises(ImageError, match="is in use by this process"):
        build(drives=(drive,))


def test_a_disk_without_locking_is_warned_of_and_owned_by_nobody_alone(
    build: Build, drive: DriveConfig, caplog: pytest.LogCaptureFixture
) -> None:
    build(drives=(drive,))

    second = build(drives=(replace(drive, locking=False),))
    second.set_disks_active(active=False)

    assert "drive drive0:" in caplog.text
    assert "is not locked, nothing keeps two guests from destroying it" in caplog.text
    with pytest.raises(ImageError, match="is in use by this process"):  # the first one's lock is still there
        build(drives=(drive,))


def test_a_machine_that_could_not_be_built_owns_no_disk(build: Build, drive: DriveConfig, tmp_path: Path) -> None:
    with pytest.raises(EmuError):
        build(bytes(32 * MIB), drives=(drive,))

    assert build(drives=(drive,)).disks.active
    assert (tmp_path / "disk").exists()


def test_a_guest_that_moved_away_is_not_reset(build: Build, drive: DriveConfig) -> None:
    machine = build(drives=(drive,))
    machine.hold(Pause.FINISH_MIGRATE)
    machine.disks.inactivate()
    machine.moved_away()
    with pytest.raises(RunStateError, match="its disks are another process's"):
        machine.reset()


def test_disks_are_let_go_drained_and_taken_back(build: Build, drive: DriveConfig) -> None:
    machine = build(drives=(drive,))
    drained = []
    machine.board.drain = lambda: drained.append(machine.disks.active)  # type: ignore[method-assign]  # as seen from outside

    machine.set_disks_active(active=False)
    machine.set_disks_active(active=False)
    owner = build(drives=(drive,))
    with pytest.raises(ImageError, match="is in use by this process"):
        machine.set_disks_active(active=True)
    owner.set_disks_active(active=False)
    machine.set_disks_active(active=True)

    assert drained[0] is True
    assert machine.disks.active


@pytest.mark.parametrize("why", list(Pause))
def test_disks_stay_while_the_guest_runs_or_is_held(build: Build, drive: DriveConfig, why: Pause) -> None:
    machine = build(drives=(drive,))
    machine.cont()
    with pytest.raises(RunStateError, match="the machine is running and needs its drives"):
        machine.set_disks_active(active=False)

    ran = machine.hold(why)
    with pytest.raises(RunStateError, match=f"the machine is {why} and needs its drives"):
        machine.set_disks_active(active=False)

    assert machine.disks.active
    machine.release(run=ran)


def test_disks_stay_with_whom_a_migration_says(build: Build, drive: DriveConfig) -> None:
    machine = build(drives=(drive,))
    machine.migrations.migrate("exec:sleep 100")

    with pytest.raises(MigrationError, match=r"a migration is in status .* and decides who owns the drives"):
        machine.set_disks_active(active=False)

    assert machine.disks.active


def test_a_disk_takes_its_jobs_writes_in_pre_switchover_and_none_later(
    build: Build, drive: DriveConfig, tmp_path: Path
) -> None:
    machine = build(drives=(drive,))
    disk = machine.drives[0][1]
    machine.migrations.capabilities.pause_before_switchover = True
    machine.migrations.migrate(f"file:{tmp_path / 'guest'}")
    wait_for(lambda: machine.migrations.status is Status.PRE_SWITCHOVER, "pre-switchover")

    disk.writev(0, [b"the end of a job"])
    machine.migrations.proceed(Status.PRE_SWITCHOVER)
    machine.migrations.wait_over(10)

    assert machine.migrations.status is Status.COMPLETED
    with pytest.raises(ImageError, match="is inactive, refused to write"):
        disk.writev(0, [b"too late"])


def test_a_cont_that_comes_while_the_disks_are_let_go_takes_them_back_before_the_guest_runs(
    build: Build, drive: DriveConfig
) -> None:
    machine = build(drives=(drive,))
    late = threading.Thread(target=machine.cont)

    def drain() -> None:
        late.start()
        late.join(0.1)  # as long as it would take if nothing held it up

    machine.board.drain = drain  # type: ignore[method-assign]  # strikes in the middle
    machine.set_disks_active(active=False)
    late.join(WAIT)

    assert machine.running
    assert machine.disks.active
    machine.board.drain = lambda: None  # type: ignore[method-assign]  # the thread has been started


@pytest.mark.parametrize("why", list(Pause))
def test_a_guest_whose_disks_were_let_go_is_not_held_for_whoever_looked_before(
    build: Build, drive: DriveConfig, why: Pause
) -> None:
    machine = build(drives=(drive,))
    machine.set_disks_active(active=False)

    with pytest.raises(MigrationError, match=f"cannot go to {why} while its disks belong to another process"):
        machine.hold(why)

    assert machine.state is RunState.PRELAUNCH


def test_a_snapshot_comes_back(build: Build) -> None:
    machine = build()
    machine.cont()
    machine.savevm("one")
    machine.stop()
    ram = machine.ram_blocks()[0]
    ram.view[:4] = b"gone"

    machine.loadvm("one")

    assert bytes(ram.view[:4]) == bytes(4)
    assert machine.state is RunState.PAUSED
    machine.delvm("one")
    with pytest.raises(MigrationError, match="no snapshot 'one'"):
        machine.loadvm("one")


class Forgetful(Device[State]):
    """A device whose state nobody has declared."""

    UNMIGRATABLE = "The oracle keeps its secrets: start the machine without it."


def test_a_device_without_a_state_forbids_saving_and_moving(build: Build) -> None:
    machine = build()
    assert machine.blocked_reasons() == []

    cast("list[BoardDevice]", machine.board.devices).append(cast(BoardDevice, Forgetful("oracle")))

    assert machine.blocked_reasons() == [Forgetful.UNMIGRATABLE]


def test_what_blocks_since_it_was_asked_is_seen_when_the_guest_is_held(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = build()
    machine.cont()
    monkeypatch.setattr(machine.board, "drain", lambda: machine.blockers.add("The share is mounted."))

    with pytest.raises(MigrationError, match=r"neither saved nor moved: The share is mounted\."):
        machine.savevm("one")

    assert machine.state is RunState.RUNNING
    assert machine.snapshots.list() == []


def test_shares_lie_between_drives_and_entropy_and_are_compared(build: Build, drive: DriveConfig, tmp_path: Path) -> None:
    shares = (ShareConfig(path=tmp_path, tag="one", readonly=True), ShareConfig(path=tmp_path, tag="two", security="mapped"))

    machine = build(drives=(drive,), shares=shares)

    virtio = [
        device.name for device in machine.board.devices if device.name.startswith("virtio-") and "mmio" not in device.name
    ]
    assert virtio == ["virtio-blk:drive0", "virtio-9p:one", "virtio-9p:two", "virtio-rng"]
    assert machine.configuration()["shares"] == {
        "one": {"readonly": True, "security": "none"},
        "two": {"readonly": False, "security": "mapped"},
    }
    assert "shares" not in build().configuration()


def test_a_share_that_cannot_be_opened_and_too_many_are_told(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        build(shares=(ShareConfig(path=tmp_path / "none", tag="host0"),))
    with pytest.raises(ConfigError, match="9 virtio devices are asked for, the board has 8 slots"):
        build(shares=tuple(ShareConfig(path=tmp_path, tag=f"host{number}") for number in range(8)))
