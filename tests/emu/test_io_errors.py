"""A guest whose host fails it: it is paused, kept, moved, saved, and goes on without a write that is lost or done twice."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from emu.config import DriveConfig, MachineConfig
from emu.errors import MigrationError
from emu.ioerror import IoStatus
from emu.machine import Machine
from emu.runstate import RunState
from images import bundled
from images.journal import read_journal
from migration.protocols import Pause
from migration.status import Status
from migration.vmstate import Wire
from targets import find_target
from tests.devices.fakes import MemoryChardev
from tests.emu.block.qcow2.tools import CLEAN, check, create, needs_qemu_img
from tests.live.machines import WAIT, wait_for

MIB = 1 << 20
UUID = "00000000-0000-0000-0000-000000000000"


class Host:
    """Where the images are: it fails writes when it is told to, or lets them wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = 0  # errno
        self.after = 0  # writes that go well before
        self.times = -1  # for ever
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()
        self.done: list[int] = []  # offsets of writes
        self._pwritev = os.pwritev
        monkeypatch.setattr(os, "pwritev", self._write)

    def _write(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        if not self.gate.is_set():
            self.waits.set()
            self.gate.wait(WAIT)
        if self.fails and self.after == 0:
            code, self.times = self.fails, self.times - 1
            self.fails = 0 if self.times == 0 else code
            raise OSError(code, os.strerror(code))
        self.after -= self.after > 0
        self.done.append(offset)
        return self._pwritev(fd, buffers, offset)


class Side:
    """A machine with a tiny guest, its console, and the events that it told."""

    def __init__(self, config: MachineConfig, *, incoming: bool = False, blank: bool = False) -> None:
        self.console = MemoryChardev()
        self.machine = Machine(config, find_target(config.target), self.console, incoming=incoming, blank=blank)
        self._closed = False
        self.events: list[tuple[str, Mapping[str, Wire]]] = []
        self.machine.events.subscribe(lambda name, data: self.events.append((name, data)))

    @property
    def told(self) -> list[str]:
        return [name for name, _data in self.events]

    @property
    def io_status(self) -> IoStatus:
        return self.machine.io_status("disk")

    def type(self, line: str) -> None:
        self.machine.call(lambda: self.console.feed(line.encode() + b"\n"))

    def prints(self, text: str) -> None:
        wait_for(lambda: text.encode() in self.console.output, f"{text!r} in {self.console.output[-200:]!r}")

    def becomes(self, state: RunState) -> None:
        wait_for(lambda: self.machine.state is state, f"{state}, not {self.machine.state}")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.machine.close()

    def move(self, there: Side, folder: Path) -> Status:
        self.machine.migrations.migrate(there.machine.migrations.incoming(f"unix:{folder / 'move'}"))
        self.machine.migrations.wait_over(WAIT)
        there.machine.migrations.wait_over(WAIT)
        return self.machine.migrations.status


Start = Callable[..., Side]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    return path


@pytest.fixture
def start(tmp_path: Path, disk: Path, host: Host) -> Iterator[Start]:
    """Starts machines with the disk: start(incoming=, blank=, icount=, **drive)."""
    with ExitStack() as keep:
        kernel = keep.enter_context(bundled("riscv64-tiny").kernel())

        def begin(*, incoming: bool = False, blank: bool = False, icount: bool = False, **drive: object) -> Side:
            config = MachineConfig(
                target="riscv64",
                memory=16 * MIB,
                kernel=kernel,
                drives=(replace(DriveConfig(path=disk, id="disk", savevm="copy"), **drive),),  # type: ignore[arg-type]
                icount=icount,
                uuid=UUID,
                snapshots=tmp_path / "snapshots",
            )
            side = Side(config, incoming=incoming, blank=blank)
            keep.callback(side.close)
            if not incoming and not blank:
                side.machine.cont()
                side.prints("tiny> ")
            return side

        yield begin
        host.fails = 0
        host.gate.set()


def fill_up(side: Side, host: Host, *, after: int = 3) -> None:
    """Let the guest write its journal until the host has no room."""
    host.fails, host.after = errno.ENOSPC, after
    side.type("blk journal 6")
    side.becomes(RunState.IO_ERROR)


def assert_whole(disk: Path, records: int = 6) -> None:
    report = read_journal(disk)
    assert report.intact, report
    assert report.records == records


def test_a_guest_without_room_is_paused_and_cont_tries_again(start: Start, host: Host, disk: Path) -> None:
    side = start()
    side.events.clear()
    fill_up(side, host)
    stopped = (side.told.copy(), side.io_status)
    side.events.clear()

    side.machine.cont()
    side.becomes(RunState.IO_ERROR)
    again = side.told.copy()
    host.fails = 0
    side.machine.cont()
    side.prints("journal done 6")

    assert stopped == (["BLOCK_IO_ERROR", "STOP"], IoStatus.NOSPACE)
    assert again == ["RESUME", "BLOCK_IO_ERROR", "STOP"]
    assert side.io_status is IoStatus.OK
    assert_whole(disk)


def test_an_error_that_is_reported_pauses_nobody(start: Start, host: Host) -> None:
    side = start(werror="report")
    host.fails = errno.ENOSPC

    side.type("blk write 5 77")
    wait_for(lambda: "BLOCK_IO_ERROR" in side.told, "the event")

    assert side.events[-1][1]["action"] == "report"
    assert side.machine.running


def test_a_paused_guest_is_moved_with_what_waits(start: Start, host: Host, disk: Path, tmp_path: Path) -> None:
    here = start()
    fill_up(here, host)
    there = start(incoming=True)

    assert here.move(there, tmp_path) is Status.COMPLETED
    states = (here.machine.state, there.machine.state, there.io_status)
    host.fails = 0
    there.machine.cont()
    there.prints("journal done 6")

    assert states == (RunState.POSTMIGRATE, RunState.IO_ERROR, IoStatus.NOSPACE)
    assert_whole(disk)
    assert sorted(set(host.done)) == sorted(host.done)


def drain_fails(side: Side, host: Host, hold: Callable[[], object]) -> threading.Thread:
    """Have `hold` called while a write is under way that fails, once, when the guest stands still already."""
    busy, draining = side.machine.board.busy, threading.Event()

    def notice(within: float) -> Sequence[str]:
        draining.set()
        return busy(within)

    side.machine.board.busy = notice  # type: ignore[method-assign]  # as seen from outside
    host.gate.clear()
    side.type("blk journal 6")
    assert host.waits.wait(WAIT)
    thread = threading.Thread(target=hold)
    thread.start()
    assert draining.wait(WAIT)
    host.fails, host.times = errno.EIO, 1
    host.gate.set()
    return thread


def test_a_request_that_fails_as_the_guest_is_held_is_carried_out_where_it_goes_on(
    start: Start, host: Host, disk: Path, tmp_path: Path
) -> None:
    here, there = start(werror="stop"), start(incoming=True)

    drain_fails(here, host, lambda: here.move(there, tmp_path)).join(WAIT)
    there.prints("journal done 6")

    assert here.machine.state is RunState.POSTMIGRATE
    assert here.told[-2:] == ["BLOCK_IO_ERROR", "STOP"]
    assert_whole(disk)


def test_a_request_that_fails_as_the_guest_is_held_is_carried_out_at_the_end_of_that(
    start: Start, host: Host, disk: Path
) -> None:
    side = start(werror="stop")

    drain_fails(side, host, lambda: side.machine.hold(Pause.SAVE_VM)).join(WAIT)
    held = (side.machine.state, side.io_status, host.fails)
    side.machine.release(run=True)
    side.prints("journal done 6")

    assert held == (RunState.SAVE_VM, IoStatus.FAILED, 0)
    assert_whole(disk)


def test_a_host_that_does_not_answer_fails_the_move_and_nothing_else(
    start: Start, host: Host, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emu.machine.HOST_WITHIN", 0.05)
    here, there, later = start(), start(incoming=True), start(incoming=True)
    host.gate.clear()
    here.type("blk journal 6")
    assert host.waits.wait(WAIT)

    failed = here.move(there, tmp_path)
    error, state = here.machine.migrations.error, here.machine.state
    host.gate.set()
    here.prints("journal done 6")
    moved = here.move(later, tmp_path)

    assert (failed, state) == (Status.FAILED, RunState.RUNNING)
    assert error == (
        "the guest can be neither saved nor moved: the host has not carried out what it was asked by virtio-blk:disk within 0 s"
    )
    assert moved is Status.COMPLETED
    assert_whole(disk)
    assert sorted(set(host.done)) == sorted(host.done)


def test_a_request_that_fails_while_the_guest_is_paused_leaves_it_so(start: Start, host: Host, disk: Path) -> None:
    side = start()
    host.gate.clear()
    side.type("blk journal 6")
    assert host.waits.wait(WAIT)
    side.machine.stop()
    host.fails = errno.ENOSPC
    host.gate.set()
    wait_for(lambda: side.io_status is IoStatus.NOSPACE, "the error")
    state = side.machine.call(lambda: side.machine.state)
    host.fails = 0

    side.machine.cont()
    side.prints("journal done 6")

    assert state is RunState.PAUSED
    assert_whole(disk)


def test_what_waits_is_in_a_snapshot(start: Start, host: Host, disk: Path) -> None:
    side = start()
    fill_up(side, host)
    host.fails = 0
    side.machine.savevm("full")
    state = side.machine.state
    side.machine.cont()
    side.prints("journal done 6")
    side.close()
    fresh = start(blank=True)

    fresh.machine.loadvm("full")
    waits = fresh.io_status
    fresh.machine.cont()
    fresh.prints("journal done 6")

    assert (state, waits) == (RunState.IO_ERROR, IoStatus.NOSPACE)
    assert_whole(disk)


def test_a_guest_that_is_loaded_in_place_of_one_that_waits_is_paused(start: Start, host: Host) -> None:
    side = start()
    side.machine.savevm("well")
    fill_up(side, host)
    host.fails = 0

    side.machine.loadvm("well")

    assert (side.machine.state, side.io_status) == (RunState.PAUSED, IoStatus.OK)


def test_a_reset_forgets_what_waits(start: Start, host: Host, disk: Path) -> None:
    side = start()
    fill_up(side, host)
    host.fails = 0

    side.machine.reset()
    after = (side.machine.state, side.io_status)
    side.machine.cont()
    side.type("blk journal 6")
    side.prints("journal done")

    assert after == (RunState.PAUSED, IoStatus.OK)
    assert_whole(disk, read_journal(disk).records)


@needs_qemu_img
def test_a_full_disk_that_cannot_be_let_go_fails_the_migration(start: Start, host: Host, disk: Path, tmp_path: Path) -> None:
    disk.unlink()
    create(disk, MIB)
    here, there = start(savevm="inside"), start(incoming=True, savevm="inside")
    fill_up(here, host, after=0)
    here.machine.drives[0][1].discard(0, 65536)  # metadata that waits for room

    failed = here.move(there, tmp_path)
    state = here.machine.state
    host.fails = 0
    here.machine.cont()
    here.prints("journal done 6")
    here.machine.stop()
    here.machine.set_disks_active(active=False)

    assert (failed, state) == (Status.FAILED, RunState.IO_ERROR)
    assert check(disk) == CLEAN


@pytest.mark.parametrize("fails_after", [0, 4])
def test_a_counted_run_is_none_the_different_for_an_error_that_was_put_right(
    start: Start, host: Host, disk: Path, tmp_path: Path, fails_after: int
) -> None:
    ends = []
    for fails in (False, True):
        disk.write_bytes(bytes(MIB))
        side = start(icount=True, blank=True)
        side.machine.reset()
        side.machine.stop_at(120_000_000)
        side.type("info\nblk write 5 77\nblk journal 6\nmem churn 40 1000 1")
        host.fails, host.after = (errno.ENOSPC, fails_after) if fails else (0, 0)
        side.machine.cont()
        if fails:
            side.becomes(RunState.IO_ERROR)
            host.fails = 0
            side.machine.cont()
        side.becomes(RunState.PAUSED)
        side.machine.savevm("end")
        ends.append((side.console.output, (tmp_path / "snapshots/end.emu").read_bytes()))
        side.close()

    same = ends[0] == ends[1]
    assert b"journal done 6" in ends[0][0]
    assert same


def test_a_hold_of_a_guest_without_disks_of_its_own_is_refused_as_ever(start: Start, host: Host) -> None:
    side = start()
    fill_up(side, host)
    side.machine.set_disks_active(active=False)

    with pytest.raises(MigrationError, match="while its disks belong to another process"):
        side.machine.hold(Pause.FINISH_MIGRATE)

    assert side.machine.state is RunState.IO_ERROR
