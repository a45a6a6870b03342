"""Internal snapshots, ours and QEMU's: each does what it should with the other's."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from emu.block.qcow2.image import Qcow2Image
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
        model.image.create_snapshot(tag, time_ns=NOW)
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
            image.create_snapshot(f"t{turn}", time_ns=NOW)
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

    image.create_snapshot("packed", time_ns=NOW)
    image.writev(1000, [b"x" * 50_000])
    image.apply_snapshot("packed")
    image.delete_snapshot("packed")
    image.close()

    assert check(path) == CLEAN
    assert_qemu_reads(path, b"compressible" * 32768)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    image = snapshotted(create(tmp_path / "disk.qcow2", MIB))
    narrow = snapshotted(create(tmp_path / "narrow.qcow2", MIB, "refcount_bits=1"))

    with pytest.raises(ImageError, match="has no snapshot 'gone'"):
        image.apply_snapshot("gone")
    with pytest.raises(ImageError, match="has no snapshot 'gone'"):
        image.delete_snapshot("gone")
    with pytest.raises(ImageError, match=r"names are 1\.\.255 bytes"):
        image.create_snapshot("", time_ns=NOW)
    with pytest.raises(ImageError, match="has refcounts up to 1, too few for a disk and 1 snapshots"):
        narrow.create_snapshot("one", time_ns=NOW)
    image.inactivate()
    with pytest.raises(ImageError, match="is inactive, refused to make a snapshot"):
        image.create_snapshot("one", time_ns=NOW)
