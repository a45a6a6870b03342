"""SIGKILL at random moments: no corruption, and every flushed write is there."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from emu.block import fallocate
from emu.block.image import Image
from emu.block.qcow2.image import Qcow2Image
from emu.block.qcow2.snapshottable import About
from tests.emu.block.qcow2.tools import (
    CLEAN,
    KIB,
    SEED,
    check,
    content,
    create,
    needs_qemu_img,
    opened,
    qemu_img,
)

pytestmark = needs_qemu_img

SECTOR = 512
SIZE = 512 * KIB
ZERO = bytes(SECTOR)
STATE = 256 * KIB
STEPS = 2000  # far more than are done before the kill
FLUSHED = b"f"
DONE = b"."

Step = tuple[str, int, bytes]


def steps_of(seed: int) -> list[Step]:
    """What the process that is killed does, in order: kind, sector, data."""
    chance = random.Random(seed)
    steps: list[Step] = []
    for _ in range(STEPS):
        kind = chance.choices(("write", "zero", "discard", "flush"), (60, 15, 15, 10))[0]
        count = int(64 ** chance.random())
        sector = chance.randrange(SIZE // SECTOR - count)
        data = chance.randbytes(count * SECTOR) if kind == "write" else bytes(count * SECTOR)
        steps.append((kind, sector, data))
    return steps


def work(path: Path, steps: list[Step], report: int) -> None:
    image = opened(path)
    for step in steps:
        do(image, step)
        os.write(report, FLUSHED if step[0] == "flush" else DONE)


def do(image: Image, step: Step) -> None:
    kind, sector, data = step
    if kind == "write":
        image.writev(sector * SECTOR, [data])
    elif kind == "zero":
        image.write_zeroes(sector * SECTOR, len(data), unmap=bool(sector & 1))
    elif kind == "discard":
        image.discard(sector * SECTOR, len(data))
    else:
        image.flush()


def killed_after(work: Callable[[int], None], count: int) -> bytes:
    """Let another process work until it has done `count` steps, and kill it in a later one; the steps it reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(writer)
        finally:
            os._exit(1)
    os.close(writer)
    reported = b""
    while len(reported) < count and (more := os.read(reader, count - len(reported))):
        reported += more
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, reported
    while more := os.read(reader, 4096):
        reported += more
    os.close(reader)
    return reported


