"""savevm and loadvm between fake guests: one file, whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from emu.errors import EmuError, ImageError, ImageErrorKind, MigrationError, StreamError
from migration.manager import Migrations
from migration.protocols import PAGE
from migration.snapshot import SnapshotStore, load_snapshot, save_snapshot
from tests.migration.fakes import FakeGuest, pair


def other_machine(here: FakeGuest) -> FakeGuest:
    there, _unused = pair()
    there.ram.words[:] = 5
    there.machine = dict(here.machine)
    for device in there.devices:
        device.state.value = 2
    return there


def test_a_snapshot_restores_ram_and_devices_and_the_guest_runs_on(tmp_path: Path) -> None:
    here, _there = pair()
    path = tmp_path / "one.emu"

    save_snapshot(here, path)

    assert here.state == "running"
    there = other_machine(here)
    load_snapshot(there, path)
    assert np.array_equal(there.ram.words, here.ram.words)
    assert [device.state for device in there.devices] == [device.state for device in here.devices]
    assert there.state == "running"


def test_saving_twice_without_running_gives_the_same_bytes(tmp_path: Path) -> None:
    here, _there = pair(running=False)
    save_snapshot(here, tmp_path / "one")
    there = other_machine(here)
    there.running, there.state = False, "paused"
    load_snapshot(there, tmp_path / "one")

    save_snapshot(there, tmp_path / "two")

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_ram_lies_page_aligned_and_sparse_in_the_file(tmp_path: Path) -> None:
    here, _there = pair()
    here.ram.words[:] = 0
    here.ram.words[40] = 7

    save_snapshot(here, tmp_path / "one")

    data = (tmp_path / "one").read_bytes()
    page = np.full(PAGE // 8, 7, np.uint64).tobytes()
    assert data.find(page) % PAGE == 0
    assert (tmp_path / "one").stat().st_blocks * 512 < here.ram.size


@pytest.mark.parametrize("cut", [0, 11, 40, 5000, -1])
def test_a_damaged_snapshot_changes_nothing(cut: int, tmp_path: Path) -> None:
    here, _there = pair()
    save_snapshot(here, tmp_path / "one")
    os.truncate(tmp_path / "one", cut if cut >= 0 else (tmp_path / "one").stat().st_size + cut)
    there = other_machine(here)
    before = there.ram.words.copy()

    with pytest.raises(EmuError):
        load_snapshot(there, tmp_path / "one")

    assert np.array_equal(there.ram.words, before)
    assert [device.state.value for device in there.devices] == [2, 2]
    assert there.state == "running"


def test_a_stream_is_no_snapshot(tmp_path: Path) -> None:
    here, _there = pair()
    source = Migrations(here)
    source.migrate(f"file:{tmp_path / 'stream'}")
    assert source.wait_over(10)

    with pytest.raises(StreamError, match="not a snapshot; start a machine with --incoming"):
        load_snapshot(other_machine(here), tmp_path / "stream")


def test_a_snapshot_of_another_machine_is_refused(tmp_path: Path) -> None:
    here, _there = pair()
    save_snapshot(here, tmp_path / "one")
    there = other_machine(here)
    there.machine["memory"] = 1

    with pytest.raises(MigrationError, match="differ in memory"):
        load_snapshot(there, tmp_path / "one")


def test_a_failed_save_leaves_the_old_snapshot_and_a_running_guest(tmp_path: Path) -> None:
    here, _there = pair()
    path = tmp_path / "one"
    save_snapshot(here, path)
    old = path.read_bytes()
    here.devices[0].state.value = 5000  # past the field's limit: our bug, found while saving

    with pytest.raises(EmuError, match=r"counter\.value"):
        save_snapshot(here, path)

    assert path.read_bytes() == old
    assert here.running
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_a_blocked_guest_is_not_saved(tmp_path: Path) -> None:
    here, _there = pair()
    here.reasons = ["Unmount the share first."]

    with pytest.raises(MigrationError, match="Unmount the share first"):
        save_snapshot(here, tmp_path / "one")

    assert here.running


def test_a_state_that_the_host_cannot_serve_changes_nothing(tmp_path: Path) -> None:
    here, _there = pair()
    save_snapshot(here, tmp_path / "one")
    here.devices[0].state.value = 5
    here.unprepared = "share 'host0' has other files than the guest knows: 'a' (gone)"

    with pytest.raises(MigrationError, match="other files than the guest knows"):
        load_snapshot(here, tmp_path / "one")

    assert here.devices[0].state.value == 5
    assert here.running


def test_a_guest_whose_disks_are_elsewhere_is_neither_saved_nor_replaced(tmp_path: Path) -> None:
    here, _there = pair()
    save_snapshot(here, tmp_path / "one")
    here.disks.inactivate()

    with pytest.raises(MigrationError, match="belong to another process"):
        save_snapshot(here, tmp_path / "two")
    with pytest.raises(MigrationError, match="belong to another process"):
        load_snapshot(here, tmp_path / "one")


def test_the_store_lists_finds_and_deletes(tmp_path: Path) -> None:
    here, _there = pair()
    store = SnapshotStore(tmp_path / "snapshots")
    assert store.list() == []
    save_snapshot(here, store.path("boot"))

    assert [info.tag for info in store.list()] == ["boot"]
    store.delete("boot")

    assert store.list() == []
    with pytest.raises(MigrationError, match="there is no snapshot 'boot'"):
        store.existing("boot")


@pytest.mark.parametrize("tag", ["", "../x", "a/b", ".hidden", "a\0b", "x" * 129, "a\nb"])
def test_a_tag_that_leaves_the_folder_is_refused(tag: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="snapshot tag"):
        SnapshotStore(tmp_path).path(tag)


class UnwritableDisk:
    """A disk of a snapshot that cannot be put back."""

    name, size = "disk", 4096

    def save(self, _fd: int, _offset: int) -> int:
        return 0

    def load(self, _fd: int, _offset: int) -> None:
        raise ImageError(ImageErrorKind.IO, "disk", "no space left on device")


def test_a_guest_whose_disks_cannot_all_be_put_back_stays_paused(tmp_path: Path) -> None:
    here, _there = pair()
    here.copies.append(UnwritableDisk())
    save_snapshot(here, tmp_path / "one")

    with pytest.raises(MigrationError, match="the guest is replaced in part, and stays paused: disk: no space left on device"):
        load_snapshot(here, tmp_path / "one")

    assert here.state == "paused"
