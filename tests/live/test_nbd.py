"""A guest whose disk is an NBD server's, and moves with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.journal import read_journal
from tests.emu.block.nbd.server import needs_qemu_nbd, qemu_nbd
from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for
from tests.live.test_handover import RECORDS, stop_journal

pytestmark = needs_qemu_nbd


@pytest.fixture
def export(disk: Path, tmp_path: Path) -> Iterator[str]:
    """The disk at a server that takes both sides of a move, and keeps nothing to itself."""
    with qemu_nbd(disk, tmp_path / "nbd", "--cache=none", "--aio=threads", clients=2) as uri:
        yield uri


def begin(folder: Path, name: str, *options: str) -> EmuProcess:
    return EmuProcess(folder, name, "riscv64-tiny", "--memory", "16M", *options)


def test_a_guest_on_an_nbd_disk_moves_with_its_journal(export: str, disk: Path, tmp_path: Path) -> None:
    drive, far = ("--drive", f"{export},format=raw"), tmp_path / "far"
    with contextlib.ExitStack() as machines:
        source = machines.enter_context(contextlib.closing(begin(tmp_path, "source", *drive)))
        destination = machines.enter_context(
            contextlib.closing(begin(tmp_path, "destination", *drive, "--incoming", f"unix:{far}"))
        )
        source.console.expect(PROMPT, WAIT)
        source.console.send_line(f"blk journal {RECORDS}")
        source.console.expect(r"journal 3\r", WAIT)
        wait_for(far.exists, "the destination listens")

        assert source.migrate(f"unix:{far}")["status"] == "completed"

        assert "NBD has no locks" in source.errors
        acknowledged = stop_journal(destination.console)
        report = read_journal(disk)
        assert report.intact, report
        assert report.records >= acknowledged


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
