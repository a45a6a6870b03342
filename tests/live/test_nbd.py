"""A guest whose disk is an NBD server's, and moves with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from images.journal import read_journal
from tests.emu.block.nbd.server import needs_qemu_nbd, qemu_nbd
from tests.live.machines import PROMPT, WAIT, EmuProcess
from tests.live.test_handover import RECORDS, stop_journal

pytestmark = needs_qemu_nbd


@pytest.fixture
def export(disk: Path, tmp_path: Path) -> Iterator[str]:
    """The disk at a server that takes both sides of a move, and keeps nothing to itself."""
    with qemu_nbd(disk, tmp_path / "nbd", "--cache=none", "--aio=threads", clients=2) as uri:
        yield uri


def begin(folder: Path, name: str, *options: str) -> EmuProcess:
    return EmuProcess(folder, name, "riscv64-tiny", "--memory", "16M", *options)


def test_a_guest_on_an_nbd_disk_moves_to_and_fro_with_its_journal(export: str, disk: Path, tmp_path: Path) -> None:
    drive = ("--drive", f"{export},format=raw")
    here = begin(tmp_path, "m0", *drive)
    machines = [here]
    try:
        here.console.expect(PROMPT, WAIT)
        here.console.send_line(f"blk journal {RECORDS}")
        for number in (1, 2):
            here.console.expect(r"journal \d+\r", WAIT)
            there = begin(tmp_path, f"m{number}", *drive, "--incoming", f"unix:{tmp_path / f'far{number}'}")
            machines.append(there)
            there.wait_status("inmigrate")
            answer = here.migrate(f"unix:{tmp_path / f'far{number}'}")
            assert answer["status"] == "completed", answer
            assert "NBD has no locks" in here.errors
            here.qmp("quit")
            here.wait_exit()
            here = there
        acknowledged = stop_journal(here.console)
        report = read_journal(disk)
        assert report.intact, report
        assert report.records >= acknowledged
    finally:
        for machine in machines:
            machine.close()


def test_a_guest_is_told_of_a_server_that_is_gone_and_goes_on_with_the_next(disk: Path, tmp_path: Path) -> None:
    with qemu_nbd(disk, tmp_path / "nbd") as uri:
        guest = begin(tmp_path, "guest", "--drive", f"{uri},format=raw")
        guest.console.expect(PROMPT, WAIT)
        guest.console.send_line("blk read 0")
        guest.console.expect(PROMPT, WAIT)
    try:
        guest.console.send_line("blk read 0")
        guest.console.expect(r"blk: (?s:.*)" + PROMPT, WAIT)
        assert "the NBD server cannot be reached" in guest.errors
        with qemu_nbd(disk, tmp_path / "nbd"):
            guest.console.send_line("blk journal 2")
            guest.console.expect("journal done", WAIT)
            assert read_journal(disk).records == 2
    finally:
        guest.close()