def allowed_after(before: bytes, steps: list[Step], reported: bytes) -> list[set[bytes]]:
    """What each sector may hold: what the last flush left, or any later step."""
    allowed = [{before[at : at + SECTOR]} for at in range(0, SIZE, SECTOR)]
    last = [before[at : at + SECTOR] for at in range(0, SIZE, SECTOR)]
    undecided: set[int] = set()  # sectors that were discarded: zero, or as they were
    for number, (kind, sector, data) in enumerate(steps[: len(reported) + 1]):
        if kind == "flush":
            if number < len(reported):
                for index, value in enumerate(last):
                    allowed[index] = allowed[index] | {ZERO} if index in undecided else {value}
            continue
        for index in range(sector, sector + len(data) // SECTOR):
            value = data[(index - sector) * SECTOR :][:SECTOR]
            allowed[index].add(value)
            if kind == "discard":
                undecided.add(index)
            else:
                undecided.discard(index)
                last[index] = value
    return allowed


def wrong_sectors(path: Path, allowed: list[set[bytes]]) -> list[int]:
    """Sectors that, as QEMU reads them, hold what they may not."""
    raw = path.with_suffix(".raw")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    data = raw.read_bytes()
    return [index for index, values in enumerate(allowed) if data[index * SECTOR : (index + 1) * SECTOR] not in values]


def crash(folder: Path, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    base = folder / "base"
    base.write_bytes(chance.randbytes(SIZE))
    options = f"cluster_size={1 << chance.randrange(9, 17)},refcount_bits={1 << chance.randrange(7)}"
    backed = chance.random() < 0.5
    path = create(folder / "disk.qcow2", SIZE, options, backing=base if backed else None, backing_format="raw")
    before = base.read_bytes() if backed else bytes(SIZE)
    steps = steps_of(seed)

    reported = killed_after(lambda report: work(path, steps, report), int(500 ** chance.random()))

    found = check(path)
    assert (found.corruptions, found.errors) == (0, 0)
    assert wrong_sectors(path, allowed_after(before, steps, reported)) == []
    image = opened(path)  # goes on where the other was killed
    image.writev(0, [b"x" * SECTOR])
    image.close()
    assert check(path).corruptions == 0


@pytest.mark.parametrize("number", range(20))
def test_a_killed_process_leaves_no_corruption_and_every_flushed_write(number: int, tmp_path: Path) -> None:
    crash(tmp_path, SEED + number)


class Fuse:
    """Kills its process at the Nth call by which it changes or syncs a file, of those made while it is lit."""

    def __init__(self, calls: int, chance: random.Random) -> None:
        self.lit = False
        self._left = calls
        self._chance = chance
        for place, name in ((os, "fsync"), (os, "fdatasync"), (os, "setxattr"), (os, "pwritev"), (fallocate, "fallocate")):
            setattr(place, name, self._guarded(name, getattr(place, name)))

    def _guarded(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def guarded(*arguments: object) -> object:
            self._left -= self.lit
            if self._left == 0:
                if name == "pwritev" and self._chance.random() < 0.5:
                    fd, buffers, offset = cast("tuple[int, list[bytes], int]", arguments)
                    data = b"".join(buffers)
                    torn = offset + self._chance.randrange(len(data) + 1) & -SECTOR  # sectors are written whole
                    os.pwrite(fd, data[: max(torn - offset, 0)], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return guarded


def work_by_turns(path: Path, steps: list[Step], fuse: Fuse, report: int) -> None:
    """As `work`, but instead of a flush the image is let go and taken again; the fuse is lit for that."""
    image = opened(path)
    for step in steps:
        if step[0] == "flush":
            fuse.lit = True
            image.inactivate()
            image.activate()
            fuse.lit = False
            os.write(report, FLUSHED)
        else:
            do(image, step)
            os.write(report, DONE)


def crash_in_a_transition(folder: Path, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    options = f"cluster_size={1 << chance.randrange(9, 17)},refcount_bits={1 << chance.randrange(7)}"
    path = create(folder / "disk.qcow2", SIZE, options)
    steps = steps_of(seed)
    calls = int(100 ** chance.random())

    reported = killed_after(lambda report: work_by_turns(path, steps, Fuse(calls, chance), report), STEPS)

    assert steps[len(reported)][0] == "flush"  # where it was killed
    found = check(path)
    assert (found.corruptions, found.errors) == (0, 0)
    assert wrong_sectors(path, allowed_after(bytes(SIZE), steps, reported)) == []
    image = opened(path)
    image.writev(0, [b"x" * SECTOR])
    image.close()
    assert check(path).corruptions == 0


@pytest.mark.parametrize("number", range(10))
def test_a_process_killed_as_it_lets_go_or_takes_leaves_every_write(number: int, tmp_path: Path) -> None:
    crash_in_a_transition(tmp_path, SEED + number)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_processes_killed_as_they_let_go_or_take_leave_every_write(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).mkdir()
        crash_in_a_transition(tmp_path / str(number), SEED + number)


class Power:
    """Keeps what a disk may hold when the power fails: all that was synced, and any part of what was not."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, before_sync: Callable[[], None]) -> None:
        self.durable = bytearray(path.read_bytes())
        self.pending: list[tuple[int, bytes]] = []
        pwritev, fdatasync = os.pwritev, os.fdatasync
        punch = fallocate.fallocate

        def write(fd: int, buffers: list[bytes], offset: int) -> int:
            self.pending.append((offset, b"".join(buffers)))
            return pwritev(fd, buffers, offset)

        def sync(fd: int) -> None:
            before_sync()
            fdatasync(fd)
            for offset, data in self.pending:
                self._put(self.durable, offset, data)
            self.pending.clear()

        def zero(fd: int, mode: int, offset: int, length: int) -> bool:
            self.pending.append((offset, bytes(length)))
            return punch(fd, mode, offset, length)

        monkeypatch.setattr(os, "pwritev", write)
        monkeypatch.setattr(os, "fdatasync", sync)
        monkeypatch.setattr(fallocate, "fallocate", zero)

    @staticmethod
    def _put(disk: bytearray, offset: int, data: bytes) -> None:
        disk.extend(bytes(max(offset + len(data) - len(disk), 0)))
        disk[offset : offset + len(data)] = data

    def fails(self, chance: random.Random) -> bytes:
        """The file as it may be found then: sectors are written whole, in any order."""
        disk = bytearray(self.durable)
        for offset, data in self.pending:
            for at in range(0, len(data), SECTOR):
                if chance.random() < 0.5:
                    self._put(disk, offset + at, data[at : at + SECTOR])
        return bytes(disk)


UNCOVERED = 1576193994  # writes into a cluster that a zero flag hid: what it held before must not be seen again


@pytest.mark.parametrize("seed", [*range(SEED, SEED + 6), UNCOVERED])
def test_a_power_failure_leaves_no_corruption_and_every_flushed_write(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    options = f"cluster_size={1 << chance.randrange(9, 17)},refcount_bits={1 << chance.randrange(7)}"
    path, after = create(tmp_path / "disk.qcow2", SIZE, options), tmp_path / "after.qcow2"
    image, steps, reported = opened(path), steps_of(seed)[:200], b""

    def fail() -> None:
        after.write_bytes(power.fails(chance))
        assert check(after).corruptions == 0
        assert wrong_sectors(after, allowed_after(bytes(SIZE), steps, reported)) == []

    power = Power(path, monkeypatch, before_sync=fail)
    for step in steps:
        do(image, step)
        reported += FLUSHED if step[0] == "flush" else DONE
    image.close()


def test_a_new_table_is_on_disk_before_what_refers_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table of 32 KiB of the disk comes to lie where data was that has been discarded, and that the host still has."""
    chance = random.Random(1)
    path, after = create(tmp_path / "disk.qcow2", SIZE, "cluster_size=512"), tmp_path / "after.qcow2"
    image = opened(path)

    def fail() -> None:
        for _ in range(2):
            after.write_bytes(power.fails(chance))
            assert check(after).corruptions == 0

    power = Power(path, monkeypatch, before_sync=fail)
    monkeypatch.setattr(fallocate, "fallocate", lambda *_: False)
    for offset in range(0, SIZE, 32 * KIB):
        image.writev(offset, [chance.randbytes(2 * KIB)])
        image.flush()
        image.discard(offset, 2 * KIB)
        image.flush()
    image.close()


def work_with_snapshots(path: Path, report: int) -> None:
    """Snapshot N has N in every byte, its state too; a new one begins while the disk still has that and is written on."""
    image = opened(path)
    assert isinstance(image, Qcow2Image)
    for number in range(1, 200):
        image.writev(0, [bytes([number]) * SIZE])
        image.freeze()
        image.writev(SIZE // 4, [bytes([255]) * (SIZE // 2)])
        image.put_state(0, bytes([number]) * STATE)
        image.discard(0, SIZE // 3)
        image.flush()
        image.keep(str(number), About(time_ns=0, disk_size=SIZE, state_size=STATE))
        os.write(report, DONE)
        if number > 3:
            image.delete_snapshot(str(number - 3))
            os.write(report, DONE)
            image.apply_snapshot(str(number - 1))
            os.write(report, DONE)


@pytest.mark.parametrize("seed", range(SEED, SEED + 2))
def test_a_power_failure_leaves_every_snapshot_whole(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    options = f"cluster_size={1 << chance.randrange(9, 17)},refcount_bits={1 << chance.randrange(4, 7)}"
    path, after = create(tmp_path / "disk.qcow2", SIZE, options), tmp_path / "after.qcow2"
    image = opened(path)
    assert isinstance(image, Qcow2Image)
    sure: set[str] = set()

    def fail() -> None:
        after.write_bytes(power.fails(chance))
        assert check(after).corruptions == 0
        found = opened(after, read_only=True)
        assert isinstance(found, Qcow2Image)
        snapshots = found.snapshots()
        assert sure <= {snapshot.name for snapshot in snapshots}
        for snapshot in snapshots:
            state = bytearray(STATE)
            found.saved_state(snapshot).readv(0, [state])
            whole = state == bytes([int(snapshot.name)]) * STATE
            assert whole, snapshot.name
        found.close()

    power = Power(path, monkeypatch, before_sync=fail)
    for number in range(1, 6):
        image.writev(0, [bytes([number]) * SIZE])
        image.freeze()
        image.writev(SIZE // 4, [bytes([255]) * (SIZE // 2)])
        image.put_state(0, bytes([number]) * STATE)
        image.flush()
        image.keep(str(number), About(time_ns=0, disk_size=SIZE, state_size=STATE))
        sure.add(str(number))
        if number > 2:
            sure.remove(str(number - 2))
            image.delete_snapshot(str(number - 2))
            image.apply_snapshot(str(number - 1))
    image.close()
    assert check(path) == CLEAN


def kill_at_a_snapshot(folder: Path, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    options = f"cluster_size={1 << chance.randrange(9, 17)},refcount_bits={1 << chance.randrange(4, 7)}"
    path = create(folder / "disk.qcow2", SIZE, options)

    reported = killed_after(lambda report: work_with_snapshots(path, report), chance.randrange(60))

    found = check(path)
    assert (found.corruptions, found.errors) == (0, 0)
    image = opened(path)
    assert isinstance(image, Qcow2Image)
    snapshots = image.snapshots()
    for snapshot in snapshots:
        state = bytearray(STATE)
        image.saved_state(snapshot).readv(0, [state])
        image.apply_snapshot(snapshot.id)
        whole = content(image) == bytes([int(snapshot.name)]) * SIZE and state == bytes([int(snapshot.name)]) * STATE
        assert whole, snapshot.name
    image.close()
    assert check(path).corruptions == 0
    qemu_img("check", "-q", "-r", "leaks", "-f", "qcow2", path)
    assert check(path) == CLEAN
    assert len(snapshots) >= min(len(reported), 3)


@pytest.mark.parametrize("number", range(10))
def test_a_process_killed_at_its_snapshots_leaves_all_of_them_whole(number: int, tmp_path: Path) -> None:
    kill_at_a_snapshot(tmp_path, SEED + number)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_processes_killed_at_their_snapshots_leave_all_of_them_whole(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).mkdir()
        kill_at_a_snapshot(tmp_path / str(number), SEED + number)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_killed_processes_leave_no_corruption(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).mkdir()
        crash(tmp_path / str(number), SEED + number)
