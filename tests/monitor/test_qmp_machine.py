"""The machine, its drives and its snapshots over QMP, asked by QEMU's own client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError
from qemu.qmp.legacy import QEMUMonitorProtocol

from emu.config import DriveConfig
from emu.errors import MigrationError
from emu.ioerror import IoStatus
from emu.monitor.command import Context
from emu.monitor.jobs import MAX_JOBS
from emu.monitor.qmp import QmpServer
from emu.runstate import RunStateError
from tests.monitor.clients import WAIT, RawClient, events, job_statuses
from tests.monitor.fakes import UUID, FakeMachine

DISK = {"vmstate": "drive0", "devices": ["drive0"]}
DONE = ["created", "running", "waiting", "pending", "concluded"]
FAILED = ["created", "running", "aborting", "concluded"]


def test_stop_and_cont_change_the_state_and_tell_every_client(qmp: QEMUMonitorProtocol, server: QmpServer) -> None:
    other = RawClient(server)
    stopped = (qmp.cmd("stop"), qmp.cmd("query-status"))
    running = (qmp.cmd("cont"), qmp.cmd("query-status"))

    assert stopped == ({}, {"status": "paused", "running": False})
    assert running == ({}, {"status": "running", "running": True})
    assert events(qmp, 2) == [("STOP", None), ("RESUME", None)]
    assert other.receive() == {"event": "STOP", "timestamp": {"seconds": 1234567890, "microseconds": 987654}}


def test_system_reset_and_powerdown_reach_the_machine(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    answers = [qmp.cmd("system_reset"), qmp.cmd("system_powerdown")]
    assert (answers, machine.calls) == ([{}, {}], ["reset", "power_down"])
    assert [name for name, _data in events(qmp, 3)] == ["RESET", "POWERDOWN", "SHUTDOWN"]


def test_what_the_machine_is_can_be_asked(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    assert qmp.cmd("query-target") == {"arch": "riscv64"}
    assert qmp.cmd("query-version")["qemu"]["major"] == 10
    assert qmp.cmd("query-cpus-fast")[0]["target"] == "riscv64"
    assert qmp.cmd("x-emu-query-process")["started-at"] == 1_700_000_000
    machine.config = type(machine.config)(target="arm64")
    assert qmp.cmd("query-target") == {"arch": "aarch64"}
    assert qmp.cmd("query-name") == {}


def test_query_commands_lists_what_can_be_executed_and_nothing_of_hmp(qmp: QEMUMonitorProtocol) -> None:
    names = {entry["name"] for entry in qmp.cmd("query-commands")}
    assert {"migrate", "query-status", "snapshot-save", "x-emu-configuration"} <= names
    assert not {"savevm", "help", "info registers"} & names


def test_a_command_of_hmp_alone_is_not_found(qmp: QEMUMonitorProtocol) -> None:
    with pytest.raises(ExecuteError, match="The command savevm has not been found"):
        qmp.cmd("savevm", tag="a")


def test_a_failure_is_a_generic_error_and_a_bug_is_named_as_one(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    machine.fails = MigrationError("no room")
    refused = qmp.cmd_raw("stop")
    machine.fails = ZeroDivisionError("a bug")
    broken = qmp.cmd_raw("stop")

    assert refused["error"] == {"class": "GenericError", "desc": "no room"}
    assert broken["error"] == {"class": "GenericError", "desc": "internal error: ZeroDivisionError, the log has more"}


def test_human_monitor_command_gives_hmps_text(qmp: QEMUMonitorProtocol) -> None:
    assert qmp.cmd("human-monitor-command", **{"command-line": "info status"}) == "VM status: running"
    assert qmp.cmd("human-monitor-command", **{"command-line": "foo"}).startswith("Error: unknown command 'foo'")
    with pytest.raises(ExecuteError, match="cpu-index is 7, this machine has CPU 0 alone"):
        qmp.cmd("human-monitor-command", **{"command-line": "stop", "cpu-index": 7})


def test_the_configuration_is_complete_and_its_paths_absolute(qmp: QEMUMonitorProtocol, tmp_path: Path) -> None:
    drive = {"path": str(tmp_path / "disk.raw"), "format": "", "id": "drive0", "readonly": False, "serial": ""}

    configuration = qmp.cmd("x-emu-configuration")

    assert configuration["kernel"] == str(tmp_path / "Image")
    assert configuration["snapshots"] == str(Path.cwd() / "snapshots")
    assert drive.items() <= configuration["drives"][0].items()
    assert (configuration["initrd"], configuration["memory"], configuration["uuid"]) == (None, 256 << 20, UUID)


def test_query_block_tells_who_owns_a_drive(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    owned = qmp.cmd("query-block")
    machine.disks.inactivate()
    let_go = qmp.cmd("query-block")

    assert owned[0]["device"] == "drive0"
    assert owned[0]["inserted"]["image"]["virtual-size"] == 1 << 20
    assert [answer[0]["inserted"]["active"] for answer in (owned, let_go)] == [True, False]


def test_query_block_tells_of_errors_where_they_may_stop_the_guest(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    reports = DriveConfig(path=Path("b"), id="b", werror="report")
    machine.drives += FakeMachine(Path(), machine.guest, reports).drives
    machine.io_statuses["drive0"] = IoStatus.NOSPACE

    stops, reports = qmp.cmd("query-block")

    assert stops["io-status"] == "nospace"
    assert "io-status" not in reports


def test_drives_are_let_go_and_taken_back(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    qmp.cmd("blockdev-set-active", active=False)
    qmp.cmd("blockdev-set-active", active=True, **{"node-name": "drive0"})

    assert machine.calls == ["set_disks_active False", "set_disks_active True"]


def test_drives_that_cannot_be_let_go_stay(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    machine.fails = RunStateError("the machine is running and needs its drives")
    with pytest.raises(ExecuteError, match="the machine is running and needs its drives"):
        qmp.cmd("blockdev-set-active", active=False)
    assert machine.disks.active


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"active": False, "node-name": "x"}, "Cannot find device='' nor node-name='x'"),
        ({}, "Parameter 'active' is missing"),
    ],
)
def test_which_drives_to_let_go_must_be_told(
    qmp: QEMUMonitorProtocol, machine: FakeMachine, arguments: dict[str, object], text: str
) -> None:
    with pytest.raises(ExecuteError, match=text):
        qmp.cmd("blockdev-set-active", **arguments)
    assert machine.calls == []


def test_one_of_several_drives_cannot_change_its_owner_alone(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    machine.drives += FakeMachine(Path(), machine.guest, DriveConfig(path="b", id="b")).drives
    with pytest.raises(ExecuteError, match="drive 'b' shares its owner with the 1 others"):
        qmp.cmd("blockdev-set-active", active=False, **{"node-name": "b"})


def test_a_snapshot_job_runs_concludes_and_is_dismissed(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    answer = qmp.cmd("snapshot-save", **{"job-id": "save0", "tag": "boot"}, **DISK)
    statuses = job_statuses(qmp, len(DONE))
    listed = qmp.cmd("query-jobs")
    qmp.cmd("job-dismiss", id="save0")

    assert (answer, statuses) == ({}, DONE)
    assert listed == [
        {"id": "save0", "type": "snapshot-save", "status": "concluded", "current-progress": 1, "total-progress": 1}
    ]
    assert (job_statuses(qmp, 1), qmp.cmd("query-jobs")) == (["null"], [])
    assert machine.snapshots.path("boot").is_file()


def test_snapshots_are_loaded_and_deleted_by_jobs(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    machine.savevm("boot")
    qmp.cmd("snapshot-load", **{"job-id": "load0", "tag": "boot"}, **DISK)
    loaded = job_statuses(qmp, len(DONE))
    qmp.cmd("snapshot-delete", **{"job-id": "delete0", "tag": "boot", "devices": ["drive0"]})
    deleted = job_statuses(qmp, len(DONE))

    assert (loaded, deleted) == (DONE, DONE)
    assert machine.calls == ["savevm boot", "loadvm boot", "delvm boot"]
    assert qmp.cmd("x-emu-query-snapshots") == []


def test_a_job_tells_how_far_it_is(qmp: QEMUMonitorProtocol, ctx: Context) -> None:
    half, go_on = threading.Event(), threading.Event()

    def work(on_progress: Callable[[int, int], None]) -> None:
        on_progress(30, 100)
        half.set()
        go_on.wait(WAIT)

    ctx.jobs.start("job", "snapshot-save", work)
    assert half.wait(WAIT)
    under_way = qmp.cmd("query-jobs")[0]
    go_on.set()
    job_statuses(qmp, len(DONE))
    over = qmp.cmd("query-jobs")[0]

    assert (under_way["status"], under_way["current-progress"], under_way["total-progress"]) == ("running", 30, 100)
    assert (over["status"], over["current-progress"], over["total-progress"]) == ("concluded", 100, 100)


def test_a_snapshot_job_takes_no_tag_that_is_there(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    machine.savevm("boot")
    qmp.cmd("snapshot-save", **{"job-id": "save0", "tag": "boot"}, **DISK)
    assert job_statuses(qmp, len(FAILED)) == FAILED
    assert qmp.cmd("query-jobs")[0]["error"].startswith("Snapshot 'boot' already exists in")


def test_a_job_that_fails_says_why(qmp: QEMUMonitorProtocol) -> None:
    qmp.cmd("snapshot-load", **{"job-id": "load0", "tag": "nix"}, **DISK)
    statuses = job_statuses(qmp, len(FAILED))
    assert statuses == FAILED
    assert qmp.cmd("query-jobs")[0]["error"].startswith("there is no snapshot 'nix'")


def test_a_job_that_meets_a_bug_concludes_too(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    machine.fails = ZeroDivisionError("a bug")
    qmp.cmd("snapshot-save", **{"job-id": "save0", "tag": "a"})
    assert job_statuses(qmp, len(FAILED)) == FAILED
    assert qmp.cmd("query-jobs")[0]["error"] == "internal error: ZeroDivisionError, the log has more"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"job-id": "1", "tag": "a"}, "Invalid job ID '1'"),
        ({"job-id": "a", "tag": "a", "vmstate": "x"}, "nor node-name='x'"),
        ({"job-id": "a", "tag": "a", "devices": ["x"]}, "nor node-name='x'"),
        ({"job-id": "a", "tag": "a", "devices": [1]}, "expected: array of string"),
        ({"job-id": "a", "tag": "a", "devices": []}, "'devices' leaves out drive0: a snapshot covers every writable drive"),
        ({"tag": "a"}, "Parameter 'job-id' is missing"),
    ],
)
def test_a_job_that_cannot_start_leaves_no_trace(qmp: QEMUMonitorProtocol, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ExecuteError, match=text):
        qmp.cmd("snapshot-save", **arguments)
    assert qmp.cmd("query-jobs") == []


def test_a_job_is_dismissed_only_when_concluded_and_its_name_is_its_own(qmp: QEMUMonitorProtocol, ctx: Context) -> None:
    go_on = threading.Event()
    ctx.jobs.start("job", "snapshot-save", lambda _progress: go_on.wait(WAIT))
    with pytest.raises(ExecuteError, match="cannot accept command verb 'dismiss'"):
        qmp.cmd("job-dismiss", id="job")
    with pytest.raises(ExecuteError, match="Job ID 'job' already in use"):
        qmp.cmd("snapshot-save", **{"job-id": "job", "tag": "a"})
    with pytest.raises(ExecuteError, match="Job not found"):
        qmp.cmd("job-dismiss", id="other")
    go_on.set()


def test_jobs_that_nobody_dismisses_are_bounded(qmp: QEMUMonitorProtocol, ctx: Context) -> None:
    for number in range(MAX_JOBS):
        ctx.jobs.start(f"job{number}", "snapshot-save", lambda _progress: None)
    with pytest.raises(ExecuteError, match=f"there are {MAX_JOBS} jobs"):
        qmp.cmd("snapshot-save", **{"job-id": "more", "tag": "a"})
