"""Run states of a whole machine, with a guest of a few instructions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from emu.board import BoardDevice
from emu.config import DriveConfig, MachineConfig, ShareConfig
from emu.device import Device
from emu.errors import ConfigError, EmuError, ImageError, MigrationError
from emu.machine import Machine
from emu.runstate import TRANSITIONS, RunState, RunStateError, check_transition
from migration.protocols import Pause
from migration.vmstate import State, Wire
from targets import find_target
from tests.devices.fakes import MemoryChardev

MIB = 1 << 20
SPIN = bytes.fromhex("6f000000")  # j .
# lui x5, 0x100; lui x6, 0x5; addi x6, x6, 0x555; sw x6, 0(x5); j .   (test device: PASS)
POWER_OFF = bytes.fromhex("b7021000 37530000 13035355 23a06200 6f000000")
# lui x5, 0x100; lui x6, 0x7; addi x6, x6, 0x777; sw x6, 0(x5); j .   (test device: RESET)
RESET = bytes.fromhex("b7021000 37730000 13037377 23a06200 6f000000")

WAIT = 10
Build = Callable[..., Machine]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds machines whose kernel is `code`."""
    machines: list[Machine] = []

    def begin(
        code: bytes = SPIN,
        *,
        incoming: bool = False,
        drives: tuple[DriveConfig, ...] = (),
        shares: tuple[ShareConfig, ...] = (),
    ) -> Machine:
        (tmp_path / "kernel").write_bytes(code)
        config = MachineConfig(
            target="riscv64",
            memory=16 * MIB,
            kernel=tmp_path / "kernel",
            drives=drives,
            shares=shares,
            snapshots=tmp_path / "snapshots",
        )
        machines.append(Machine(config, find_target("riscv64"), MemoryChardev(), incoming=incoming))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


@pytest.fixture
def drive(tmp_path: Path) -> DriveConfig:
    (tmp_path / "disk").write_bytes(bytes(4096))
    return DriveConfig(path=tmp_path / "disk", id="drive0")


def events_of(machine: Machine) -> list[str]:
    heard: list[str] = []

    def listen(name: str, _data: Mapping[str, Wire]) -> None:
        heard.append(name)

    machine.events.subscribe(listen)
    return heard


def test_a_machine_is_built_stopped_and_runs_when_told(build: Build) -> None:
    machine = build()
    heard = events_of(machine)
    assert machine.state is RunState.PRELAUNCH

    machine.cont()
    machine.stop()
    machine.stop()

    assert machine.state is RunState.PAUSED
    assert heard == ["RESUME", "STOP"]


def test_guest_time_stands_still_while_stopped(build: Build) -> None:
    machine = build()
    machine.cont()
    machine.stop()
    first = machine.call(machine._clock.now)
    assert first > 0
    assert machine.call(machine._clock.now) == first


def test_a_guest_that_switches_itself_off_ends_the_machine(build: Build) -> None:
    machine = build(POWER_OFF)
    heard = events_of(machine)

    machine.cont()

    assert machine.over.wait(WAIT)
    assert machine.state is RunState.SHUTDOWN
    assert machine.exit_code == 0
    assert heard == ["RESUME", "SHUTDOWN"]


def test_a_guest_can_reset_itself(build: Build) -> None:
    machine = build(RESET)
    resets = []
    machine.events.subscribe(lambda name, data: resets.append((name, data)) if name == "RESET" else None)

    machine.cont()
    while len(resets) < 3:
        machine.call(lambda: None)
    machine.stop()

    assert resets[0] == ("RESET", {"guest": True})


def test_reset_of_a_guest_that_is_off_makes_it_ready_to_run_again(build: Build) -> None:
    machine = build(POWER_OFF)
    machine.cont()
    assert machine.over.wait(WAIT)

    machine.reset()

    assert machine.state is RunState.PAUSED


def test_a_hold_ends_where_it_began(build: Build) -> None:
    machine = build()
    assert machine.hold(Pause.SAVE_VM) is False
    machine.release(run=False)
    assert machine.state is RunState.PRELAUNCH

    machine.cont()
    assert machine.hold(Pause.SAVE_VM) is True
    assert machine.state is RunState.SAVE_VM
    machine.release(run=True)

    assert machine.state is RunState.RUNNING


def test_cont_during_a_switchover_says_that_it_is_not_finalised(build: Build) -> None:
    machine = build()
    machine.cont()
    machine.hold(Pause.FINISH_MIGRATE)

    with pytest.raises(MigrationError, match="not finalised yet"):
        machine.cont()

    machine.release(run=True)


def test_cont_before_a_guest_came_in_says_so(build: Build) -> None:
    machine = build(incoming=True)
    with pytest.raises(MigrationError, match="no guest has come in yet"):
        machine.cont()


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


def broken() -> None:
    raise RuntimeError("a bug in a device")


def test_a_bug_in_a_device_is_an_internal_error_and_the_process_lives(build: Build) -> None:
    machine = build()

    machine.cont()
    machine._vcpu.post(broken)
    machine.call(lambda: None)

    assert machine.state is RunState.INTERNAL_ERROR
    machine.reset()
    machine.cont()
    assert machine.running


def test_a_bug_while_the_guest_is_stopped_is_an_internal_error_as_well(build: Build) -> None:
    machine = build()

    machine._vcpu.post(broken)

    assert machine.call(lambda: machine.state) is RunState.INTERNAL_ERROR


def test_a_bug_is_logged_once_with_its_traceback(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    machine = build()

    machine._vcpu.post(broken)
    machine.call(lambda: None)

    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a bug in a device"


def test_a_guest_that_failed_as_it_was_held_does_not_run_on(build: Build) -> None:
    machine = build()
    heard = events_of(machine)
    machine.cont()
    machine._vcpu.post(broken)

    ran = machine.hold(Pause.SAVE_VM)
    machine.release(run=ran)

    assert not ran
    assert machine.state is RunState.INTERNAL_ERROR
    assert heard == ["RESUME", "STOP"]


def test_a_machine_that_fails_while_it_is_held_does_not_run_on(build: Build) -> None:
    machine = build()
    machine.cont()
    ran = machine.hold(Pause.SAVE_VM)
    machine._vcpu.post(broken)
    machine.call(lambda: None)

    machine.release(run=ran)

    assert ran
    assert machine.state is RunState.INTERNAL_ERROR


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


@pytest.mark.parametrize("old", list(RunState))
def test_every_step_that_is_not_in_the_table_is_refused_naming_both_ends(old: RunState) -> None:
    for new in set(RunState) - TRANSITIONS[old]:
        with pytest.raises(RunStateError, match=f"is {old}, it cannot go to {new}"):
            check_transition(old, new)


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
