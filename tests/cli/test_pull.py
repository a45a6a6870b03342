"""`emu pull`: a running guest comes here with all it has, or stays where it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from emu.cli.pull import read_configuration, with_own_images
from emu.config import DriveConfig, MachineConfig, ShareConfig
from emu.errors import ConfigError, MigrationError
from emu.monitor.command import Context
from emu.monitor.hardware import configuration
from images.journal import read_journal
from migration.vmstate import Wire
from tests.cli.terminals import Terminal
from tests.cli.test_run import emu
from tests.live.machines import PROMPT, WAIT, EmuProcess


@pytest.fixture
def keep() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def box(keep: ExitStack, tmp_path: Path, disk: Path) -> EmuProcess:
    """A guest with a disk and something in its RAM."""
    box = EmuProcess(tmp_path, "box", "riscv64-tiny", "--memory", "32M", "--drive", str(disk))
    keep.callback(box.close)
    box.console.expect(PROMPT, WAIT)
    box.console.send_line("mem fill 3")
    box.console.expect("mem filled", WAIT)
    return box


def test_the_guest_comes_to_this_terminal_and_its_process_ends_with_3(box: EmuProcess, keep: ExitStack, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "pull", "box")
    keep.callback(terminal.close)
    terminal.expect(r"completed \S+ .*downtime \d+ ms")
    terminal.expect("the guest's console is here")
    left_with = box.wait_exit()
    (listed,) = json.loads(emu(tmp_path, "ls", "--json").stdout)
    terminal.type("mem check 3\r")
    terminal.expect(r"mem ok \d+")
    terminal.type("blk journal 2\r")
    terminal.expect("journal done 2")
    terminal.type("off\r")

    assert left_with == 3
    assert (listed["name"], listed["pid"], listed["status"]) == ("box", terminal.process.pid, "running")
    assert terminal.wait_exit() == 0
    assert terminal.settings == terminal.found


def test_progress_is_a_line_where_there_is_no_terminal(box: EmuProcess, tmp_path: Path) -> None:
    done = emu(tmp_path, "pull", "box", stdin="mem check 3\noff\n")

    assert done.returncode == 0
    assert "mem ok" in done.stdout
    assert done.stderr.startswith("completed: ")
    assert box.wait_exit() == 3


def test_a_guest_comes_with_what_its_disk_holds(box: EmuProcess, disk: Path, tmp_path: Path) -> None:
    box.console.send_line("blk journal 2")
    box.console.expect("journal done 2", WAIT)
    own = tmp_path / "own.raw"
    own.write_bytes(b"stale" * 1000 + bytes((1 << 20) - 5000))

    done = emu(tmp_path, "pull", "box", "-b", "--drive", f"{own},format=raw", stdin="blk journal 1\noff\n")

    assert done.returncode == 0
    assert box.wait_exit() == 3
    assert (read_journal(disk).records, read_journal(own).records) == (2, 3)


def test_a_guest_that_cannot_be_moved_runs_on_where_it_is(box: EmuProcess, tmp_path: Path) -> None:
    box.qmp("migrate", uri="exec:sleep 100")

    done = emu(tmp_path, "pull", "box")

    assert done.returncode == 1
    assert done.stderr == (
        f"emu: error: box cannot be pulled: there is a migration under way already, in status {done.stderr.rsplit(' ', 1)[1]}"
    )
    box.qmp("migrate_cancel")
    box.wait_migration()
    assert box.status == "running"


def test_a_guest_with_an_unusable_disk_stays_where_it_is(box: EmuProcess, disk: Path, tmp_path: Path) -> None:
    disk.unlink()

    done = emu(tmp_path, "pull", "box")
    box.console.send_line("tick 1")
    box.console.expect("tick 1\r\ntiny> ", WAIT)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(disk) in done.stderr
    assert box.status == "running"


def test_a_guest_whose_disk_is_the_same_here_stays_where_it_is(box: EmuProcess, disk: Path, tmp_path: Path) -> None:
    done = emu(tmp_path, "pull", "box", "-b", "--drive", f"{disk},format=raw")

    assert done.returncode == 1
    assert "need images of their own on each side" in done.stderr
    assert box.status == "running"


CONFIG = MachineConfig(
    target="riscv64",
    kernel=Path("/boot/Image"),
    drives=(DriveConfig(path="/a.img", id="a", readonly=True), DriveConfig(path="/b.img", id="b")),
    shares=(ShareConfig(path=Path("/c"), tag="host0", readonly=True, security="mapped"),),
    snapshots=Path("/snapshots"),
)


def wire() -> dict[str, Wire]:
    plain = configuration(cast(Context, SimpleNamespace(machine=SimpleNamespace(config=CONFIG))))
    return cast("dict[str, Wire]", plain)


def test_images_take_the_place_of_disks_by_their_ids() -> None:
    config = with_own_images(CONFIG, ["/own.qcow2,id=b,format=qcow2"], copied=True)

    assert config.drives == (CONFIG.drives[0], replace(CONFIG.drives[1], path=Path("/own.qcow2"), format="qcow2"))


@pytest.mark.parametrize(
    ("drives", "copied", "told"),
    [
        ([], True, "drive 'b' can be written and needs an image of its own here: --drive FILE,id=b"),
        (["/own"], True, "drive 'b' can be written and needs an image"),
        (["/own,id=b", "/other,id=c"], True, "the guest has no drive 'c', it has a, b"),
        (["/own,id=b"], False, "--drive is for -b and -i"),
    ],
)
def test_images_that_do_not_fit_the_guest_are_told(drives: list[str], copied: bool, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        with_own_images(CONFIG, drives, copied=copied)


def test_a_configuration_comes_back_as_it_was() -> None:
    assert read_configuration(json.loads(json.dumps(wire()))) == CONFIG


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"memory": "64M"}, "machine.memory is '64M'"),
        ({"memory": True}, "machine.memory is True"),
        ({"drives": [{"path": "/a"}]}, "machine.drives[0]: the running guest's emu and this one differ in"),
        ({"turbo": 1}, "differ in turbo"),
        ({"kernel": 3}, "machine.kernel is 3"),
    ],
)
def test_another_versions_configuration_is_told(change: dict[str, Wire], told: str) -> None:
    with pytest.raises(MigrationError) as caught:
        read_configuration(wire() | change)
    assert told in str(caught.value)


def test_what_is_no_configuration_is_told() -> None:
    with pytest.raises(MigrationError, match=r"machine is \[\]"):
        read_configuration([])


def test_a_drive_is_found_from_any_working_directory() -> None:
    assert DriveConfig(path="disk.img", id="a").absolute().path == str(Path.cwd() / "disk.img")
    assert DriveConfig(path="nbd://host/disk", id="a").absolute().path == "nbd://host/disk"
