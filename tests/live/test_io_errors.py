"""A host that really fails: the kernel refuses a process's writes past a size, whoever runs it."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import cast

from emu.block.lock import try_lock
from images.journal import read_journal
from migration.vmstate import Wire
from tests.live.conftest import DISK_SIZE, Start
from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for

SECTOR = 512


def limit_file_size(machine: EmuProcess, size: int) -> None:
    """What the process may write of a file, in bytes from its start."""
    _soft, hard = resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def io_status(machine: EmuProcess) -> Wire:
    (drive,) = cast("list[dict[str, Wire]]", machine.qmp("query-block"))
    return drive["io-status"]


def test_a_guest_whose_disk_fails_moves_and_loses_nothing(start: Start, disk: Path, tmp_path: Path) -> None:
    retry = f"{disk},id=disk,werror=stop"
    here = start("here", "--drive", retry)
    there = start("there", "--drive", retry, "--incoming", f"unix:{tmp_path / 'far'}")
    here.console.expect(PROMPT, WAIT)
    limit_file_size(here, 20 * SECTOR)
    here.console.send_line("blk journal 30")
    here.wait_status("io-error")
    failed = io_status(here)
    written = read_journal(disk).records

    wait_for((tmp_path / "far").exists, "the destination listens")
    answer = here.migrate(f"unix:{tmp_path / 'far'}")
    arrived = (there.status, io_status(there))
    there.qmp("cont")
    there.console.expect("journal done 30", WAIT)

    assert failed == "failed"
    assert 0 < written < 30
    assert answer["status"] == "completed", answer
    assert arrived == ("io-error", "failed")
    assert read_journal(disk).intact
    assert read_journal(disk).records == 30


def test_a_disk_whose_end_is_gone_stops_the_guest_until_it_is_back(start: Start, disk: Path) -> None:
    machine = start("guest", "--drive", f"{disk},id=disk,rerror=stop")
    machine.console.expect(PROMPT, WAIT)
    machine.console.send_line("blk write 40 77")
    machine.console.expect(PROMPT, WAIT)
    with disk.open("r+b") as file:
        file.truncate(16 * SECTOR)
    machine.console.send_line("blk read 40")
    machine.wait_status("io-error")

    with disk.open("r+b") as file:
        file.truncate(DISK_SIZE)
    machine.qmp("cont")
    machine.console.expect(PROMPT, WAIT)

    assert io_status(machine) == "ok"
    with disk.open("r+b") as file:
        assert not try_lock(file.fileno(), exclusive=True)
