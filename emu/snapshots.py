"""Where a machine's snapshots are, and those inside the images of its writable disks, as QEMU keeps them: the state in one,
the disks in all.

The one rule: all in the images if the machine has a writable qcow2 drive, all in files of a folder (migration/snapshot.py) if
it has no writable drive or all of them have savevm=copy. A writable drive that fits neither makes saving be refused.

A snapshot inside images is whole when every writable disk has one of that name and that very moment; no other is ever loaded.
One that replaces another of its name is whole before the other goes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emu.block.image import Image, open_image
from emu.block.qcow2.image import Qcow2Image
from emu.block.qcow2.snapshottable import About, Snapshot
from emu.drives import Drives
from emu.errors import ImageError, MigrationError
from migration.blockers import Blocker, Blockers
from migration.inside import load_inside, save_inside
from migration.protocols import Guest, SavedState
from migration.snapshot import SaveOptions, SaveReport, SnapshotInfo, Snapshots, SnapshotStore

BEING_SAVED = "A snapshot of the guest is being saved: wait for its end."


def place_of_snapshots(drives: Drives, folder: Path, blockers: Blockers, clock: Callable[[], int]) -> Snapshots:
    """The snapshots of a machine with `drives`; `clock` is the guest's time in ns."""
    images = {drive.id: image for drive, image in _inside(drives) if isinstance(image, Qcow2Image)}
    return ImageSnapshots(images, blockers, clock) if images else SnapshotStore(folder)


def unsavable_reasons(drives: Drives) -> list[str]:
    """Whole sentences, one for each drive that forbids saving."""
    reasons = [
        f"Device '{drive.id}' is writable but does not support snapshots, as a {image.format} image: give it ,readonly, "
        "or ,savevm=copy to keep a copy of it in every snapshot."
        for drive, image in _inside(drives)
        if not isinstance(image, Qcow2Image)
    ]
    copies = [drive for drive, _image in drives if not drive.readonly and drive.savevm == "copy"]
    if copies and (inside := _inside(drives)):
        reasons.append(
            f"Device '{inside[0][0].id}' keeps snapshots in its image, '{copies[0].id}' outside by ,savevm=copy: "
            "a snapshot has one place, so give it to all writable drives or to none."
        )
    return reasons


def _inside(drives: Drives) -> Drives:
    return [(drive, image) for drive, image in drives if not drive.readonly and drive.savevm == "inside"]


def snapshots_in(drive: str, image: Image) -> list[SnapshotInfo]:
    """All in the image of `drive`, whatever the others have, oldest first."""
    return [_info(snapshot, drive) for snapshot in image.snapshots()] if isinstance(image, Qcow2Image) else []


@contextlib.contextmanager
def states_inside(path: str) -> Iterator[list[tuple[SnapshotInfo, SavedState | None]] | None]:
    """The snapshots in the image at `path` with their states, if they have one; None for what is no qcow2 image."""
    with contextlib.closing(open_image(path, "", read_only=True, active=False)) as image:
        if not isinstance(image, Qcow2Image):
            yield None
            return
        found = image.snapshots()
        yield [(_info(one, path), image.saved_state(one) if one.vm_state_size else None) for one in found]


@dataclass(frozen=True, slots=True)
class _Whole:
    """A snapshot that every writable disk has."""

    parts: Mapping[str, Snapshot]  # by drive

    @property
    def tag(self) -> str:
        """Its name."""
        return next(iter(self.parts.values())).name

    @property
    def holder(self) -> str:
        """The drive with the state; any of them when there is none."""
        return max(self.parts, key=lambda drive: self.parts[drive].vm_state_size)


