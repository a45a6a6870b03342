"""Opened, activated, let go, read afresh: a qcow2 image as raw ones are, and QEMU's as ours."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from emu.block.owner import XATTR
from emu.block.qcow2.image import Qcow2Image
from emu.block.qcow2.snapshottable import About
from emu.errors import ImageErrorKind
from tests.emu.block.qcow2.tools import (
    CLEAN,
    KIB,
    MIB,
    assert_qemu_reads,
    check,
    content,
    create,
    needs_qemu_img,
    opened,
    qemu_img,
    read,
    refused,
    state,
)

pytestmark = needs_qemu_img


def test_an_inactive_image_can_be_read_and_is_not_written_to(path: Path) -> None:
    before = state(path)
    image = opened(path, active=False)

    zeroes = read(image, 0, 4096)
    with refused(ImageErrorKind.INACTIVE, "is inactive, refused to write 1 bytes at 0x0"):
        image.writev(0, [b"x"])
    with refused(ImageErrorKind.INACTIVE):
        image.write_zeroes(0, 512, unmap=False)
    with refused(ImageErrorKind.INACTIVE):
        image.discard(0, 512)
    image.flush()
    image.inactivate()
    image.close()

    assert zeroes == bytes(4096)
    assert state(path) == before


def test_nothing_is_written_after_inactivation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = opened(path)
    image.writev(0, [b"x" * 100_000])
    image.discard(0, 65536)
    image.inactivate()
    calls: list[str] = []
    for name in ("pwritev", "fsync", "fdatasync", "setxattr", "ftruncate"):
        monkeypatch.setattr(os, name, lambda *_, name=name: calls.append(name))

    image.flush()
    image.inactivate()
    image.close()

    assert calls == []
    assert check(path) == CLEAN


def test_activating_or_inactivating_twice_is_harmless(path: Path) -> None:
    image = opened(path)
    image.activate()
    image.writev(0, [b"x"])
    image.inactivate()
    image.inactivate()
    image.activate()
    image.writev(1, [b"y"])
    image.close()
    image.close()

    assert not image.active
    assert_qemu_reads(path, b"xy" + bytes(MIB - 2))


def test_what_another_process_changed_is_seen_at_activation(path: Path, tmp_path: Path) -> None:
    """QEMU iotest 196: a destination that was opened before the source was done."""
    base = create(tmp_path / "base.qcow2", MIB)
    raw = random.Random(1).randbytes(2 * MIB)
    (tmp_path / "raw").write_bytes(raw)
    destination = opened(path, active=False)
    destination.readv(0, [bytearray(MIB)])

    source = opened(path)
    source.writev(3, [b"metadata"])
    source.inactivate()
    destination.activate()
    first = read(destination, 0, 16)
    destination.inactivate()
    qemu_img("resize", "-f", "qcow2", path, 2 * MIB)
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "raw", path)
    destination.activate()

    assert first == b"\0\0\0metadata\0\0\0\0\0"
    assert destination.size == 2 * MIB
    assert read(destination, MIB, MIB) == raw[MIB:]
    assert base.exists()


def test_tables_and_snapshots_made_after_the_destination_opened_the_image_are_seen_there(tmp_path: Path) -> None:
    """QEMU iotest 196, with all that grows: at 512-byte clusters one cluster of the refcount table covers 2 MiB."""
    chance = random.Random(196)
    path = create(tmp_path / "disk.qcow2", 2 * MIB, "cluster_size=512,refcount_bits=64")
    destination = opened(path, active=False)
    before, kept = bytearray(content(destination)), chance.randbytes(2 * MIB)
    was = struct.unpack_from(">I", path.read_bytes(), 56)

    source = opened(path)
    assert isinstance(source, Qcow2Image)
    source.writev(0, [kept])
    source.freeze()
    source.put_state(0, b"s" * 64 * KIB)
    source.keep("moves", About(time_ns=0, disk_size=2 * MIB, state_size=64 * KIB))
    source.writev(12345, [b"after"])
    source.inactivate()
    destination.activate()
    assert isinstance(destination, Qcow2Image)
    [snapshot] = destination.snapshots()
    state = bytearray(64 * KIB)
    destination.saved_state(snapshot).readv(0, [state])
    there = content(destination) == kept[:12345] + b"after" + kept[12350:]
    destination.apply_snapshot("moves")
    destination.delete_snapshot("moves")
    destination.inactivate()
    source.activate()

    assert before == bytes(2 * MIB)
    assert struct.unpack_from(">I", path.read_bytes(), 56) > was
    assert (snapshot.name, state == b"s" * 64 * KIB, there) == ("moves", True, True)
    assert (source.snapshots(), content(source) == kept) == ([], True)
    source.inactivate()
    assert check(path) == CLEAN


def test_an_image_moves_back_and_forth(path: Path) -> None:
    chance = random.Random(5)
    expected = bytearray(MIB)
    sides = [opened(path, active=False), opened(path, active=False)]
    for turn in range(20):
        here = sides[turn % 2]
        here.activate()
        same = content(here) == expected
        assert same
        offset = chance.randrange(MIB - 70_000)
        data = chance.randbytes(70_000)
        here.writev(offset, [data])
        expected[offset : offset + len(data)] = data
        here.discard(0, 65536 * (turn % 3))
        expected[: 65536 * (turn % 3)] = bytes(65536 * (turn % 3))
        here.inactivate()

    assert check(path) == CLEAN
    assert_qemu_reads(path, expected)


def test_an_image_written_to_elsewhere_is_refused_when_it_must_be_unchanged(path: Path) -> None:
    source = opened(path)
    source.writev(0, [b"x"])
    source.inactivate()
    other = opened(path)
    other.writev(0, [b"y"])
    other.close()

    with refused(ImageErrorKind.STALE, "was written to by another emu"):
        source.activate(expect_unchanged=True)

    source.activate()
    assert read(source, 0, 1) == b"y"


def test_an_activation_that_never_writes_leaves_no_mark(path: Path) -> None:
    image = opened(path)
    image.readv(0, [bytearray(512)])
    image.flush()
    image.close()

    assert os.listxattr(path) == []


def test_the_first_write_leaves_the_owner_mark(path: Path) -> None:
    image = opened(path)
    image.writev(0, [b"x"])

    assert os.listxattr(path) == [XATTR]
    image.close()


@pytest.mark.parametrize(
    "options",
    [
        *(f"cluster_size={1 << bits}" for bits in range(9, 22)),
        *(f"refcount_bits={1 << order}" for order in range(7)),
        "compat=0.10",
        "lazy_refcounts=on",
        "preallocation=metadata",
        "preallocation=falloc",
    ],
)
def test_images_that_qemu_made_and_we_write_to_are_right_for_both(options: str, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(700_000) + bytes(68 * KIB)
    data += bytes(-len(data) % 512)
    (tmp_path / "raw").write_bytes(data)
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", options, tmp_path / "raw", path)

    image = opened(path)
    same = content(image) == data
    image.writev(100_001, [b"ours" * 10_000])
    image.close()

    assert same
    assert check(path) == CLEAN
    assert_qemu_reads(path, data[:100_001] + b"ours" * 10_000 + data[140_001:])


def test_refcount_table_grows(tmp_path: Path) -> None:
    """At 512-byte clusters and 64-bit counts one table cluster covers 2 MiB."""
    path = create(tmp_path / "disk.qcow2", 64 * MIB, "cluster_size=512,refcount_bits=64")
    (was,) = struct.unpack_from(">I", path.read_bytes(), 56)
    image = opened(path)
    data = random.Random(1).randbytes(MIB)
    for turn in range(20):
        image.writev(turn * 3 * MIB, [data])
    image.close()

    (grown,) = struct.unpack_from(">I", path.read_bytes(), 56)
    assert grown > was
    assert check(path) == CLEAN
    reader = opened(path, read_only=True)
    assert all(read(reader, turn * 3 * MIB, MIB) == data for turn in range(20))


def test_discard_gives_space_back(path: Path) -> None:
    image = opened(path)
    image.writev(0, [b"x" * MIB])
    image.flush()
    full = path.stat().st_blocks

    image.discard(0, MIB)
    image.flush()

    assert path.stat().st_blocks < full // 2
    assert list(image.data_runs()) == []
    image.close()


def test_a_full_host_fails_the_write_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = opened(path)
    image.writev(0, [b"x" * 65536])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with refused(ImageErrorKind.IO, "No space left on device"):
            image.writev(65536, [b"y" * 65536])
        with refused(ImageErrorKind.IO):
            image.flush()
        with refused(ImageErrorKind.IO):
            image.inactivate()
        still_active = image.active
    image.writev(131072, [b"z" * 65536])
    image.close()

    assert still_active
    assert check(path) == CLEAN
    assert_qemu_reads(path, b"x" * 65536 + bytes(65536) + b"z" * 65536 + bytes(MIB - 3 * 65536))


def test_a_run_of_clusters_is_one_system_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = opened(path)
    image.writev(0, [b"x" * MIB])
    calls: list[int] = []
    preadv, pwritev = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda *given: calls.append(1) or preadv(*given))
    monkeypatch.setattr(os, "pwritev", lambda *given: calls.append(1) or pwritev(*given))

    image.readv(100, [bytearray(MIB - 200)])
    image.writev(100, [bytes(MIB - 200)])

    assert len(calls) == 2
    image.close()


def test_qemu_refuses_an_image_we_hold(path: Path) -> None:
    image = opened(path)

    qemu = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read 0 512", str(path)], capture_output=True, text=True)

    assert "lock" in qemu.stderr
    image.close()
