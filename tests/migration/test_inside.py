"""savevm and loadvm inside an image, between fake guests: the state of one moment, while the guest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from emu.errors import EmuError, ImageError, ImageErrorKind, MigrationError, StreamError
from migration.inside import load_inside, save_inside
from migration.protocols import PAGE
from tests.migration.fakes import PAGES, FakeGuest, FakeRam, pair

CLUSTER = 64 << 10


class FakeImage:
    """A NewSnapshot and a SavedState. `guest` writes all its RAM as soon as it runs on."""

    def __init__(self, guest: FakeGuest, *, fails: str = "", cluster_size: int = CLUSTER) -> None:
        self.cluster_size = cluster_size
        self.data = bytearray(64 * CLUSTER)
        self.size = 0
        self.steps: list[str] = []
        self._guest = guest
        self._fails = fails
        self._put: set[int] = set()

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self._fails:
            raise ImageError(ImageErrorKind.IO, "disk", f"cannot {name}")

    def prepare(self) -> None:
        assert self._guest.running
        self._step("prepare")

    def freeze(self) -> None:
        assert not self._guest.running
        self._step("freeze")

    def put_state(self, position: int, data: bytearray | memoryview) -> None:
        self._guest.ram.words[:] = 99
        assert (position % self.cluster_size, len(data) % self.cluster_size) == (0, 0)
        clusters = set(range(position, position + len(data), self.cluster_size))
        assert not clusters & self._put, "a cluster is written twice"
        self._put |= clusters
        self.data[position : position + len(data)] = data
        self._step("put_state")

    def keep(self, state_size: int) -> None:
        self._step("keep")
        self.size = state_size

    def thaw(self) -> None:
        self._step("thaw")

    def readv(self, position: int, buffers: Sequence[bytearray | memoryview]) -> None:
        for buffer in buffers:
            buffer[:] = self.data[position : position + len(buffer)]
            position += len(buffer)

    def data_runs(self, position: int, length: int) -> Iterator[tuple[int, int]]:
        yield position, length


def saved(cluster_size: int = CLUSTER) -> FakeImage:
    here, _there = pair()
    image = FakeImage(here, cluster_size=cluster_size)
    save_inside(here, image, lambda _done, _total: None)
    return image


def another_machine() -> FakeGuest:
    there, _unused = pair()
    there.ram.words[:] = 5
    for device in there.devices:
        device.state.value = 2
    return there


@pytest.mark.parametrize("cluster_size", [512, 4096, CLUSTER])
def test_a_guest_is_restored_as_it_was_when_the_save_began(cluster_size: int) -> None:
    here, _there = pair()
    expected, states = here.ram.words.copy(), [device.state for device in here.devices]
    image, there, told = FakeImage(here, cluster_size=cluster_size), another_machine(), list[tuple[int, int]]()

    report = save_inside(here, image, lambda done, total: told.append((done, total)))
    applied: list[str] = []
    load_inside(there, image, lambda: applied.append(there.state), label="one")

    assert (here.state, there.state, applied) == ("running", "running", ["restore-vm"])
    assert np.array_equal(there.ram.words, expected)
    assert [device.state for device in there.devices] == states
    assert report.size == image.size
    assert report.pause <= report.total
    assert told == [(4 << 20, 4 << 20)]
    assert here.copy is not None
    assert not here.copy.open


def test_ram_that_ends_within_a_step_and_a_cluster_comes_back_whole() -> None:
    here, _unused = pair()
    there = another_machine()
    for guest in (here, there):
        guest.ram = FakeRam(1024 + 3)
    here.ram.words[:] = np.arange(1027, dtype=np.uint64)[:, None] + 1
    expected, image = here.ram.words.copy(), FakeImage(here)
    image.data = bytearray(96 * CLUSTER)

    save_inside(here, image, lambda _done, _total: None)
    load_inside(there, image, lambda: None, label="one")

    assert np.array_equal(there.ram.words, expected)


@pytest.mark.parametrize("at", ["prepare", "freeze", "put_state", "keep"])
def test_a_save_that_fails_leaves_no_snapshot_and_a_running_guest(at: str) -> None:
    here, _there = pair()
    image = FakeImage(here, fails=at)

    with pytest.raises(ImageError, match=f"cannot {at}"):
        save_inside(here, image, lambda _done, _total: None)

    assert (here.state, image.size) == ("running", 0)
    assert here.copy is None or not here.copy.open
    assert ("thaw" in image.steps) == (at in ("put_state", "keep"))


def test_a_copy_of_ram_that_is_lost_ends_the_save() -> None:
    here, _there = pair()
    here.copy_fails = True
    image = FakeImage(here)

    with pytest.raises(EmuError, match="the copy is gone"):
        save_inside(here, image, lambda _done, _total: None)

    assert (here.state, image.size, image.steps[-1]) == ("running", 0, "thaw")


def test_a_blocked_guest_is_neither_saved_nor_replaced() -> None:
    image, here = saved(), another_machine()
    here.reasons = ["Unmount the share first."]
    target = FakeImage(here)

    with pytest.raises(MigrationError, match="cannot be saved: Unmount the share first"):
        save_inside(here, target, lambda _done, _total: None)
    with pytest.raises(MigrationError, match="cannot be replaced: Unmount the share first"):
        load_inside(here, image, lambda: None, label="one")

    assert target.steps == []


@pytest.mark.parametrize("size", [0, 11, 100, CLUSTER, CLUSTER + PAGES * PAGE, -1])
def test_a_state_that_is_cut_short_changes_nothing(size: int) -> None:
    image, there = saved(), another_machine()
    image.size = size if size >= 0 else image.size - 1
    before = there.ram.words.copy()

    with pytest.raises(StreamError):
        load_inside(there, image, lambda: pytest.fail("the disks were changed"), label="one")

    assert np.array_equal(there.ram.words, before)
    assert there.state == "running"


@pytest.mark.parametrize("at", [0, 30, CLUSTER + PAGES * PAGE + 20])
def test_a_damaged_state_changes_nothing(at: int) -> None:
    image, there = saved(), another_machine()
    image.data[at] ^= 1
    before = there.ram.words.copy()

    with pytest.raises(StreamError):
        load_inside(there, image, lambda: pytest.fail("the disks were changed"), label="one")

    assert np.array_equal(there.ram.words, before)


def test_a_state_of_another_machine_is_refused() -> None:
    image, there = saved(), another_machine()
    there.machine["memory"] = 1

    with pytest.raises(MigrationError, match="differ in memory"):
        load_inside(there, image, lambda: None, label="one")


def test_what_is_replaced_in_part_stays_paused() -> None:
    image, there = saved(), another_machine()

    def fail() -> None:
        raise ImageError(ImageErrorKind.IO, "disk", "cannot be read")

    with pytest.raises(MigrationError, match="the guest is replaced in part, and stays paused: disk: cannot be read"):
        load_inside(there, image, fail, label="one")

    assert there.state == "paused"


def test_a_host_that_lacks_what_a_state_needs_changes_nothing() -> None:
    image, there = saved(), another_machine()
    there.unprepared = "the directory is gone"
    before = there.ram.words.copy()

    with pytest.raises(MigrationError, match=r"^the directory is gone$"):
        load_inside(there, image, lambda: pytest.fail("the disks were changed"), label="one")

    assert np.array_equal(there.ram.words, before)
    assert there.state == "running"