class ImageSnapshots:
    """The snapshots of a machine with writable qcow2 disks. One command at a time."""

    def __init__(self, images: Mapping[str, Qcow2Image], blockers: Blockers, clock: Callable[[], int]) -> None:
        """`images` are the writable disks by drive, in order; `clock` is the guest's time in ns."""
        self._images = images
        self._blockers = blockers
        self._clock = clock

    def _whole(self) -> list[_Whole]:
        """Oldest first."""
        lists = {
            drive: {_moment(snapshot): snapshot for snapshot in image.snapshots()} for drive, image in self._images.items()
        }
        first = next(iter(lists.values()))
        moments = [moment for moment in first if all(moment in found for found in lists.values())]
        return [_Whole({drive: found[moment] for drive, found in lists.items()}) for moment in sorted(moments)]

    def list(self) -> list[SnapshotInfo]:
        """All of them, the oldest first; those that only some disks have behind them, by drive."""
        whole = self._whole()
        infos = [_info(found.parts[found.holder]) for found in whole]
        for drive, image in self._images.items():
            ours = {found.parts[drive].id for found in whole}
            infos += [_info(snapshot, drive) for snapshot in image.snapshots() if snapshot.id not in ours]
        return infos

    def _called(self, tag: str) -> dict[str, Sequence[Snapshot]]:
        return {
            drive: [snapshot for snapshot in image.snapshots() if snapshot.name == tag] for drive, image in self._images.items()
        }

    def _check_holder(self, vmstate: str) -> str:
        if vmstate not in self._images:
            raise MigrationError(f"vmstate block device '{vmstate:.80}' does not support snapshots")
        return vmstate

    def save(self, guest: Guest, tag: str, how: SaveOptions) -> SaveReport:
        """Save the guest as `tag`."""
        old = self._called(tag)
        if any(old.values()) and not how.overwrite:
            raise MigrationError(f"Snapshot '{tag:.80}' already exists in one or more devices")
        holder = next(iter(self._images)) if how.vmstate is None else self._check_holder(how.vmstate)
        place = _NewSnapshot(self._images, holder, tag, self._blockers, self._clock)
        report = save_inside(guest, place, how.on_progress)
        self._delete(old)
        return report

    def load(self, guest: Guest, tag: str, *, vmstate: str | None) -> None:
        """Become the guest saved as `tag`, its state in the drive `vmstate` if that is given."""
        found = [whole for whole in self._whole() if whole.tag == tag]
        if not found:
            raise MigrationError(f"Snapshot '{tag:.80}' does not exist in one or more devices")
        parts = found[-1].parts
        holder = found[-1].holder if vmstate is None else self._check_holder(vmstate)
        snapshot = parts[holder]
        if snapshot.vm_state_size == 0:
            raise MigrationError("This is a disk-only snapshot. Revert to it offline using qemu-img")

        def apply_disks() -> None:
            for drive, image in self._images.items():
                image.apply_snapshot(parts[drive].id)

        load_inside(guest, self._images[holder].saved_state(snapshot), apply_disks, label=f"snapshot {tag!r:.80}")

    def delete(self, tag: str) -> None:
        """Forget all that is called `tag`, on whichever disks it is."""
        gone = self._called(tag)
        if not any(gone.values()):
            raise MigrationError(f"Snapshot '{tag:.80}' does not exist in one or more devices")
        self._delete(gone)

    def _delete(self, gone: Mapping[str, Sequence[Snapshot]]) -> None:
        for drive, snapshots in gone.items():
            for snapshot in snapshots:
                self._images[drive].delete_snapshot(snapshot.id)


class _NewSnapshot:
    """A migration.protocols.NewSnapshot."""

    def __init__(
        self, images: Mapping[str, Qcow2Image], holder: str, tag: str, blockers: Blockers, clock: Callable[[], int]
    ) -> None:
        self._images = images
        self._holder = images[holder]
        self._tag = tag
        self._blockers = blockers
        self._clock = clock
        self._blocker: Blocker | None = None
        self._time_ns = self._clock_ns = 0
        self.cluster_size = self._holder.cluster_size

    def prepare(self) -> None:
        """Every image."""
        for image in self._images.values():
            image.check_snapshot(self._tag)

    def freeze(self) -> None:
        """All disks, or none with an error. From here on the guest cannot be moved away."""
        self._blocker = self._blockers.add(BEING_SAVED)
        self._time_ns, self._clock_ns = time.time_ns(), self._clock()
        try:
            for image in self._images.values():
                image.freeze()
        except BaseException:
            self.thaw()
            raise

    def put_state(self, position: int, data: bytearray | memoryview) -> None:
        """Into the image that holds the state."""
        self._holder.put_state(position, data)

    def keep(self, state_size: int) -> None:
        """The image that holds the state comes last: what ends before that has no state, and is not loaded."""
        kept: list[Qcow2Image] = []
        try:
            for image in sorted(self._images.values(), key=lambda image: image is self._holder):
                size = state_size if image is self._holder else 0
                times = {"time_ns": self._time_ns, "clock_ns": self._clock_ns}
                image.keep(self._tag, About(disk_size=image.size, state_size=size, **times))
                kept.append(image)
        except BaseException:
            for image in kept:
                with contextlib.suppress(ImageError):  # the first error says more
                    image.delete_snapshot(image.snapshots()[-1].id)
            raise
        self._unblock()

    def thaw(self) -> None:
        """There will be no snapshot."""
        for image in self._images.values():
            image.thaw()
        self._unblock()

    def _unblock(self) -> None:
        if self._blocker is not None:
            self._blocker.remove()


def _moment(snapshot: Snapshot) -> tuple[int, int, str]:
    return snapshot.date, snapshot.date_ns, snapshot.name


def _info(snapshot: Snapshot, drive: str = "") -> SnapshotInfo:
    taken = snapshot.date * 1_000_000_000 + snapshot.date_ns
    identity = snapshot.id if drive else "--"
    return SnapshotInfo(snapshot.name, snapshot.vm_state_size, taken, snapshot.vm_clock_ns, drive, identity)
