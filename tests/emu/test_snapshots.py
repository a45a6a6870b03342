"""Snapshots inside the images of a machine: in all of its writable disks or in none, and where they go."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.block.qcow2.image import Qcow2Image
from emu.config import DriveConfig, MachineConfig
from emu.errors import ImageError, MigrationError, StreamError
from emu.machine import Machine
from emu.ram import Ram
from emu.ramcopy import RamCopy
from emu.runstate import RunState
from migration.snapshot import SaveOptions
from targets import find_target
from tests.devices.fakes import MemoryChardev
from tests.emu.block.qcow2.tools import CLEAN, MIB, check, create, needs_qemu_img, qemu_img, read, take_snapshot
from tests.emu.conftest import SPIN

pytestmark = [needs_qemu_img, pytest.mark.usefixtures("no_sync")]


QEMU = "qemu-system-riscv64"
QEMU_MACHINE = "-M virt -m 16M -bios none -display none -serial none -monitor stdio -S"


class Build:
    """Builds machines with the drives `a` and `b` (qcow2) and `raw`, as far as they are named, with these options."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._machines: list[Machine] = []
        for name in ("a", "b"):
            create(folder / name, MIB)
        (folder / "raw").write_bytes(bytes(MIB))
        (folder / "kernel").write_bytes(SPIN)

    def __call__(self, **options: dict[str, object]) -> Machine:
        drives = tuple(DriveConfig(path=str(self._folder / name), id=name, **how) for name, how in options.items())  # type: ignore[arg-type]  # passed on as they are
        config = MachineConfig(
            target="riscv64",
            memory=16 * MIB,
            kernel=self._folder / "kernel",
            drives=drives,
            snapshots=self._folder / "snapshots",
        )
        self._machines.append(Machine(config, find_target("riscv64"), MemoryChardev()))
        return self._machines[-1]

    def close(self) -> None:
        """Close all machines built so far."""
        while self._machines:
            self._machines.pop().close()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    built = Build(tmp_path)
    yield built
    built.close()


def write(machine: Machine, value: bytes) -> None:
    """Mark all that a snapshot keeps: RAM and every writable disk."""
    machine.ram_blocks()[0].view[MIB : MIB + 4] = value
    for drive, image in machine.drives:
        if not drive.readonly:
            image.writev(4096, [value])


def marks(machine: Machine) -> set[bytes]:
    found = {read(image, 4096, 4) for drive, image in machine.drives if not drive.readonly}
    return found | {bytes(machine.ram_blocks()[0].view[MIB : MIB + 4])}


def image(machine: Machine, name: str) -> Qcow2Image:
    found = next(image for drive, image in machine.drives if drive.id == name)
    assert isinstance(found, Qcow2Image)
    return found


def test_a_snapshot_brings_ram_and_all_disks_back_as_often_as_it_is_loaded(build: Build, tmp_path: Path) -> None:
    machine = build(a={}, b={})
    write(machine, b"one.")
    machine.savevm("one")
    write(machine, b"two.")
    machine.savevm("two")
    came: list[set[bytes]] = []
    for tag in ("one", "one", "two"):
        write(machine, b"gone")
        machine.loadvm(tag)
        came.append(marks(machine))
    build.close()

    assert came == [{b"one."}, {b"one."}, {b"two."}]
    for name in ("a", "b"):
        assert check(tmp_path / name) == CLEAN
        listed = [line.split() for line in qemu_img("snapshot", "-l", tmp_path / name).splitlines()[2:]]
        assert [words[:2] for words in listed] == [["1", "one"], ["2", "two"]]
    assert not (tmp_path / "snapshots").exists()


def test_the_state_is_in_the_first_writable_disk_or_the_one_that_is_named(build: Build) -> None:
    machine = build(b={"readonly": True}, a={})
    machine.savevm("here")
    build.close()
    machine = build(a={}, b={})
    machine.delvm("here")
    machine.savevm("first")
    machine.savevm("named", SaveOptions(vmstate="b"))

    def sizes(name: str) -> list[bool]:
        return [snapshot.vm_state_size > 0 for snapshot in image(machine, name).snapshots()]

    assert (sizes("a"), sizes("b")) == ([True, False], [False, True])
    write(machine, b"gone")
    machine.loadvm("named")
    assert marks(machine) == {bytes(4)}
    with pytest.raises(MigrationError, match="vmstate block device 'c' does not support snapshots"):
        machine.savevm("c", SaveOptions(vmstate="c"))
    with pytest.raises(MigrationError, match=r"This is a disk-only snapshot\. Revert to it offline using qemu-img"):
        machine.loadvm("named", vmstate="a")


