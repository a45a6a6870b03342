"""The migrate family over QMP, ordered by QEMU's own client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError
from qemu.qmp.legacy import QEMUMonitorProtocol

from migration.manager import Migrations
from migration.status import Status
from tests.migration.fakes import pair
from tests.monitor.clients import WAIT, events
from tests.monitor.fakes import FakeMachine


@pytest.fixture
def there(machine: FakeMachine) -> Migrations:
    """A machine that a guest can be moved to."""
    machine.guest, guest = pair()
    machine.disks = machine.guest.disks
    machine.migrations = Migrations(machine.guest, on_status=machine._migration_status)
    return Migrations(guest)


def switch_on(qmp: QEMUMonitorProtocol, *names: str) -> None:
    qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])


def test_a_migration_is_told_step_by_step(qmp: QEMUMonitorProtocol, there: Migrations, tmp_path: Path) -> None:
    uri = there.incoming(f"unix:{tmp_path / 'm.sock'}")
    switch_on(qmp, "events")

    answer = qmp.cmd("migrate", uri=uri)

    steps = [data["status"] for _name, data in events(qmp, 4)]
    assert (answer, steps) == ({}, ["setup", "active", "device", "completed"])
    result = qmp.cmd("query-migrate")
    assert result["status"] == "completed"
    assert result["ram"]["page-size"] == 4096
    assert qmp.cmd("query-status") == {"status": "postmigrate", "running": False}


def test_a_migration_is_continued_from_pre_switchover(qmp: QEMUMonitorProtocol, there: Migrations, tmp_path: Path) -> None:
    uri = there.incoming(f"unix:{tmp_path / 'm.sock'}")
    switch_on(qmp, "events", "pause-before-switchover")
    qmp.cmd("migrate", uri=uri)
    before = [data["status"] for _name, data in events(qmp, 3)]

    qmp.cmd("migrate-continue", state="pre-switchover")

    after = [data["status"] for _name, data in events(qmp, 2)]
    assert (before, after) == (["setup", "active", "pre-switchover"], ["device", "completed"])


def test_a_migration_is_cancelled_and_cancelling_none_succeeds(
    qmp: QEMUMonitorProtocol, there: Migrations, tmp_path: Path
) -> None:
    uri = there.incoming(f"unix:{tmp_path / 'm.sock'}")
    switch_on(qmp, "events", "pause-before-switchover")
    none = qmp.cmd("migrate_cancel")
    qmp.cmd("migrate", uri=uri)
    events(qmp, 3)

    cancelled = qmp.cmd("migrate_cancel")

    assert (none, cancelled) == ({}, {})
    assert [data["status"] for _name, data in events(qmp, 2)] == ["cancelling", "cancelled"]
    assert qmp.cmd("query-status")["running"] is True


def test_a_guest_comes_in_where_query_migrate_says(qmp: QEMUMonitorProtocol, machine: FakeMachine, there: Migrations) -> None:
    there, machine.migrations = machine.migrations, there
    machine.guest.state = "inmigrate"
    qmp.cmd("migrate-incoming", uri="tcp:127.0.0.1:0", **{"exit-on-error": False})

    address = qmp.cmd("query-migrate")["socket-address"][0]
    machine.guest.state = "running"
    there.migrate(f"tcp:{address['host']}:{address['port']}")

    assert there.wait_over(WAIT)
    assert machine.migrations.wait_over(WAIT)
    assert (address["type"], qmp.cmd("query-migrate")["status"]) == ("inet", "completed")


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ({"transport": "file", "filename": "{folder}/stream"}, "completed"),
        ({"transport": "file", "filename": "{folder}/stream", "offset": 512}, "completed"),
        ({"transport": "exec", "args": ["/bin/sh", "-c", "cat > {folder}/stream"]}, "completed"),
        ({"transport": "exec", "args": ["dd", "status=none", "of={folder}/stream"]}, "completed"),
        ({"transport": "socket", "type": "unix", "path": "{folder}/nobody"}, "failed"),
        ({"transport": "socket", "type": "inet", "host": "::1", "port": "1"}, "failed"),
        ({"transport": "socket", "type": "fd", "str": "999999"}, "failed"),
    ],
)
def test_a_main_channel_is_as_good_as_a_uri(
    qmp: QEMUMonitorProtocol, machine: FakeMachine, tmp_path: Path, address: dict[str, object], status: str
) -> None:
    filled = json.loads(json.dumps(address).replace("{folder}", str(tmp_path)))
    qmp.cmd("migrate", channels=[{"channel-type": "main", "addr": filled}])
    assert machine.migrations.wait_over(WAIT)
    assert qmp.cmd("query-migrate")["status"] == status


def main(**address: object) -> dict[str, object]:
    return {"channel-type": "main", "addr": address}


FILE = main(transport="file", filename="x")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "exactly one of 'uri' and 'channels' must be given"),
        ({"uri": "file:x", "channels": [FILE]}, "exactly one of 'uri' and 'channels' must be given"),
        ({"uri": "file:x", "resume": True}, "there is nothing to resume"),
        ({"channels": []}, "'channels' must hold one channel"),
        ({"channels": [FILE, FILE]}, "'channels' must hold one channel"),
        ({"channels": [FILE | {"channel-type": "cpr"}]}, "'channels' must hold one channel"),
        ({"channels": [main(transport="rdma")]}, "transport 'rdma' is none of socket, exec, file"),
        ({"channels": [main(transport="socket", type="vsock")]}, "a socket's address must be"),
        ({"channels": [main(transport="exec", args=[])]}, "an exec address must be"),
        ({"channels": [main(transport="exec", args=[1])]}, "an exec address must be"),
        ({"channels": [main(transport="file")]}, "a file's address must be"),
        ({"channels": [main(transport="file", filename="a,offset=1")]}, "a file's address must be"),
        ({"uri": 1}, "Invalid parameter type for 'uri', expected: string"),
        ({"uri": "file:x", "block": True}, "Parameter 'block' is unexpected"),
    ],
)
def test_a_migration_that_cannot_start_is_refused(
    qmp: QEMUMonitorProtocol, machine: FakeMachine, arguments: dict[str, object], text: str
) -> None:
    with pytest.raises(ExecuteError, match=text):
        qmp.cmd("migrate", **arguments)
    assert machine.migrations.status is Status.NONE


def test_incoming_needs_a_machine_that_waits(qmp: QEMUMonitorProtocol) -> None:
    with pytest.raises(ExecuteError, match="'--incoming' was not specified on the command line: the machine is running"):
        qmp.cmd("migrate-incoming", uri="tcp:127.0.0.1:0")


def test_capabilities_are_set_all_or_none(qmp: QEMUMonitorProtocol) -> None:
    with pytest.raises(ExecuteError, match="capability 'nonsense' is unknown"):
        switch_on(qmp, "events", "nonsense")
    with pytest.raises(ExecuteError, match=r"expected: array of .capability: string, state: boolean"):
        qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "events"}])
    before = qmp.cmd("query-migrate-capabilities")
    switch_on(qmp, "events")
    after = qmp.cmd("query-migrate-capabilities")

    assert {"capability": "events", "state": False} in before
    assert {"capability": "events", "state": True} in after


def test_capabilities_stand_while_a_migration_is_under_way(qmp: QEMUMonitorProtocol, machine: FakeMachine) -> None:
    machine.migrations.incoming("tcp:127.0.0.1:0")
    with pytest.raises(ExecuteError, match="There's a migration process in progress"):
        switch_on(qmp, "events")
    machine.migrations.cancel()
    assert machine.migrations.wait_over(WAIT)


def test_parameters_are_set_all_or_none(qmp: QEMUMonitorProtocol) -> None:
    with pytest.raises(ExecuteError, match=r"parameter downtime-limit is -1, must be 0\.\.2000000"):
        qmp.cmd("migrate-set-parameters", **{"max-bandwidth": 5, "downtime-limit": -1})
    before = qmp.cmd("query-migrate-parameters")
    qmp.cmd("migrate-set-parameters", **{"max-bandwidth": 5, "downtime-limit": 100})
    after = qmp.cmd("query-migrate-parameters")

    assert (before["max-bandwidth"], after["max-bandwidth"], after["downtime-limit"]) == (0, 5, 100)
