"""Run states of a whole machine, with a guest of a few instructions."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from emu.errors import MigrationError
from emu.machine import Machine
from emu.runstate import TRANSITIONS, RunState, RunStateError, check_transition
from migration.protocols import Pause
from migration.vmstate import Wire
from tests.emu.conftest import Build

# lui x5, 0x100; lui x6, 0x5; addi x6, x6, 0x555; sw x6, 0(x5); j .   (test device: PASS)
POWER_OFF = bytes.fromhex("b7021000 37530000 13035355 23a06200 6f000000")
# lui x5, 0x100; lui x6, 0x7; addi x6, x6, 0x777; sw x6, 0(x5); j .   (test device: RESET)
RESET = bytes.fromhex("b7021000 37730000 13037377 23a06200 6f000000")

WAIT = 10


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


@pytest.mark.parametrize("old", list(RunState))
def test_every_step_that_is_not_in_the_table_is_refused_naming_both_ends(old: RunState) -> None:
    for new in set(RunState) - TRANSITIONS[old]:
        with pytest.raises(RunStateError, match=f"is {old}, it cannot go to {new}"):
            check_transition(old, new)
