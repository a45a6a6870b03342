"""Internal snapshots, ours and QEMU's: each does what it should with the other's."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emu.block.qcow2.image import Qcow2Image
from emu.block.qcow2.snapshottable import About
from emu.errors import ImageError
from tests.emu.block.qcow2.tools import (
    CLEAN,
    KIB,
    MIB,
    Model,
    assert_qemu_reads,
    check,
    content,
    create,
    needs_qemu_img,
    opened,
    qemu_img,
    take_snapshot,
)

pytestmark = [needs_qemu_img, pytest.mark.usefixtures("no_sync")]

SEED = int(os.environ.get("EMU_TEST_SEED", "20250101"))
NOW = 1_700_000_000_123_456_789


def snapshotted(path: Path) -> Qcow2Image:
    image = opened(path)
    assert isinstance(image, Qcow2Image)
    return image


OPTIONS = ["cluster_size=512,refcount_bits=4", "cluster_size=4k,compat=0.10", "cluster_size=64k"]


@pytest.mark.parametrize("options", OPTIONS)
def test_snapshots_we_make_are_right_for_qemu(options: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", MIB, options)
    model, kept = Model(path, random.Random(SEED)), {}
    for tag in ("one", "two", "three"):
        for _ in range(100):
            model.step()
        assert isinstance(model.image, Qcow2Image)
        take_snapshot(model.image, tag, time_ns=NOW)
        kept[tag] = bytes(model.expected)
    for _ in range(100):
        model.step()
    model.judge()

    listed = qemu_img("snapshot", "-l", path)
    for tag, expected in kept.items():
        assert tag in listed
        qemu_img("snapshot", "-a", tag, path)
        assert check(path) == CLEAN
        assert_qemu_reads(path, expected)
    qemu_img("snapshot", "-d", "two", path)
    assert check(path) == CLEAN


@pytest.mark.parametrize("options", OPTIONS)
def test_any_order_of_making_applying_and_deleting_is_clean(options: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    path = create(tmp_path / "disk.qcow2", 256 * KIB, options)
    model, kept = Model(path, chance), dict[str, bytes]()
    image = model.image
    assert isinstance(image, Qcow2Image)
    for turn in range(60):
        for _ in range(chance.randrange(8)):
            model.step()
        kind = chance.choice(("create", "apply", "delete")) if kept else "create"
        tag = chance.choice(sorted(kept)) if kept else ""
        if kind == "create" and len(kept) < 10:
            take_snapshot(image, f"t{turn}", time_ns=NOW)
            kept[f"t{turn}"] = bytes(model.expected)
        elif kind == "apply":
            image.apply_snapshot(tag)
            model.expected[:] = kept[tag]
        elif kind == "delete":
            image.delete_snapshot(tag)
            del kept[tag]
        if turn % 10 == 0:
            model.judge()
            model.image = image = snapshotted(path)

    assert {snapshot.name for snapshot in image.snapshots()} == set(kept)
    model.judge()
    for tag, expected in kept.items():
        qemu_img("snapshot", "-a", tag, path)
        assert_qemu_reads(path, expected)


def test_qemus_snapshots_are_listed_applied_and_deleted(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", MIB)
    first = opened(path)
    first.writev(0, [b"a" * 100_000])
    first.close()
    qemu_img("snapshot", "-c", "before", path)
    image = snapshotted(path)
    image.writev(50_000, [b"b" * 100_000])

    (found,) = image.snapshots()
    image.apply_snapshot("before")
    applied = content(image)
    image.delete_snapshot(found.id)
    image.close()

    assert (found.id, found.name, found.disk_size) == ("1", "before", MIB)
    assert applied == b"a" * 100_000 + bytes(MIB - 100_000)
    assert check(path) == CLEAN
    assert "before" not in qemu_img("snapshot", "-l", path)
    assert_qemu_reads(path, applied)


def test_compressed_clusters_are_counted_in_snapshots(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"compressible" * 32768)
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", tmp_path / "raw", path)
    image = snapshotted(path)

    take_snapshot(image, "packed", time_ns=NOW)
    image.writev(1000, [b"x" * 50_000])
    image.apply_snapshot("packed")
    image.delete_snapshot("packed")
    image.close()

    assert check(path) == CLEAN
    assert_qemu_reads(path, b"compressible" * 32768)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_snapshot_shows_the_disk_as_it_was_when_it_began(options: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", MIB, options)
    model, kept = Model(path, random.Random(SEED)), {}
    image = model.image
    assert isinstance(image, Qcow2Image)
    state = random.Random(1).randbytes(64 * KIB) + bytes(192 * KIB) + b"end".ljust(64 * KIB, b"\0")
    for tag in ("one", "two", "three"):
        steps(model, 100)
        kept[tag] = bytes(model.expected)
        image.check_snapshot(tag)
        image.freeze()
        steps(model, 50)
        image.put_state(256 * KIB, memoryview(state)[256 * KIB :])
        steps(model, 50)
        image.put_state(0, memoryview(state)[: 256 * KIB])
        image.keep(tag, About(time_ns=NOW, disk_size=MIB, clock_ns=3_723_004_000_000, state_size=len(state) - 100))
        steps(model, 50)
    image.freeze()
    steps(model, 100)
    image.put_state(0, state)
    image.thaw()
    steps(model, 100)
    saved = [image.saved_state(snapshot) for snapshot in image.snapshots()]
    states = [bytearray(len(state)) for _ in saved]
    for source, target in zip(saved, states, strict=True):
        source.readv(0, [target])
    filled = sum(length for _position, length in saved[0].data_runs(0, len(state)))
    model.judge()

    assert [source.size for source in saved] == [len(state) - 100] * 3
    assert states == [state] * 3
    assert filled == 128 * KIB if "64k" in options else filled <= 68 * KIB
    listed = qemu_img("snapshot", "-l", path).splitlines()
    for line, (tag, expected) in zip(listed[2:], kept.items(), strict=True):
        assert line.split()[1:4] == [tag, "320", "KiB"]
        assert "01:02:03.004" in line
        qemu_img("snapshot", "-a", tag, path)
        assert check(path) == CLEAN
        assert_qemu_reads(path, expected)
    for tag in kept:
        qemu_img("snapshot", "-d", tag, path)
        assert check(path) == CLEAN


def steps(model: Model, count: int) -> None:
    """The image stays open: one that is let go has no snapshot being made."""
    for _ in range(count):
        kind = model.chance.choices(("write", "read", "zero", "discard", "flush"), (40, 20, 15, 15, 1))[0]
        getattr(model, kind)(*model.extent())


def test_a_deleted_state_gives_its_space_back(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", MIB)
    image = snapshotted(path)
    before = path.stat().st_blocks
    for tag in ("one", "two", "three"):
        image.freeze()
        image.put_state(0, random.Random(1).randbytes(4 * MIB))
        image.keep(tag, About(time_ns=NOW, disk_size=MIB, state_size=4 * MIB))
        image.delete_snapshot(tag)
    image.close()

    assert check(path) == CLEAN
    assert path.stat().st_blocks - before < 512 * KIB // 512
    assert path.stat().st_size < 8 * MIB


def test_a_table_of_more_snapshots_than_are_read_at_once_is_whole(tmp_path: Path) -> None:
    image = snapshotted(create(tmp_path / "disk.qcow2", 64 * KIB, "cluster_size=64k"))
    names = [f"{number:03}".ljust(250, "x") for number in range(20)]
    for name in names:
        take_snapshot(image, name)

    assert [snapshot.name for snapshot in image.snapshots()] == names


def test_a_host_that_is_full_at_any_write_costs_the_snapshot_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev = os.pwritev
    for allowed in itertools.count():
        path = create(tmp_path / f"{allowed}.qcow2", MIB, "cluster_size=4k")
        image = snapshotted(path)
        image.writev(0, [b"a" * MIB])
        image.check_snapshot("one")
        image.freeze()
        image.writev(0, [b"b" * (MIB // 2)])
        image.put_state(0, b"s" * MIB)
        left = itertools.count(allowed, -1)

        def write(fd: int, buffers: list[bytes], offset: int, left: Iterator[int] = left) -> int:
            if next(left) <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return pwritev(fd, buffers, offset)

        monkeypatch.setattr(os, "pwritev", write)
        with contextlib.suppress(ImageError):
            image.keep("one", About(time_ns=NOW, disk_size=MIB, state_size=MIB))
        monkeypatch.setattr(os, "pwritev", pwritev)
        kept = bool(image.snapshots())
        image.thaw()
        image.writev(MIB // 4, [b"c" * (MIB // 2)])
        expected = b"b" * (MIB // 4) + b"c" * (MIB // 2) + b"a" * (MIB // 4)
        assert content(image) == expected
        image.close()
        assert check(path).corruptions == 0
        assert_qemu_reads(path, expected)
        if kept:
            break
    assert allowed > 5


def test_an_image_that_is_let_go_has_no_snapshot_being_made(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", MIB)
    image = snapshotted(path)
    image.writev(0, [b"a" * MIB])
    image.freeze()
    image.writev(0, [b"b" * MIB])
    image.put_state(0, b"s" * MIB)
    with pytest.raises(ImageError, match="has a snapshot being made"):
        image.freeze()
    with pytest.raises(ImageError, match="has a snapshot being made"):
        image.apply_snapshot("1")

    image.inactivate()

    assert check(path) == CLEAN
    assert content(image) == b"b" * MIB
    image.activate()
    with pytest.raises(ImageError, match="has no snapshot being made"):
        image.keep("late", About(time_ns=NOW, disk_size=MIB))


def test_a_state_longer_than_its_tables_is_refused(tmp_path: Path) -> None:
    image = snapshotted(create(tmp_path / "disk.qcow2", MIB))
    take_snapshot(image, "one")
    hostile = replace(image.snapshots()[0], vm_state_size=1 << 40)

    with pytest.raises(ImageError, match="with a state of 1099511627776 bytes, its tables have 1 entries"):
        image.saved_state(hostile)


def test_counts_that_outgrow_their_table_while_they_are_moved_are_right(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", 4 * MIB, "cluster_size=512,refcount_bits=64")  # a table of counts for 2 MiB
    image = snapshotted(path)
    offset = 0
    while path.stat().st_size < 2 * MIB - 48 * KIB:
        image.writev(offset, [b"x" * 16 * KIB])
        offset += 16 * KIB
    while path.stat().st_size < 2 * MIB + 16 * KIB:
        image.writev(offset, [b"y" * 1536])
        offset += 1536
        take_snapshot(image, "one")
        image.delete_snapshot("one")
    image.close()

    assert check(path) == CLEAN


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    image = snapshotted(create(tmp_path / "disk.qcow2", MIB))
    narrow = snapshotted(create(tmp_path / "narrow.qcow2", MIB, "refcount_bits=1"))

    with pytest.raises(ImageError, match="has no snapshot 'gone'"):
        image.apply_snapshot("gone")
    with pytest.raises(ImageError, match="has no snapshot 'gone'"):
        image.delete_snapshot("gone")
    with pytest.raises(ImageError, match=r"names are 1\.\.255 bytes"):
        take_snapshot(image, "", time_ns=NOW)
    with pytest.raises(ImageError, match="has refcounts up to 1, too few for a disk and 1 snapshots"):
        take_snapshot(narrow, "one", time_ns=NOW)
    image.inactivate()
    with pytest.raises(ImageError, match="is inactive, refused to make a snapshot"):
        take_snapshot(image, "one", time_ns=NOW)
