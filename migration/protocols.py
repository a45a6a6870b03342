"""What a migration needs of the machine around it. The machine implements these; migration imports nothing of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Never, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from migration.vmstate import State, Wire

T = TypeVar("T")

PAGE = 4096  # bytes; the unit of RAM on the wire, whatever the guest's page size
BLOCK = 64 << 10  # bytes; the unit of disks on the wire


class Savable(Protocol):
    """Anything with a section in a stream: a device, the CPU, the clock."""

    @property
    def STATE(self) -> type[State] | None:  # noqa: N802 - a class attribute of those who implement it
        """The class of the state; None when there is none, which blocks saving and moving."""

    @property
    def name(self) -> str:
        """The section's name: unique in its machine, the same on both sides."""

    def save(self) -> State:
        """The state as it is now."""

    def load(self, state: Never) -> None:
        """Take over a checked state of class `STATE` (which a protocol for all of them can only spell Never); cannot fail."""


class RamBlock(Protocol):
    """One block of guest RAM."""

    name: str
    size: int
    words: NDArray[np.uint64]  # shape (pages, 512)

    def present(self) -> NDArray[np.int64]:
        """Runs [first page, count] that may hold something; all other pages are zero."""

    def discard(self) -> None:
        """Make every page zero."""

    def map_file(self, fd: int, offset: int) -> None:
        """Make the content a private copy-on-write view of a file from `offset` on."""


class DirtyLog(Protocol):
    """Which pages of one block were written since the last question."""

    @property
    def words(self) -> NDArray[np.uint64]:
        """Where to read the pages that `collect` reports, shape (pages, 512): RAM itself, or the log's copy of it."""

    def start(self) -> None:
        """Begin to watch."""

    def collect(self) -> NDArray[np.int64]:
        """Runs [first page, count] written since `start` or the last `collect`; watching goes on."""

    def stop(self) -> None:
        """Stop watching."""


class Handover(Protocol):
    """The guest's disk images, which have one owner at a time."""

    @property
    def active(self) -> bool:
        """Whether this process owns them."""

    def flush(self) -> None:
        """Put on disk what was written, so that `inactivate` has little to wait for; the guest may run."""

    def inactivate(self) -> None:
        """Flush, fsync and let go of all; on an error all are still ours."""

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Take all, or none with an error; `expect_unchanged` refuses an image that another process wrote to meanwhile."""


class DiskCopy(Protocol):
    """A disk whose content goes into snapshots, because its image keeps none of its own."""

    @property
    def name(self) -> str:
        """The drive's id."""

    @property
    def size(self) -> int:
        """Bytes."""

    def save(self, fd: int, offset: int) -> int:
        """Write the content to `fd` from `offset` on, leaving zeroes out; returns the bytes written."""

    def load(self, fd: int, offset: int) -> None:
        """Make the content what lies in `fd` from `offset` on."""


class MovedDisk(Protocol):
    """A disk whose content moves with its guest, on either side. Blocks are BLOCK bytes, the last one filled up with zeroes."""

    @property
    def name(self) -> str:
        """The drive's id."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def place(self) -> str:
        """Where the image is: the same on both sides only if it is the same image."""

    def watch(self) -> None:
        """Begin to note changes."""

    def changed(self) -> NDArray[np.bool_]:
        """A flag for each block that changed since `watch` or the last question."""

    def unwatch(self) -> None:
        """Note no more changes; harmless when done."""

    def filled(self) -> NDArray[np.bool_]:
        """A flag for each block that may hold something; all others read as zero."""

    def own(self) -> NDArray[np.bool_]:
        """A flag for each block that may differ from what is behind the image, if anything is."""

    def backing(self) -> str | None:
        """What to know the image behind by on the other side; None for none."""

    def read(self, first: int, data: memoryview) -> None:
        """Fill `data`, whole blocks from block `first` on."""

    def write(self, first: int, data: memoryview) -> None:
        """Take whole blocks from block `first` on."""

    def zero(self, first: int, count: int) -> None:
        """Make blocks read as zero."""

    def make_empty(self) -> None:
        """Make everything as the image behind has it."""

    def flush(self) -> None:
        """Return when all that was taken is on disk."""


class RamCopy(Protocol):
    """All guest RAM as it was at one moment."""

    def read(self, name: str, first: int, size: int) -> memoryview:
        """`size` bytes, whole pages and 4 MiB at most, from page `first` of the block `name` on; valid until the next read."""

    def close(self) -> None:
        """Give the copy back; harmless when done."""


class NewSnapshot(Protocol):
    """A snapshot that is being made inside the images of all writable disks, the state in one of them."""

    @property
    def cluster_size(self) -> int:
        """Bytes; what `put_state` takes are multiples."""

    def prepare(self) -> None:
        """Refuse what `keep` would refuse, and put on disk what `freeze` would have to wait for."""

    def freeze(self) -> None:
        """The disks are to be seen as they are now; called while the guest is held."""

    def put_state(self, position: int, data: bytearray | memoryview) -> None:
        """Write whole clusters at `position` of the state, each once; the guest may run."""

    def keep(self, state_size: int) -> None:
        """Have the snapshot on disk, in every image or in none."""

    def thaw(self) -> None:
        """There will be no snapshot; harmless when none was begun."""


class SavedState(Protocol):
    """The state in an image's snapshot."""

    @property
    def cluster_size(self) -> int:
        """Bytes."""

    @property
    def size(self) -> int:
        """Bytes."""

    def readv(self, position: int, buffers: Sequence[bytearray | memoryview]) -> None:
        """Fill `buffers` one after the other from `position`."""

    def data_runs(self, position: int, length: int) -> Iterator[tuple[int, int]]:
        """(position, length) of the parts that may hold something; all else reads as zero."""