def test_a_guest_that_ran_runs_on_and_one_that_was_paused_does_not(build: Build) -> None:
    machine = build(a={})
    machine.savevm("paused")
    machine.cont()
    machine.savevm("running")
    after_save = machine.state
    machine.loadvm("paused")

    assert (after_save, machine.state) == (RunState.RUNNING, RunState.RUNNING)
    machine.stop()
    machine.loadvm("running")
    assert machine.state is RunState.PAUSED


def test_a_name_is_taken_over_only_when_that_is_wanted(build: Build) -> None:
    machine = build(a={}, b={})
    write(machine, b"old.")
    machine.savevm("tag")
    write(machine, b"new.")
    with pytest.raises(MigrationError, match="Snapshot 'tag' already exists in one or more devices"):
        machine.savevm("tag", SaveOptions(overwrite=False))
    machine.savevm("tag")
    write(machine, b"gone")

    machine.loadvm("tag")

    assert marks(machine) == {b"new."}
    assert [len(image(machine, name).snapshots()) for name in ("a", "b")] == [1, 1]


def test_delvm_gives_the_space_back_and_what_is_not_there_is_told(build: Build, tmp_path: Path) -> None:
    machine = build(a={}, b={})
    machine.ram_blocks()[0].view[MIB : 9 * MIB] = b"x" * 8 * MIB
    before = (tmp_path / "a").stat().st_blocks
    machine.savevm("tag")
    full = (tmp_path / "a").stat().st_blocks
    machine.delvm("tag")

    assert full - before > 8 * MIB // 512
    assert (tmp_path / "a").stat().st_blocks - before < MIB // 512
    for command in (machine.loadvm, machine.delvm):
        with pytest.raises(MigrationError, match="Snapshot 'tag' does not exist in one or more devices"):
            command("tag")
    build.close()
    assert (check(tmp_path / "a"), check(tmp_path / "b")) == (CLEAN, CLEAN)


def test_what_only_some_disks_have_is_listed_apart_and_never_loaded(build: Build, tmp_path: Path) -> None:
    qemu_img("snapshot", "-c", "theirs", tmp_path / "a")
    machine = build(a={}, b={})
    machine.savevm("ours")
    machine.savevm("torn")
    image(machine, "a").delete_snapshot("torn")
    take_snapshot(image(machine, "a"), "torn", time_ns=1)  # the same name, another moment

    listed = [(info.tag, info.only_on, info.size > 0) for info in machine.snapshots.list()]

    assert listed == [("ours", "", True), ("theirs", "a", False), ("torn", "a", False), ("torn", "b", False)]
    for tag in ("theirs", "torn"):
        with pytest.raises(MigrationError, match=f"Snapshot '{tag}' does not exist in one or more devices"):
            machine.loadvm(tag)
    for tag in ("theirs", "torn"):
        machine.delvm(tag)
    assert [info.tag for info in machine.snapshots.list()] == ["ours"]


