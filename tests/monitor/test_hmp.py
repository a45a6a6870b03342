"""What people type, and the texts they get."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from emu.errors import MigrationError
from emu.ioerror import IoStatus
from emu.monitor.command import Context
from emu.monitor.hmp import complete, run_line
from emu.monitor.text import show_snapshots
from migration.manager import Migrations
from migration.protocols import Step
from migration.status import Status
from migration.vmstate import Wire
from tests.migration.fakes import DISK_SIZE, FakeMovedDisk, pair
from tests.monitor.fakes import UUID, FakeMachine

Run = Callable[[str], str]
NO_SIZE = "Invalid size 1x, must be a number with a unit B, K, M, G, T, P or E behind it if you like"
WAIT = 10  # seconds; only a hang takes so long


@pytest.fixture
def run(ctx: Context) -> Run:
    return lambda line: asyncio.run(run_line(ctx, line))


@pytest.fixture
def there(machine: FakeMachine, tmp_path: Path) -> Migrations:
    """A machine that waits at `tmp_path/m.sock` for the guest of `machine`."""
    machine.guest, guest = pair()
    machine.disks = machine.guest.disks
    machine.migrations = Migrations(machine.guest)
    destination = Migrations(guest)
    destination.incoming(f"unix:{tmp_path / 'm.sock'}")
    return destination


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("running", "VM status: running"),
        ("paused", "VM status: paused"),
        ("postmigrate", "VM status: paused (postmigrate)"),
        ("inmigrate", "VM status: paused (inmigrate)"),
    ],
)
def test_info_status_is_qemus_line(run: Run, machine: FakeMachine, state: str, text: str) -> None:
    machine.guest.state = state
    assert run("info status") == text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("info name", "guest"),
        ("info uuid", UUID),
        ("info clock", "guest time: 1500000010 ns"),
        ("info snapshots", "There is no snapshot available."),
        ("info migrate", ""),
        ("info qtree", "bus: main-system-bus\n  type System\n  dev: cpu0\n  dev: serial@10000000"),
        (
            "info migrate_parameters",
            "max-bandwidth: 0 bytes/second\ndowntime-limit: 300 ms\navail-switchover-bandwidth: 0 bytes/second",
        ),
        ("help stop", "stop|s -- stop emulation"),
        ("help s", "stop|s -- stop emulation"),
        (
            "help migrate",
            "migrate [-d] [-b] [-i] uri -- migrate to URI (-d: do not wait, -b: with disks, -i: what differs from base files)",
        ),
        ("help info name", "info name -- show the current VM name"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_a_line_gives_its_text(run: Run, line: str, text: str) -> None:
    assert run(line) == text


def test_info_block_shows_file_format_and_ownership(run: Run, machine: FakeMachine, tmp_path: Path) -> None:
    owned = run("info block")
    machine.disks.inactivate()
    let_go = run("info block")

    assert owned == f"drive0: {tmp_path}/disk.raw (raw)\n    Cache mode:       writeback"
    assert let_go == f"drive0: {tmp_path}/disk.raw (raw, inactive)\n    Cache mode:       writeback"


def test_info_block_shows_that_requests_failed(run: Run, machine: FakeMachine) -> None:
    machine.io_statuses["drive0"] = IoStatus.FAILED

    assert run("info block").endswith("writeback\n    I/O status:       failed")


def test_info_registers_shows_four_to_a_line(run: Run) -> None:
    assert run("info registers").splitlines() == [
        "CPU#0",
        " pc       0000000080000000 x1/ra    0000000000000001 x2/sp    0000000000000002 x3/gp    0000000000000003",
        " x4/tp    ffffffffffffffff",
    ]


def test_info_mtree_is_in_order_of_address(run: Run) -> None:
    assert run("info mtree").splitlines()[2:] == [
        "    0000000010000000-00000000100000ff (prio 0, i/o): serial@10000000",
        "    0000000080000000-0000000080000fff (prio 0, ram): ram",
    ]


def test_info_cpus_names_the_host_thread(run: Run) -> None:
    label, thread = run("info cpus").split("=")
    assert label == "* CPU #0: thread_id"
    assert int(thread) > 0


def test_help_and_info_alone_list_what_there_is(run: Run) -> None:
    assert {"cont|c -- resume emulation", "info uuid -- show the current VM UUID"} <= set(run("help").splitlines())
    assert run("info") == run("help info")
    assert all(line.startswith("info ") for line in run("info").splitlines())


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("stop", "stop"),
        ("s", "stop"),
        ("c", "cont"),
        ("cont", "cont"),
        ("system_reset", "reset"),
        ("system_powerdown", "power_down"),
        ("stop_at 1500000020", "stop_at 1500000020"),
        ("stop_at", "stop_at None"),
    ],
)
def test_an_order_reaches_the_machine_and_says_nothing(run: Run, machine: FakeMachine, line: str, call: str) -> None:
    assert (run(line), machine.calls) == ("", [call])


@pytest.mark.parametrize(("state", "code"), [("running", 0), ("postmigrate", 3)])
def test_quit_ends_the_process_and_tells_whether_the_guest_is_elsewhere(
    run: Run, machine: FakeMachine, exit_codes: list[int], state: str, code: int
) -> None:
    machine.guest.state = state
    assert run("q") == ""
    assert exit_codes == [code]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("foo", "Error: unknown command 'foo', 'help' lists the commands"),
        ("info foo", "Error: unknown command 'info foo', 'help' lists the commands"),
        ("help foo", "Error: unknown command 'foo', 'help' lists the commands"),
        ("loadvm", "Error: tag is missing, usage: loadvm tag"),
        ("savevm a b", "Error: extraneous characters at the end of line, usage: savevm [tag]"),
        ("stop now", "Error: extraneous characters at the end of line, usage: stop|s"),
        ("migrate", "Error: uri is missing, usage: migrate [-d] [-b] [-i] uri"),
        ("migrate -d", "Error: uri is missing, usage: migrate [-d] [-b] [-i] uri"),
        ("migrate pigeon:x", "Error: migration URI 'pigeon:x' is none of tcp:…, unix:…, exec:…, fd:…, file:…"),
        ("migrate_continue foo", "Error: Parameter 'state' does not accept value 'foo'"),
        ("migrate_incoming tcp:0:1", "Error: '--incoming' was not specified on the command line: the machine is running"),
        ("migrate_set_capability events maybe", "Error: state is 'maybe', must be 'on' or 'off'"),
        ("stop_at soon", "Error: time is 'soon', must be a whole number"),
        ("migrate_set_parameter max-bandwidth 1x", f"Error: {NO_SIZE}"),
        ("migrate_set_parameter downtime-limit 2M", "Error: parameter downtime-limit is '2M', must be a whole number"),
        ("migrate_set_parameter downtime-limit 2000001", "Error: parameter downtime-limit is 2000001, must be 0..2000000"),
        ('savevm "a', "Error: No closing quotation"),
        ("savevm a\0", "Error: Parameter 'tag' holds a NUL or a lone surrogate, which no name or path can"),
    ],
)  # fmt: skip  # a line for each case
def test_what_cannot_be_done_is_one_line(run: Run, line: str, text: str) -> None:
    assert run(line) == text


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (MigrationError("no\nroom"), "Error: no room"),
        (OSError(28, "No space left on device"), "Error: [Errno 28] No space left on device"),
        (ZeroDivisionError("a bug"), "Error: internal error: ZeroDivisionError, the log has more"),
    ],
)
def test_a_command_that_fails_is_one_line_without_a_traceback(
    run: Run, machine: FakeMachine, failure: Exception, text: str
) -> None:
    machine.fails = failure
    assert run("stop") == text


def test_a_capability_is_set_and_shown(run: Run) -> None:
    assert run("migrate_set_capability pause-before-switchover on") == ""
    assert run("info migrate_capabilities").splitlines()[2] == "pause-before-switchover: on"


def test_a_snapshot_without_a_tag_has_the_time_of_day_as_its_name(run: Run, ctx: Context) -> None:
    assert run("savevm") == ""
    (saved,) = ctx.machine.snapshots.list()
    assert re.fullmatch(r"vm-20\d{12}", saved.tag)


def test_bandwidth_without_a_unit_is_mib_as_in_qemu(run: Run, machine: FakeMachine) -> None:
    assert run("migrate_set_parameter max-bandwidth 3") == ""
    assert machine.migrations.parameters.max_bandwidth == 3 << 20


def test_a_snapshot_is_saved_listed_loaded_and_deleted(run: Run, machine: FakeMachine) -> None:
    machine.guest.devices[0].state.value = 5
    saved = run("savevm boot")
    machine.guest.devices[0].state.value = 6
    listed = run("info snapshots").splitlines()
    loaded = run("loadvm boot")

    assert (saved, loaded, machine.guest.devices[0].state.value) == ("", "", 5)
    assert listed[1].split() == ["ID", "TAG", "VM", "SIZE", "DATE", "VM", "CLOCK", "ICOUNT"]
    assert listed[2].startswith("--        boot")
    assert len(listed[2]) == len(listed[1])
    assert run("delvm boot") == ""
    assert run("loadvm boot").startswith("Error: there is no snapshot 'boot'")


def test_migrate_waits_shows_progress_and_reports(ctx: Context, there: Migrations, tmp_path: Path) -> None:
    shown: list[Mapping[str, Wire]] = []

    text = asyncio.run(run_line(ctx, f"migrate unix:{tmp_path / 'm.sock'}", progress=shown.append))

    lines = text.splitlines()
    assert there.wait_over(WAIT)
    assert lines[0] == "Migration status: completed"
    assert [line.split(":")[0] for line in lines[1:4]] == ["total time", "downtime", "setup"]
    assert "page size: 4 kbytes" in lines
    assert shown[-1]["status"] == "completed"


@pytest.mark.parametrize("flag", ["-b", "-i"])
def test_migrate_with_disks_tells_their_numbers(flag: str, run: Run, machine: FakeMachine, tmp_path: Path) -> None:
    machine.guest.moved = [FakeMovedDisk()]

    told = run(f"migrate {flag} file:{tmp_path / 'stream'}")

    assert f"remaining disk: 0 kbytes\ntotal disk: {DISK_SIZE >> 10} kbytes" in told


def test_migrate_detached_says_nothing_and_goes_on(run: Run, machine: FakeMachine, tmp_path: Path) -> None:
    assert run(f"migrate -d file:{tmp_path / 'stream'}") == ""
    assert machine.migrations.wait_over(WAIT)
    assert machine.migrations.status is Status.COMPLETED


def test_migrate_that_fails_says_why(run: Run, tmp_path: Path) -> None:
    text = run(f"migrate unix:{tmp_path}/nobody")
    assert text.startswith("Error: the migration was not completed: ")
    assert "No such file" in text


def test_migrate_gives_the_monitor_back_in_pre_switchover(run: Run, there: Migrations, tmp_path: Path) -> None:
    run("migrate_set_capability pause-before-switchover on")

    held = run(f"migrate unix:{tmp_path / 'm.sock'}")
    gone_on = run("migrate_continue pre-switchover")

    assert held.splitlines()[0] == "Migration status: pre-switchover"
    assert gone_on == ""
    assert there.wait_over(WAIT)
    assert there.status is Status.COMPLETED


def test_waiting_for_a_migration_leaves_the_event_loop_free(ctx: Context, tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def gate(step: Step) -> None:
        if step is Step.CONNECTED:
            reached.set()
            assert go_on.wait(WAIT)

    ctx.machine.migrations = Migrations(ctx.machine.guest, hook=gate)

    async def scenario() -> tuple[str, str, str]:
        migrate = asyncio.create_task(run_line(ctx, f"migrate file:{tmp_path / 'stream'}"))
        assert await asyncio.to_thread(reached.wait, WAIT)
        meanwhile = await run_line(ctx, "info migrate")
        cancelled = await run_line(ctx, "migrate_cancel")
        go_on.set()
        return meanwhile, cancelled, await migrate

    meanwhile, cancelled, text = asyncio.run(scenario())
    assert meanwhile.startswith("Migration status: setup")
    assert (cancelled, text) == ("", "Error: the migration was not completed: cancelled")


def test_what_forbids_a_migration_is_shown(run: Run, machine: FakeMachine) -> None:
    machine.guest.reasons.append("The share is mounted.")
    assert run("info migrate") == "Outgoing migration blocked:\n  The share is mounted."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inf", ["info"]),
        ("info m", ["migrate", "migrate_capabilities", "migrate_parameters", "mtree"]),
        ("help sys", ["system_powerdown", "system_reset"]),
        ("help info na", ["name"]),
        ("migrate_set_capability pa", ["pause-before-switchover"]),
        ("migrate_set_capability events ", ["off", "on"]),
        ("migrate_set_parameter down", ["downtime-limit"]),
        ("migrate_continue ", ["pre-switchover"]),
        ("migrate ", ["-b", "-d", "-i"]),
        ("migrate -d ", ["-b", "-i"]),
        ("loadvm ", ["boot", "later"]),
        ("delvm b", ["boot"]),
        ("loadvm boot ", []),
        ("stop ", []),
        ("nonsense ", []),
    ],
)
def test_completion_offers_what_may_stand_there(ctx: Context, text: str, words: list[str]) -> None:
    ctx.machine.savevm("boot")
    ctx.machine.savevm("later")
    assert complete(ctx, text) == words


def test_completion_of_nothing_offers_every_first_word_once(ctx: Context) -> None:
    words = complete(ctx, "")
    assert {"cont", "help", "info", "migrate", "savevm"} <= set(words)
    assert words.count("info") == 1


def test_snapshots_that_only_one_drive_has_are_shown_apart() -> None:
    whole = {
        "tag": "boot",
        "vm-state-size": 3 << 20,
        "date-sec": 0,
        "date-nsec": 0,
        "vm-clock-sec": 3723,
        "vm-clock-nsec": 4 * 10**6,
    }
    torn = {"tag": "torn", "vm-state-size": 0, "date-sec": 0, "date-nsec": 0, "vm-clock-sec": 0, "vm-clock-nsec": 0}

    lines = show_snapshots([whole, torn | {"node-name": "drive1", "id": "7"}]).splitlines()

    assert lines[0] == "List of snapshots present on all disks:"
    assert (lines[2].split()[1:4], lines[2].split()[-1]) == (["boot", "3", "MiB"], "01:02:03.004")
    assert lines[4] == "List of partial (non-loadable) snapshots on 'drive1':"
    assert lines[6].split()[:2] == ["7", "torn"]