class Pause(StrEnum):
    """Why a migration holds the guest; the names are QEMU's run states."""

    FINISH_MIGRATE = "finish-migrate"
    SAVE_VM = "save-vm"
    RESTORE_VM = "restore-vm"


class Guest(Protocol):
    """The machine. Every method may be called from any thread but the vCPU's."""

    @property
    def disks(self) -> Handover:
        """The images, which have one owner at a time."""

    def configuration(self) -> Mapping[str, Wire]:
        """What must be equal on both sides, as plain values."""

    def savables(self) -> Sequence[Savable]:
        """Everything with a section, in stream order."""

    def ram_blocks(self) -> Sequence[RamBlock]:
        """All guest RAM."""

    def dirty_log(self, block: RamBlock) -> DirtyLog:
        """A new dirty log for `block`."""

    def copy_ram(self) -> RamCopy:
        """A copy of all RAM as it is now; called while the guest is held, which may run before the copy is closed."""

    def blocked_reasons(self) -> list[str]:
        """Whole sentences, one for each thing that forbids saving and moving; empty when nothing does."""

    def unsavable_reasons(self) -> list[str]:
        """Whole sentences, one for each thing that forbids saving alone; empty when nothing does."""

    def disk_copies(self) -> Sequence[DiskCopy]:
        """The disks whose content a snapshot keeps, in order."""

    def moved_disks(self) -> Sequence[MovedDisk]:
        """The disks that move with the guest when they are not shared, or come in with it: all that can be written."""

    def prepared(self, states: Sequence[tuple[Savable, State]]) -> AbstractContextManager[None]:
        """Hold what of the host these states need, for them to be loaded inside; EmuError when it cannot be had."""

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the vCPU thread between slices and return what it returns."""

    def hold(self, why: Pause) -> bool:
        """Stop the vCPU and let every request in flight complete; returns whether the guest ran before."""

    def release(self, *, run: bool) -> None:
        """End a hold: go on as before it, running or paused."""

    def moved_away(self) -> None:
        """End a hold for good: the guest lives elsewhere (run state postmigrate)."""

    def arrive(self, *, run: bool) -> None:
        """Become the guest that came in: run it, or stay paused."""

    def loaded(self) -> None:
        """RAM and devices were replaced: drop everything derived from the old ones. Called on the vCPU thread."""


class Step(StrEnum):
    """The named steps of a migration, in order of each side. A test's fault hook strikes at these."""

    # source
    CONNECTED = "source:connected"
    CONFIG_SENT = "source:config-sent"
    ACCEPTED = "source:accepted"
    DISKS_SENT = "source:disks-sent"  # once, before RAM; at once when they are shared
    FIRST_ROUND_SENT = "source:first-round-sent"
    GUEST_HELD = "source:guest-held"
    DISKS_LET_GO = "source:disks-let-go"
    LAST_ROUND_SENT = "source:last-round-sent"
    STATE_SENT = "source:state-sent"
    READY_HEARD = "source:ready-heard"
    GO_SENT = "source:go-sent"
    RUNNING_HEARD = "source:running-heard"
    # destination
    CALLED = "destination:called"
    CONFIG_CHECKED = "destination:config-checked"
    FIRST_PAGES = "destination:first-pages"
    STATE_HEARD = "destination:state-heard"
    STATE_COMMITTED = "destination:state-committed"
    DISKS_TAKEN = "destination:disks-taken"
    READY_SENT = "destination:ready-sent"
    GO_HEARD = "destination:go-heard"
    RUNNING = "destination:running"
    RUNNING_SENT = "destination:running-sent"


StepHook = Callable[[Step], None]


def no_hook(_step: Step) -> None:
    """The step hook of a machine that is not under test."""
