"""A guest, its disk and its dirty log without a machine, for tests of the migration story itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from emu.errors import EmuError, ImageError, ImageErrorKind, MigrationError
from migration.protocols import BLOCK, PAGE, DirtyLog, DiskCopy, MovedDisk, Pause, RamBlock, RamCopy, Savable
from migration.vmstate import State, VMState, Wire, u32

T = TypeVar("T")
PAGES = 64
DISK_SIZE = 20 * BLOCK + 1000  # bytes; the last block is not whole


@dataclass(slots=True, kw_only=True)
class CounterState(State):
    VMSTATE: ClassVar[VMState] = VMState("counter", version=1, minimum=1)
    value: int = u32(max=1000)


class Counter:
    STATE: ClassVar[type[State] | None] = CounterState

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = CounterState()

    def save(self) -> CounterState:
        return self.state

    def load(self, state: State) -> None:
        assert isinstance(state, CounterState)
        self.state = state


class FakeRam:
    def __init__(self, pages: int = PAGES) -> None:
        self.name = "ram"
        self.size = pages * PAGE
        self.words: NDArray[np.uint64] = np.zeros((pages, PAGE // 8), np.uint64)
        self.written: set[int] = set()

    def write(self, page: int, value: int) -> None:
        self.words[page] = value
        self.written.add(page)

    def present(self) -> NDArray[np.int64]:
        return np.array([[0, len(self.words)]], np.int64)

    def discard(self) -> None:
        self.words[:] = 0

    def map_file(self, fd: int, offset: int) -> None:
        self.words[:] = np.fromfile(f"/proc/self/fd/{fd}", np.uint64, self.size // 8, offset=offset).reshape(self.words.shape)


class FakeRamCopy:
    def __init__(self, ram: FakeRam, *, fails: bool) -> None:
        self._words = ram.words.copy()
        self._fails = fails
        self.open = True

    def read(self, name: str, first: int, size: int) -> memoryview:
        assert (self.open, name) == (True, "ram")
        if self._fails:
            raise EmuError("the copy is gone")
        return memoryview(self._words[first : first + size // PAGE].tobytes())

    def close(self) -> None:
        self.open = False


class FakeLog:
    def __init__(self, ram: FakeRam) -> None:
        self._ram = ram
        self.watching = False

    @property
    def words(self) -> NDArray[np.uint64]:
        return self._ram.words

    def start(self) -> None:
        self._ram.written.clear()
        self.watching = True

    def collect(self) -> NDArray[np.int64]:
        pages = sorted(self._ram.written)
        self._ram.written.clear()
        return np.array([[page, 1] for page in pages], np.int64).reshape(-1, 2)

    def stop(self) -> None:
        self.watching = False


@dataclass
class FakeDisk:
    """One disk that both sides see."""

    owner: object = None
    writer: object = None


class FakeHandover:
    def __init__(self, disk: FakeDisk, *, active: bool) -> None:
        self._disk = disk
        self._let_go_writer: object = None
        self.fail_inactivate = False
        self.written = False  # and not flushed since
        if active:
            self.activate()

    @property
    def active(self) -> bool:
        return self._disk.owner is self

    def write(self) -> None:
        assert self.active, "a write to an inactive disk"
        self._disk.writer = self
        self.written = True

    def flush(self) -> None:
        assert self.active, "a flush of an inactive disk"
        self.written = False

    def inactivate(self) -> None:
        if self.fail_inactivate:
            raise ImageError(ImageErrorKind.IO, "disk", "no space left on device")
        self._let_go_writer = self._disk.writer
        if self.active:
            self._disk.owner = None

    def activate(self, *, expect_unchanged: bool = False) -> None:
        if self._disk.owner not in (None, self):
            raise ImageError(ImageErrorKind.LOCKED, "disk", "is in use by another process")
        if expect_unchanged and not self.active and self._disk.writer is not self._let_go_writer:
            raise ImageError(ImageErrorKind.STALE, "disk", "was written to by another emu")
        self._disk.owner = self


@dataclass
class FakeGuest:
    """A guest that runs or not; `ran_after` notes that it was let run again."""

    disks: FakeHandover
    running: bool = True
    ram: FakeRam = field(default_factory=FakeRam)
    devices: list[Counter] = field(default_factory=lambda: [Counter("a"), Counter("b")])
    reasons: list[str] = field(default_factory=list)
    state: str = "running"
    log: FakeLog | None = None
    copy: FakeRamCopy | None = None
    copy_fails: bool = False
    copies: list[DiskCopy] = field(default_factory=list)
    moved: list[MovedDisk] = field(default_factory=list)
    unprepared: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    machine: dict[str, Wire] = field(default_factory=lambda: {"target": "fake", "memory": PAGES * PAGE, "uuid": "1"})

    def configuration(self) -> Mapping[str, Wire]:
        return self.machine

    def savables(self) -> Sequence[Savable]:
        return self.devices

    def ram_blocks(self) -> Sequence[RamBlock]:
        return [self.ram]

    def dirty_log(self, block: RamBlock) -> DirtyLog:
        assert block is self.ram
        self.log = FakeLog(self.ram)
        return self.log

    def copy_ram(self) -> RamCopy:
        assert not self.running
        self.copy = FakeRamCopy(self.ram, fails=self.copy_fails)
        return self.copy

    def blocked_reasons(self) -> list[str]:
        return list(self.reasons)

    def unsavable_reasons(self) -> list[str]:
        return []

    def disk_copies(self) -> Sequence[DiskCopy]:
        return self.copies

    def moved_disks(self) -> Sequence[MovedDisk]:
        return self.moved

    @contextmanager
    def prepared(self, states: Sequence[tuple[Savable, State]]) -> Iterator[None]:
        if self.unprepared:
            raise MigrationError(self.unprepared)
        assert [savable for savable, _state in states] == self.devices
        yield

    def call(self, function: Callable[[], T]) -> T:
        with self.lock:
            return function()

    def hold(self, why: Pause) -> bool:
        ran, self.running, self.state = self.running, False, str(why)
        return ran

    def release(self, *, run: bool) -> None:
        self.running, self.state = run, "running" if run else "paused"

    def moved_away(self) -> None:
        self.state = "postmigrate"

    def arrive(self, *, run: bool) -> None:
        self.running, self.state = run, "running" if run else "paused"

    def loaded(self) -> None:
        pass


def pair(*, running: bool = True) -> tuple[FakeGuest, FakeGuest]:
    """A guest that owns its disk, with something in RAM and devices, and an empty machine that waits for it."""
    disk = FakeDisk()
    source = FakeGuest(FakeHandover(disk, active=True), running=running, state="running" if running else "paused")
    for page in range(0, PAGES, 3):
        source.ram.write(page, page + 1)
    source.devices[0].state.value = 17
    source.devices[1].state.value = 1000
    source.disks.write()
    return source, FakeGuest(FakeHandover(disk, active=False), running=False, state="inmigrate")


class FakeMovedDisk:
    """A disk of bytes that a test changes while it is read. From block `full_at` on it takes no more."""

    def __init__(self, name: str = "disk", size: int = DISK_SIZE, *, backing: bytes | None = None) -> None:
        self.name = name
        self.size = size
        self.place = f"memory {id(self)}"
        self.behind = backing
        self.data = bytearray(backing or bytes(size))
        self.changes: set[int] | None = None
        self.touched: set[int] = set()
        self.flushed = True
        self.full_at: int | None = None
        self.flush_fails = False
        self.on_read: Callable[[int], None] = lambda _first: None

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK)

    def change(self, offset: int, data: bytes) -> None:
        """A write by the guest."""
        self.data[offset : offset + len(data)] = data
        changed = set(range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)))
        self.touched |= changed
        if self.changes is not None:
            self.changes |= changed

    def watch(self) -> None:
        self.changes = set()

    def changed(self) -> NDArray[np.bool_]:
        assert self.changes is not None
        flags, self.changes = self._flags(self.changes), set()
        return flags

    def unwatch(self) -> None:
        self.changes = None

    def filled(self) -> NDArray[np.bool_]:
        return self._flags({block for block in range(self.blocks) if any(self.data[block * BLOCK : (block + 1) * BLOCK])})

    def own(self) -> NDArray[np.bool_]:
        return self._flags(self.touched)

    def _flags(self, blocks: set[int]) -> NDArray[np.bool_]:
        flags = np.zeros(self.blocks, np.bool_)
        flags[list(blocks)] = True
        return flags

    def backing(self) -> str | None:
        return None if self.behind is None else self.behind.hex()[:32]

    def read(self, first: int, data: memoryview) -> None:
        self.on_read(first)
        part = self.data[first * BLOCK : first * BLOCK + len(data)]
        data[:] = bytes(part).ljust(len(data), b"\0")
        self.on_read(first)

    def write(self, first: int, data: memoryview) -> None:
        if self.full_at is not None and first >= self.full_at:
            raise ImageError(ImageErrorKind.IO, self.name, f"writing {len(data)} bytes failed: No space left on device")
        part = bytes(data)[: self.size - first * BLOCK]
        self.data[first * BLOCK : first * BLOCK + len(part)] = part
        self.flushed = False

    def zero(self, first: int, count: int) -> None:
        self.write(first, memoryview(bytes(count * BLOCK)))

    def make_empty(self) -> None:
        assert self.behind is not None
        self.data[:] = self.behind

    def flush(self) -> None:
        if self.flush_fails:
            raise ImageError(ImageErrorKind.IO, self.name, "flushing failed: Input/output error")
        self.flushed = True


def pair_with_disks(here: FakeMovedDisk, there: FakeMovedDisk) -> tuple[FakeGuest, FakeGuest]:
    """As `pair`, with a disk on each side."""
    source, destination = pair()
    destination.disks = FakeHandover(FakeDisk(), active=False)
    source.moved, destination.moved = [here], [there]
    return source, destination
