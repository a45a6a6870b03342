"""Disks as they move with their guest: what changed, what is there at all, and real images copied while they are written to."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emu.block.changes import Changes
from emu.block.image import Image, open_image
from emu.block.moved import MovedDisk
from emu.block.set import ImageSet
from emu.errors import ImageError
from migration.manager import Migrations
from migration.protocols import BLOCK, Step
from migration.settings import DiskMode
from tests.emu.block.qcow2.tools import CLEAN, KIB, check, content, create, needs_qemu_img, qemu_img
from tests.migration.fakes import pair

SIZE = 40 * BLOCK + 3 * 512
WAIT = 20  # seconds; only a hang takes so long


def set_in(flags: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[int]:
    return [int(block) for block in np.flatnonzero(flags)]


def raw(path: Path, size: int = SIZE) -> Image:
    with path.open("wb") as file:
        file.truncate(size)
    return open_image(str(path), "raw", read_only=False, active=True)


def qcow2(path: Path, options: str = "", backing: Path | None = None) -> Image:
    return open_image(
        str(create(path, SIZE, options, backing=backing, backing_format="raw")), "qcow2", read_only=False, active=True
    )


# Changes


def test_nothing_is_noted_unless_asked_for() -> None:
    changes = Changes()
    changes.note(0, 100)
    assert not len(changes.take())

    changes.start(1000, 100)
    changes.note(199, 2)
    changes.stop()
    changes.note(0, 100)

    assert not len(changes.take())


def test_a_note_is_taken_once() -> None:
    changes = Changes()
    changes.start(950, 100)
    changes.note(199, 2)
    changes.note(949, 1)

    assert set_in(changes.take()) == [1, 2, 9]
    assert set_in(changes.take()) == []


CHANGES: dict[str, Callable[[Image], None]] = {
    "write": lambda image: image.writev(3 * BLOCK - 512, [b"x" * 1024]),
    "discard": lambda image: image.discard(2 * BLOCK, 2 * BLOCK),
    "zeroes": lambda image: image.write_zeroes(2 * BLOCK, 2 * BLOCK, unmap=True),
    "kept zeroes": lambda image: image.write_zeroes(2 * BLOCK, 2 * BLOCK, unmap=False),
}


@needs_qemu_img
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_every_way_to_change_a_disk_is_noted(format: str, change: str, tmp_path: Path) -> None:  # noqa: A002 - as drives call it
    image = raw(tmp_path / "disk") if format == "raw" else qcow2(tmp_path / "disk")
    disk = MovedDisk("disk", image, BLOCK)
    disk.watch()

    CHANGES[change](image)

    assert set_in(disk.changed()) == [2, 3]
    image.close()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_failed_is_noted_for_it_may_have_been_made_in_part(change: str, tmp_path: Path) -> None:
    image = raw(tmp_path / "disk")
    disk = MovedDisk("disk", image, BLOCK)
    disk.watch()
    image.inactivate()

    with pytest.raises(ImageError):
        CHANGES[change](image)

    assert set_in(disk.changed()) == [2, 3]


# What is there


def test_holes_of_a_raw_disk_are_not_filled(tmp_path: Path) -> None:
    image = raw(tmp_path / "disk")
    image.writev(5 * BLOCK, [b"x" * BLOCK])

    assert set_in(MovedDisk("disk", image, BLOCK).filled()) == [5]


@needs_qemu_img
def test_what_an_overlay_has_itself_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"b" * SIZE)
    image = qcow2(tmp_path / "disk", backing=tmp_path / "base")
    disk = MovedDisk("disk", image, BLOCK)
    image.writev(5 * BLOCK, [b"x" * 512])
    image.write_zeroes(7 * BLOCK, BLOCK, unmap=True)

    assert set_in(disk.own()) == [5, 7]
    assert set_in(~disk.filled()) == [7]
    image.close()


@needs_qemu_img
def test_holes_behind_an_overlay_are_not_filled(tmp_path: Path) -> None:
    base = raw(tmp_path / "base", SIZE - 3 * BLOCK)
    base.writev(20 * BLOCK, [b"b" * BLOCK])
    base.close()
    qcow2(tmp_path / "middle", backing=tmp_path / "base").close()
    create(tmp_path / "disk", SIZE, backing=tmp_path / "middle")
    image = open_image(str(tmp_path / "disk"), "qcow2", read_only=False, active=True)
    image.writev(5 * BLOCK, [b"x" * 512])

    assert set_in(MovedDisk("disk", image, BLOCK).filled()) == [5, 20]
    image.close()


@needs_qemu_img
@pytest.mark.parametrize("options", ["", "compat=0.10"])
def test_an_emptied_overlay_is_as_its_backing_file(options: str, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"b" * SIZE)
    image = qcow2(tmp_path / "disk", options, backing=tmp_path / "base")
    image.writev(5 * BLOCK + 17, [b"x" * 3 * BLOCK])
    image.writev(SIZE - 512, [b"y" * 512])

    MovedDisk("disk", image, BLOCK).make_empty()

    assert content(image) == b"b" * SIZE
    image.close()
    assert check(tmp_path / "disk") == CLEAN


@needs_qemu_img
def test_a_backing_file_is_known_by_size_and_content(tmp_path: Path) -> None:
    def fingerprint(name: str, data: bytes) -> str | None:
        (tmp_path / f"{name}.base").write_bytes(data)
        image = qcow2(tmp_path / name, backing=tmp_path / f"{name}.base")
        found = MovedDisk("disk", image, BLOCK).backing()
        image.close()
        return found

    one = fingerprint("one", b"a" * SIZE)

    assert one == fingerprint("copy", b"a" * SIZE)
    assert one != fingerprint("longer", b"a" * (SIZE + 512))
    assert one != fingerprint("other", b"b" * SIZE)
    assert MovedDisk("disk", raw(tmp_path / "none"), BLOCK).backing() is None


def test_an_image_has_one_place_under_all_its_names(tmp_path: Path) -> None:
    for name in ("one", "other"):
        raw(tmp_path / name).close()
    (tmp_path / "link").symlink_to("one")

    one, link, other = (
        open_image(str(tmp_path / name), "raw", read_only=False, active=False) for name in ("one", "link", "other")
    )

    assert MovedDisk("disk", one, BLOCK).place == MovedDisk("disk", link, BLOCK).place
    assert MovedDisk("disk", one, BLOCK).place != MovedDisk("disk", other, BLOCK).place


def test_reads_and_writes_end_with_the_disk(tmp_path: Path) -> None:
    one, other = raw(tmp_path / "one"), raw(tmp_path / "other")
    one.writev(SIZE - 512, [b"e" * 512])
    data = memoryview(bytearray(b"?" * 2 * BLOCK))

    MovedDisk("one", one, BLOCK).read(39, data)
    MovedDisk("other", other, BLOCK).write(39, data)
    MovedDisk("other", other, BLOCK).zero(0, 39)

    assert data[SIZE - 39 * BLOCK :] == bytes(41 * BLOCK - SIZE)
    assert content(other) == content(one)


# Copies of a disk that is written to


def scribble(image: Image, chance: random.Random) -> None:
    """One request as a guest makes them."""
    offset = chance.randrange(SIZE // 512) * 512
    length = min(chance.choice((512, 4096, 100 * KIB)), SIZE - offset)
    match chance.randrange(5):
        case 0:
            image.discard(offset, length)
        case 1:
            image.write_zeroes(offset, length, unmap=chance.random() < 0.5)
        case _:
            image.writev(offset, [chance.randbytes(length)])


@needs_qemu_img
@pytest.mark.parametrize(
    ("mode", "here", "there"),
    [
        (DiskMode.FULL, "raw", "raw"),
        (DiskMode.FULL, "raw", "qcow2"),
        (DiskMode.FULL, "qcow2", "raw"),
        (DiskMode.FULL, "overlay", "qcow2"),
        (DiskMode.FULL, "overlay", "overlay"),
        (DiskMode.FULL, "raw", "old overlay"),
        (DiskMode.INCREMENTAL, "overlay", "overlay"),
        (DiskMode.INCREMENTAL, "overlay", "old overlay"),
        (DiskMode.INCREMENTAL, "old overlay", "overlay"),
    ],
)
def test_the_disks_are_equal_in_the_end(mode: DiskMode, here: str, there: str, tmp_path: Path) -> None:
    chance = random.Random(f"{mode} {here} {there}")
    (tmp_path / "base").write_bytes(chance.randbytes(SIZE))
    images = {name: made(kind, tmp_path, name) for name, kind in (("one", here), ("other", there))}
    for image in images.values():
        for _ in range(20):
            scribble(image, chance)
    images["other"].inactivate()
    guest, coming = pair()
    guest.disks, coming.disks = ImageSet([images["one"]]), ImageSet([images["other"]])  # type: ignore[assignment]  # the real thing
    guest.moved, coming.moved = ([MovedDisk("disk", image, BLOCK)] for image in images.values())
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            scribble(images["one"], chance)

    worker = threading.Thread(target=work)

    def hold(step: Step) -> None:
        if step is Step.GUEST_HELD:
            stop.set()
            worker.join(WAIT)

    source, destination = Migrations(guest, hook=hold), Migrations(coming)
    worker.start()
    source.migrate(destination.incoming(f"unix:{tmp_path / 'm'}"), mode)
    assert source.wait_over(WAIT)
    assert destination.wait_over(WAIT)
    stop.set()

    assert (source.error, destination.error) == ("", "")
    for image in images.values():
        image.close()
    qemu_img("compare", "-f", form(here), "-F", form(there), tmp_path / "one", tmp_path / "other")
    for name, kind in (("one", here), ("other", there)):
        assert kind == "raw" or check(tmp_path / name) == CLEAN


def form(kind: str) -> str:
    return "raw" if kind == "raw" else "qcow2"


def made(kind: str, folder: Path, name: str) -> Image:
    match kind:
        case "raw":
            shutil.copy(folder / "base", folder / name)
            return open_image(str(folder / name), "raw", read_only=False, active=True)
        case "qcow2":
            return qcow2(folder / name, "cluster_size=4k")
        case "overlay":
            return qcow2(folder / name, "cluster_size=4k", backing=folder / "base")
        case _:
            return qcow2(folder / name, "compat=0.10,cluster_size=128k", backing=folder / "base")
