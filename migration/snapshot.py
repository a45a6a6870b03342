"""savevm and loadvm: a state in a file of its own, whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from emu.errors import EmuError, MigrationError
from migration.channel import Address, Channel, listen
from migration.mapped import find_region, load_disks, map_ram, write_disk, write_ram
from migration.protocols import Guest, Pause, Savable
from migration.received import check_same_machine, receive
from migration.sections import describe_sections, dump_sections, plan_load
from migration.stream import Kind, StreamReader, StreamWriter
from migration.vmstate import State

SUFFIX = ".emu"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")  # a file name in the snapshot folder, and nothing that leaves it


OnProgress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOptions:
    """How a snapshot is to be saved."""

    overwrite: bool = True  # one of the same tag is replaced; else refused
    vmstate: str | None = None  # the drive whose image is to hold the state; None: the first that can
    on_progress: OnProgress = lambda _done, _total: None


SAVE = SaveOptions()


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What a savevm cost."""

    pause: float  # seconds for which the guest stood still
    total: float  # seconds until the file was safe on the disk
    size: int  # bytes written


class Snapshots(Protocol):
    """All snapshots of one machine."""

    def list(self) -> list[SnapshotInfo]:
        """The oldest first; those that not every writable drive has come last."""

    def save(self, guest: Guest, tag: str, how: SaveOptions) -> SaveReport:
        """Save the guest as `tag`."""

    def load(self, guest: Guest, tag: str, *, vmstate: str | None) -> None:
        """Become the guest saved as `tag`, whose state is in the drive `vmstate` if that is given."""

    def delete(self, tag: str) -> None:
        """Forget the snapshot `tag`."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One line of `info snapshots`."""

    tag: str
    size: int  # bytes: on disk, or of the state inside an image
    taken_ns: int  # since the epoch
    clock_ns: int | None = None  # the guest's time; None where it takes reading the state
    only_on: str = ""  # the drive, for one that not every writable drive has, and that cannot be loaded
    id: str = "--"  # on that drive; those on several may differ


class SnapshotStore:
    """The snapshots in one folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, tag: str) -> Path:
        """The file of `tag`; a tag that is no plain name is a MigrationError."""
        if not _TAG.fullmatch(tag):
            raise MigrationError(f"snapshot tag {tag!r:.60} must be 1..128 of A-Z a-z 0-9 . _ + -, the first a letter or digit")
        return self.folder / (tag + SUFFIX)

    def existing(self, tag: str) -> Path:
        """The file of `tag`, which must be there."""
        path = self.path(tag)
        if not path.is_file():
            known = ", ".join(info.tag for info in self.list()) or "none"
            raise MigrationError(f"there is no snapshot {tag!r} in {self.folder}, which has: {known}")
        return path

    def list(self) -> list[SnapshotInfo]:
        """All snapshots, the oldest first."""
        found = []
        for path in self.folder.glob("*" + SUFFIX):
            status = path.stat()
            found.append(SnapshotInfo(path.name.removesuffix(SUFFIX), status.st_blocks * 512, status.st_mtime_ns))
        return sorted(found, key=lambda info: (info.taken_ns, info.tag))

    def save(self, guest: Guest, tag: str, how: SaveOptions) -> SaveReport:
        """Save the guest as `tag`."""
        path = self.path(tag)
        if path.exists() and not how.overwrite:
            raise MigrationError(f"Snapshot '{tag}' already exists in {self.folder}")
        return save_snapshot(guest, path)

    def load(self, guest: Guest, tag: str, *, vmstate: str | None) -> None:  # noqa: ARG002 - no drive holds a state here
        """Become the guest saved as `tag`."""
        load_snapshot(guest, self.existing(tag))

    def delete(self, tag: str) -> None:
        """Remove one snapshot."""
        self.existing(tag).unlink()


def check_may_be(guest: Guest, done: str) -> None:
    """Refuse with all reasons unless the guest may be `done`: saved, or replaced."""
    reasons = guest.blocked_reasons() + guest.unsavable_reasons()
    if reasons:
        raise MigrationError(f"the guest cannot be {done}: " + " ".join(reasons))
    if not guest.disks.active:
        raise MigrationError(f"the guest cannot be {done} while its disks belong to another process")


def save_snapshot(guest: Guest, path: Path) -> SaveReport:
    """Write the guest's state to `path` in one piece; a file of that name is replaced only when the new one is complete."""
    check_may_be(guest, "saved")
    began = time.monotonic()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        channel = Channel(None, fd, two_way=False, label=str(path))
        with contextlib.closing(channel):
            held = time.monotonic()
            ran = guest.hold(Pause.SAVE_VM)
            try:
                size = _write(guest, channel, run=ran)
            finally:
                guest.release(run=ran)
            pause = time.monotonic() - held
            os.fsync(fd)
        temporary.replace(path)
    except OSError as exc:
        raise MigrationError(f"snapshot {path}: {exc.strerror or exc}") from exc
    finally:
        temporary.unlink(missing_ok=True)
    return SaveReport(pause, time.monotonic() - began, size)


def _write(guest: Guest, channel: Channel, *, run: bool) -> int:
    writer = StreamWriter(channel)
    writer.start()
    writer.frame(Kind.CONFIG, {"machine": dict(guest.configuration()), "two-way": False})
    for block in guest.ram_blocks():
        write_ram(writer, channel, block)
    for disk in guest.disk_copies():
        write_disk(writer, channel, disk)
    savables = guest.savables()
    for section in guest.call(lambda: dump_sections(savables)):
        writer.frame(Kind.SECTION, section.to_wire())
    writer.frame(Kind.DESCRIPTION, {"sections": describe_sections(savables)})
    writer.frame(Kind.END, {"run": run})
    return writer.bytes_written


@contextlib.contextmanager
def replaced(guest: Guest, states: Sequence[tuple[Savable, State]]) -> Iterator[None]:
    """Hold the guest while it is made another one, that of `states`; running before, it runs after.

    What cannot be prepared is refused and changes nothing; what fails within leaves it paused, part old and part new.
    """
    ran = guest.hold(Pause.RESTORE_VM)
    whole = True  # old or new
    try:
        with guest.prepared(states):
            whole = False
            yield
            whole = True
    except EmuError as exc:
        if whole:
            raise
        raise MigrationError(f"the guest is replaced in part, and stays paused: {exc}") from exc
    finally:
        guest.release(run=ran and whole)


def load_snapshot(guest: Guest, path: Path) -> None:
    """Replace the guest by the one in `path`; running before, it runs after. A refused file changes nothing."""
    check_may_be(guest, "replaced")
    listener = listen(Address("file", str(path), f"file:{path}"))
    with contextlib.closing(listener), contextlib.closing(listener.accept()) as channel:
        reader = StreamReader(channel)
        reader.start()
        check_same_machine(reader.expect(Kind.CONFIG).fields().get("machine"), guest.configuration(), uuid=False)
        find = partial(find_region, channel)
        disks = guest.disk_copies()
        state = receive(reader, guest.ram_blocks(), label=channel.label, find=find, disks=disks, ram_now=False)
        plan = plan_load(guest.savables(), state.sections)

        def commit() -> None:
            map_ram(state.regions)
            plan.commit()
            guest.loaded()

        with replaced(guest, plan.states):
            load_disks(state.disks)
            guest.call(commit)
