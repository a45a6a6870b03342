"""Whoever does not own a disk writes nothing to it, not even at its end (QEMU's bug of 2016): the kernel is the witness."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emu.block import fallocate
from migration.protocols import Step
from tests.emu.block.qcow2.tools import create, needs_qemu_img
from tests.live.conftest import DISK_SIZE, Start
from tests.live.machines import PROMPT, WAIT, EmuProcess, Teller, wait_for
from tests.live.witness import Witness

End = Callable[[EmuProcess], object]

ENDS: dict[str, End] = {
    "SIGTERM": lambda machine: machine.process.send_signal(signal.SIGTERM),
    "quit": lambda machine: machine.qmp("quit"),
    "SIGKILL": lambda machine: machine.process.kill(),
}


def first_unmarked(values: Iterable[object], ids: Iterable[str]) -> list[object]:
    """Parameters, all but the first for soak alone."""
    return [
        pytest.param(value, id=name, marks=(pytest.mark.soak,) if number else ())
        for number, (value, name) in enumerate(zip(values, ids, strict=True))
    ]


ends = pytest.mark.parametrize("end", first_unmarked(ENDS.values(), ENDS))


@pytest.fixture
def watch() -> Iterator[Callable[[Path], Witness]]:
    """Has a disk's folder watched: watch(disk)."""
    with ExitStack() as stack:

        def begin(disk: Path) -> Witness:
            witness = Witness(disk.parent)
            stack.callback(witness.close)
            return witness

        yield begin


@pytest.fixture(params=[pytest.param("qcow2", marks=needs_qemu_img), pytest.param("raw", marks=pytest.mark.soak)])
def drive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty disk, in a folder of its own; a qcow2 one with its base."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "raw":
        with (folder / "disk.img").open("wb") as file:
            file.truncate(DISK_SIZE)
        return folder / "disk.img"
    base = create(folder / "base.qcow2", DISK_SIZE)
    return create(folder / "disk.qcow2", DISK_SIZE, backing=base)


def pair(
    start: Start, drive: Path, folder: Path, *, fault: tuple[Step, str] | None = None
) -> tuple[EmuProcess, EmuProcess, str]:
    """A guest that has written to its disk and is paused, a machine that waits for it, and where."""
    here = start("here", "--drive", str(drive))
    here.console.expect(PROMPT, WAIT)
    here.console.send_line("blk journal 40")
    here.console.expect("journal done 40", WAIT)
    here.qmp("stop")
    uri = f"unix:{folder / 'far'}"
    there = start("there", "--drive", str(drive), "--incoming", uri, fault=fault)
    wait_for((folder / "far").exists, "the destination listens")
    return here, there, uri


@ends
def test_a_machine_that_the_guest_left_writes_nothing_to_its_end(
    start: Start, drive: Path, tmp_path: Path, watch: Callable[[Path], Witness], end: End
) -> None:
    here, there, uri = pair(start, drive, tmp_path)
    assert here.migrate(uri)["status"] == "completed"
    witness = watch(drive)

    end(here)
    here.wait_exit()
    source_wrote = witness.changes()
    end(there)  # which owns the disk, and never ran the guest
    there.wait_exit()

    assert source_wrote == []
    assert witness.changes() == []


@pytest.mark.soak
@ends
def test_a_machine_that_waits_for_a_guest_writes_nothing_to_its_end(
    start: Start, drive: Path, tmp_path: Path, watch: Callable[[Path], Witness], end: End
) -> None:
    _here, there, _uri = pair(start, drive, tmp_path)
    witness = watch(drive)

    end(there)
    there.wait_exit()

    assert witness.changes() == []


@pytest.mark.parametrize("step", first_unmarked((Step.DISKS_TAKEN, Step.STATE_COMMITTED), ("taken", "not-taken")))
def test_a_move_that_fails_has_neither_side_write(
    start: Start, drive: Path, tmp_path: Path, watch: Callable[[Path], Witness], step: Step
) -> None:
    teller = Teller(tmp_path / "teller")
    here, there, uri = pair(start, drive, tmp_path, fault=(step, f"tell:{teller.path}"))
    here.qmp("migrate", uri=uri)
    teller.wait()
    witness = watch(drive)

    here.qmp("migrate_cancel")
    teller.go_on()
    ended, outcome = there.wait_exit(), here.wait_migration()["status"]
    after_the_move = witness.changes()
    here.qmp("quit")
    here.wait_exit()

    assert (ended, outcome) == (1, "cancelled")
    assert after_the_move == []
    assert witness.changes() == []


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda _path, fd: os.pwrite(fd, b"x", 5000), "modify"),
        (lambda _path, fd: fallocate.fallocate(fd, fallocate.PUNCH_HOLE, 0, 4096), "modify"),
        (lambda _path, fd: os.ftruncate(fd, 9000), "modify"),
        (lambda _path, fd: os.setxattr(fd, "user.owner", b"x"), "attrib"),
        (lambda path, _fd: path.with_name("sidecar").write_bytes(b""), "create"),
    ],
    ids=["write", "hole", "truncation", "attribute", "file"],
)
def test_the_witness_sees(
    tmp_path: Path, watch: Callable[[Path], Witness], change: Callable[[Path, int], object], seen: str
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file:
        witness = watch(path)
        change(path, file.fileno())

        assert any(told.startswith(seen) for told in witness.changes())
