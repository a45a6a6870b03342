"""The owner mark: who may take a disk back by hand after its guest moved away."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.block.file import ImageFile
from emu.block.owner import XATTR, Mark, SidecarMarks, mark_store
from emu.errors import ImageError, ImageErrorKind

Open = Callable[[], ImageFile]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture(params=["xattr", "sidecar"])
def open_file(request: pytest.FixtureRequest, path: Path) -> Open:
    """Open the image as one emu after the other would, inactive, with marks in each of the two places."""
    stores = {"xattr": mark_store, "sidecar": lambda _fd, name: SidecarMarks(name)}
    return lambda: ImageFile(str(path), read_only=False, marks=stores[request.param])


def used_and_let_go(file: ImageFile) -> ImageFile:
    file.activate()
    file.writev(0, [b"source"])
    file.inactivate()
    return file


def test_disk_nobody_wrote_to_is_taken_back(open_file: Open) -> None:
    source = used_and_let_go(open_file())
    destination = open_file()
    destination.activate()
    destination.close()

    source.activate(expect_unchanged=True)

    assert source.active


def test_disk_the_destination_wrote_to_is_refused(open_file: Open, path: Path) -> None:
    source = used_and_let_go(open_file())
    destination = open_file()
    destination.activate()
    destination.writev(0, [b"destination"])
    destination.close()

    with pytest.raises(ImageError) as caught:
        source.activate(expect_unchanged=True)

    assert caught.value.kind is ImageErrorKind.STALE
    assert str(caught.value) == (
        f"{path}: was written to by another emu since this guest let it go (epoch 2, was 1); "
        "resuming here would pair old memory with newer disk contents"
    )
    assert not source.active


def test_destination_that_died_after_its_first_write_is_noticed(open_file: Open) -> None:
    source = used_and_let_go(open_file())
    child = os.fork()
    if child == 0:
        destination = open_file()
        destination.activate()
        destination.writev(4095, [b"!"])
        os._exit(0)
    os.waitpid(child, 0)

    with pytest.raises(ImageError) as caught:
        source.activate(expect_unchanged=True)

    assert caught.value.kind is ImageErrorKind.STALE


def test_refused_image_leaves_no_lock(open_file: Open) -> None:
    source = used_and_let_go(open_file())
    used_and_let_go(open_file())

    with pytest.raises(ImageError):
        source.activate(expect_unchanged=True)

    third = open_file()
    third.activate()
    assert third.active


def test_mark_is_there_before_the_first_byte(open_file: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_file()
    file.activate()
    seen: list[bool] = []

    def spy(_fd: int, buffers: list[bytes], _offset: int) -> int:
        seen.append(bool(os.listxattr(path)) or path.with_name(".disk.img.emu-owner").exists())
        return sum(map(len, buffers))

    monkeypatch.setattr(os, "pwritev", spy)
    file.writev(0, [b"x"])

    assert seen == [True]


def test_activation_that_never_writes_leaves_no_mark(open_file: Open, path: Path) -> None:
    file = open_file()
    file.activate()
    file.readv(0, [bytearray(512)])
    file.flush()
    file.close()

    assert os.listxattr(path) == []
    assert [entry.name for entry in path.parent.iterdir()] == ["disk.img"]


def test_each_activation_that_writes_raises_the_epoch_once(path: Path) -> None:
    for _ in range(3):
        file = ImageFile(str(path), read_only=False)
        file.activate()
        file.writev(0, [b"a"])
        file.write_zeroes(0, 512, unmap=True)
        file.close()

    assert Mark.parse(os.getxattr(path, XATTR)).epoch == 3


def test_plain_activation_accepts_a_disk_others_wrote_to(open_file: Open) -> None:
    source = used_and_let_go(open_file())
    used_and_let_go(open_file())

    source.activate()

    assert source.active


def test_change_by_a_program_without_marks_is_noticed(open_file: Open, path: Path) -> None:
    source = used_and_let_go(open_file())
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))

    with pytest.raises(ImageError, match="was changed by another program since this guest let it go") as caught:
        source.activate(expect_unchanged=True)

    assert caught.value.kind is ImageErrorKind.STALE


def test_change_of_size_is_named(open_file: Open, path: Path) -> None:
    source = used_and_let_go(open_file())
    os.truncate(path, 8192)

    with pytest.raises(ImageError, match=r"size 8192, was 4096"):
        source.activate(expect_unchanged=True)


def test_own_later_writes_are_remembered_at_the_next_letting_go(open_file: Open) -> None:
    source = used_and_let_go(open_file())
    source.activate(expect_unchanged=True)
    source.writev(0, [b"more"])
    source.inactivate()

    source.activate(expect_unchanged=True)

    assert source.active


def test_reading_a_disk_read_only_elsewhere_changes_nothing(open_file: Open, path: Path) -> None:
    source = used_and_let_go(open_file())
    reader = ImageFile(str(path), read_only=True)
    reader.activate()
    reader.close()

    source.activate(expect_unchanged=True)

    assert source.active


@pytest.mark.parametrize("raw", [b"", b"garbage", b"9" * 60, b"-1 " + b"0" * 32, b"\xff" * 64])
def test_unreadable_mark_is_just_another_mark(path: Path, raw: bytes) -> None:
    os.setxattr(path, XATTR, raw)
    file = ImageFile(str(path), read_only=False)
    file.activate()
    file.writev(0, [b"x"])
    file.close()

    assert Mark.parse(os.getxattr(path, XATTR)).epoch == 1


def test_symbolic_links_share_the_sidecar(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.img"
    link.symlink_to(path)

    assert SidecarMarks(str(link)).path == SidecarMarks(str(path)).path == tmp_path / ".disk.img.emu-owner"


def test_place_that_can_keep_no_mark_is_refused_at_activation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ImageFile(str(path), read_only=False, marks=lambda _fd, name: SidecarMarks(name))
    monkeypatch.setattr(os, "access", lambda *_: False)

    with pytest.raises(ImageError, match=r"cannot write the owner mark in .*: Permission denied"):
        file.activate()

    assert not file.active