def qemu(disk: Path, *lines: str) -> str:
    """What QEMU's monitor says to `lines`."""
    machine = [QEMU, *QEMU_MACHINE.split()]
    drive = ["-drive", f"file={disk},if=none,id=a,format=qcow2", "-device", "virtio-blk-device,drive=a"]
    typed = "".join(f"{line}\n" for line in (*lines, "quit"))
    return subprocess.run([*machine, *drive], input=typed, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed (Debian: qemu-system-misc)")
def test_qemu_and_we_keep_each_others_snapshots_apart(build: Build, tmp_path: Path) -> None:
    machine = build(a={})
    write(machine, b"ours")
    machine.savevm("ours")
    build.close()

    said = qemu(tmp_path / "a", "savevm theirs", "info snapshots", "loadvm ours")
    machine = build(a={})
    listed = [(info.tag, info.only_on) for info in machine.snapshots.list()]
    with pytest.raises(StreamError, match="not an emu stream: it starts with b'QEVM"):
        machine.loadvm("theirs")
    machine.savevm("again")
    machine.loadvm("again")
    machine.delvm("theirs")
    build.close()
    clean = check(tmp_path / "a")
    qemu(tmp_path / "a", "delvm again")

    rows = [line.split()[:2] for line in said.splitlines() if line.startswith("--")]
    assert rows == [["--", "ours"], ["--", "theirs"]]
    assert "Error" in said
    assert listed == [("ours", ""), ("theirs", "")]
    assert (clean, check(tmp_path / "a")) == (CLEAN, CLEAN)


@pytest.mark.parametrize(
    ("drives", "text"),
    [
        ({"a": {}, "raw": {}}, "Device 'raw' is writable but does not support snapshots, as a raw image: give it ,readonly"),
        ({"raw": {}}, "Device 'raw' is writable but does not support snapshots, as a raw image: give it ,readonly"),
        ({"a": {}, "raw": {"savevm": "copy"}}, "Device 'a' keeps snapshots in its image, 'raw' outside by ,savevm=copy"),
    ],
)
def test_drives_that_cannot_all_be_saved_are_told(drives: dict[str, object], text: str, build: Build) -> None:
    machine = build(**drives)

    with pytest.raises(MigrationError, match=text):
        machine.savevm("one")

    assert machine.snapshots.list() == []


@pytest.mark.parametrize("drives", [{}, {"a": {"readonly": True}}, {"a": {"savevm": "copy"}, "raw": {"savevm": "copy"}}])
def test_without_a_disk_to_keep_it_a_snapshot_is_a_file(drives: dict[str, object], build: Build, tmp_path: Path) -> None:
    machine = build(**drives)
    write(machine, b"one.")
    machine.savevm("one")
    write(machine, b"gone")
    machine.loadvm("one")

    assert marks(machine) == {b"one."}
    assert (tmp_path / "snapshots" / "one.emu").is_file()
    with pytest.raises(MigrationError, match="Snapshot 'one' already exists in"):
        machine.savevm("one", SaveOptions(overwrite=False))


class Meanwhile:
    """Does something else while a snapshot is being saved."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def __call__(self, _done: int, _total: int) -> None:
        self._act()


def test_a_guest_that_is_being_saved_cannot_be_moved(build: Build) -> None:
    machine = build(a={})

    def move() -> None:
        with pytest.raises(MigrationError, match="A snapshot of the guest is being saved: wait for its end"):
            machine.migrations.migrate("file:/dev/null")

    machine.savevm("one", SaveOptions(on_progress=Meanwhile(move)))

    assert machine.blocked_reasons() == []


def test_disks_that_are_let_go_end_the_save_and_leave_no_snapshot(build: Build, tmp_path: Path) -> None:
    machine = build(a={}, b={})
    machine.ram_blocks()[0].view[:] = b"x" * 16 * MIB

    with pytest.raises(ImageError, match="has"):
        machine.savevm("one", SaveOptions(on_progress=Meanwhile(lambda: machine.set_disks_active(active=False))))

    assert machine.snapshots.list() == []
    assert (check(tmp_path / "a"), check(tmp_path / "b")) == (CLEAN, CLEAN)
    assert machine.blocked_reasons() == []


def test_a_machine_may_be_closed_while_it_is_saved(build: Build, tmp_path: Path) -> None:
    machine = build(a={})
    machine.ram_blocks()[0].view[:] = b"x" * 16 * MIB

    with pytest.raises(ImageError):
        machine.savevm("one", SaveOptions(on_progress=Meanwhile(build.close)))

    assert check(tmp_path / "a") == CLEAN


def test_a_disk_that_cannot_keep_it_has_the_others_forget_it(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = build(a={}, b={})
    machine.savevm("before")
    holder = image(machine, "a")
    monkeypatch.setattr(holder, "keep", lambda *_about: holder.readv(MIB, [bytearray(1)]))

    with pytest.raises(ImageError, match="has no bytes"):
        machine.savevm("one")

    assert [(info.tag, info.only_on) for info in machine.snapshots.list()] == [("before", "")]
    monkeypatch.undo()
    machine.savevm("one")
    assert [(info.tag, info.only_on) for info in machine.snapshots.list()] == [("before", ""), ("one", "")]


def test_a_host_without_room_for_a_copy_of_ram_is_told(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = build(a={})
    machine.cont()

    def no_room(self: RamCopy, _rams: list[Ram]) -> None:  # noqa: ARG001 - a constructor's
        raise MigrationError("the host has no room")

    monkeypatch.setattr(RamCopy, "__init__", no_room)
    with pytest.raises(MigrationError, match="the host has no room"):
        machine.savevm("one")

    assert machine.state is RunState.RUNNING
    assert machine.snapshots.list() == []
