"""savevm and loadvm: a state in a file of its own, whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from emu.errors import MigrationError
from migration.channel import Address, Channel, listen
from migration.mapped import write_disk, write_ram
from migration.protocols import Guest, Pause
from migration.received import check_same_machine, receive
from migration.sections import describe_sections, dump_sections, plan_load
from migration.stream import Kind, StreamReader, StreamWriter

SUFFIX = ".emu"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")  # a file name in the snapshot folder, and nothing that leaves it


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One line of `info snapshots`."""

    tag: str
    path: Path
    size: int  # bytes on disk
    taken: float  # seconds since the epoch


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
            found.append(SnapshotInfo(path.name.removesuffix(SUFFIX), path, status.st_blocks * 512, status.st_mtime))
        return sorted(found, key=lambda info: (info.taken, info.tag))

    def delete(self, tag: str) -> None:
        """Remove one snapshot."""
        self.existing(tag).unlink()


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What a savevm cost."""

    pause: float  # seconds for which the guest stood still
    total: float  # seconds until the file was safe on the disk
    size: int  # bytes written


def save_snapshot(guest: Guest, path: Path) -> SaveReport:
    """Write the guest's state to `path` in one piece; a file of that name is replaced only when the new one is complete."""
    reasons = guest.blocked_reasons() + guest.unsavable_reasons()
    if reasons:
        raise MigrationError("the guest cannot be saved: " + " ".join(reasons))
    if not guest.disks.active:
        raise MigrationError("the guest cannot be saved while its disks belong to another process")
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


def load_snapshot(guest: Guest, path: Path) -> None:
    """Replace the guest by the one in `path`; running before, it runs after. A refused file changes nothing."""
    reasons = guest.blocked_reasons() + guest.unsavable_reasons()
    if reasons:
        raise MigrationError("the guest cannot be replaced: " + " ".join(reasons))
    if not guest.disks.active:
        raise MigrationError("a snapshot cannot be loaded while the guest's disks belong to another process")
    listener = listen(Address("file", str(path), f"file:{path}"))
    with contextlib.closing(listener), contextlib.closing(listener.accept()) as channel:
        reader = StreamReader(channel)
        reader.start()
        check_same_machine(reader.expect(Kind.CONFIG).fields().get("machine"), guest.configuration(), uuid=False)
        state = receive(reader, channel, guest.ram_blocks(), disks=guest.disk_copies(), ram_now=False)
        plan = plan_load(guest.savables(), state.sections)
        ran = guest.hold(Pause.RESTORE_VM)

        def commit() -> None:
            state.map_ram()
            plan.commit()
            guest.loaded()

        try:
            with guest.prepared(plan.states):
                state.load_disks()
                guest.call(commit)
        finally:
            guest.release(run=ran)
