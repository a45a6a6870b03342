"""Raw images: whole transfers, bounds, and what an inactive image refuses."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.block.file import IOV_MAX, ImageFile
from emu.block.image import Image, open_image
from emu.errors import ConfigError, ImageError, ImageErrorKind

KIB = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 256)  # 64 KiB
    return path


@pytest.fixture
def image(path: Path) -> Image:
    return open_image(str(path), "raw", read_only=False, active=True)


@contextmanager
def refused(kind: ImageErrorKind) -> Iterator[None]:
    with pytest.raises(ImageError) as caught:
        yield
    assert caught.value.kind is kind


def test_readv_fills_the_buffers_one_after_the_other(image: Image) -> None:
    first, second = bytearray(3), bytearray(5)

    image.readv(254, [first, memoryview(second)])

    assert first == bytes([254, 255, 0])
    assert second == bytes([1, 2, 3, 4, 5])


def test_writev_puts_the_buffers_one_after_the_other(image: Image, path: Path) -> None:
    image.writev(1000, [b"abc", bytearray(b"de"), memoryview(b"f")])

    assert path.read_bytes()[1000:1006] == b"abcdef"


def test_transfer_of_more_buffers_than_one_system_call_takes_is_whole(image: Image, path: Path) -> None:
    pieces = [bytes([index & 0xFF]) for index in range(2 * IOV_MAX + 3)]
    back = [bytearray(1) for _ in pieces]

    image.writev(7, pieces)
    image.readv(7, back)

    assert back == pieces
    assert path.read_bytes()[7 : 7 + len(pieces)] == b"".join(pieces)


def test_short_transfers_are_completed(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv, pwritev = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [memoryview(buffers[0])[:3]], offset))
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: pwritev(fd, [memoryview(buffers[0])[:2]], offset))
    back = [bytearray(5), bytearray(4)]

    image.writev(100, [b"12345", b"6789"])
    image.readv(100, back)

    assert back == [b"12345", b"6789"]


@pytest.mark.parametrize(("offset", "length"), [(64 * KIB, 1), (64 * KIB - 1, 2), (-1, 1), (1 << 63, 1), (0, 64 * KIB + 1)])
def test_transfer_out_of_bounds_is_refused(image: Image, path: Path, offset: int, length: int) -> None:
    before = path.read_bytes()

    with refused(ImageErrorKind.BOUNDS):
        image.readv(offset, [bytearray(length)])
    with refused(ImageErrorKind.BOUNDS):
        image.writev(offset, [bytes(length)])
    with refused(ImageErrorKind.BOUNDS):
        image.discard(offset, length)
    with refused(ImageErrorKind.BOUNDS):
        image.write_zeroes(offset, length, unmap=True)

    assert path.read_bytes() == before


def test_bounds_error_names_path_range_and_size(image: Image, path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        image.readv(0xFFFF, [bytearray(2)])

    assert str(caught.value) == f"{path}: has no bytes 0xffff..0x10001, its size is 0x10000"


@pytest.mark.parametrize("unmap", [False, True])
def test_write_zeroes_zeroes_its_range_and_no_byte_more(image: Image, path: Path, unmap: bool) -> None:
    before = path.read_bytes()

    image.write_zeroes(4095, 8194, unmap=unmap)

    assert path.read_bytes() == before[:4095] + bytes(8194) + before[4095 + 8194 :]


def test_write_zeroes_without_the_hosts_help_writes_zeroes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(path, 70 << 20)
    image = open_image(str(path), "raw", read_only=False, active=True)
    image.writev((66 << 20) - 3, [b"\xff" * 8])
    monkeypatch.setattr("emu.block.fallocate.fallocate", lambda *_: False)

    image.write_zeroes(1, (66 << 20) - 1, unmap=True)

    after = path.read_bytes()
    assert after[: 66 << 20] == bytes(66 << 20)  # byte 0 was zero before
    assert after[66 << 20 : (66 << 20) + 6] == b"\xff" * 5 + b"\0"


def test_discard_gives_space_back(tmp_path: Path) -> None:
    path = tmp_path / "big.img"
    path.write_bytes(b"\xaa" * (1 << 20))
    image = open_image(str(path), "raw", read_only=False, active=True)

    image.discard(0, 1 << 20)

    assert path.stat().st_blocks < 8
    assert path.stat().st_size == 1 << 20


def test_image_cut_short_by_another_program_is_an_error_not_a_loop(image: Image, path: Path) -> None:
    os.truncate(path, 1000)

    with refused(ImageErrorKind.IO):
        image.readv(0, [bytearray(2000)])


def test_host_error_keeps_its_errno(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    image = open_image(str(path), "raw", read_only=False, active=True)

    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", no_space)
    with pytest.raises(ImageError) as caught:
        image.writev(0, [b"x"])

    assert caught.value.kind is ImageErrorKind.IO
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert str(caught.value) == f"{path}: writing 1 bytes at 0x0 failed: No space left on device"


def test_flush_after_a_failed_flush_fails_though_the_kernel_says_yes(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with refused(ImageErrorKind.IO):
            image.flush()

    with refused(ImageErrorKind.IO):
        image.flush()
    with refused(ImageErrorKind.IO):
        image.inactivate()
    assert image.active


def test_inactive_image_can_be_read_but_not_written(path: Path) -> None:
    before, mtime = path.read_bytes(), path.stat().st_mtime_ns
    image = open_image(str(path), "raw", read_only=False, active=False)
    back = bytearray(4)

    image.readv(0, [back])
    with refused(ImageErrorKind.INACTIVE):
        image.writev(0, [b"x"])
    with refused(ImageErrorKind.INACTIVE):
        image.write_zeroes(0, 512, unmap=False)
    with refused(ImageErrorKind.INACTIVE):
        image.discard(0, 512)
    image.flush()
    image.close()

    assert back == bytes(range(4))
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == mtime
    assert os.listxattr(path) == []


def test_inactive_image_makes_no_system_call_that_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = open_image(str(path), "raw", read_only=False, active=True)
    image.writev(0, [b"x"])
    image.inactivate()
    calls: list[str] = []
    monkeypatch.setattr(os, "pwritev", lambda *_: calls.append("pwritev"))
    monkeypatch.setattr(os, "fsync", lambda *_: calls.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda *_: calls.append("fdatasync"))
    monkeypatch.setattr(os, "setxattr", lambda *_: calls.append("setxattr"))
    ctime = path.stat().st_ctime_ns

    image.flush()
    image.inactivate()
    image.close()

    assert calls == []
    assert path.stat().st_ctime_ns == ctime


def test_read_only_image_refuses_writes(path: Path) -> None:
    image = open_image(str(path), "raw", read_only=True, active=True)

    with refused(ImageErrorKind.READ_ONLY):
        image.writev(0, [b"x"])


def test_activation_sees_the_size_the_file_has_now(path: Path) -> None:
    image = open_image(str(path), "raw", read_only=False, active=False)
    os.truncate(path, 128 * KIB)

    image.activate()

    assert image.size == 128 * KIB


def test_activating_or_inactivating_twice_is_harmless(image: Image) -> None:
    image.activate()
    image.writev(0, [b"x"])
    image.inactivate()
    image.inactivate()
    image.activate()
    image.activate()
    image.writev(0, [b"y"])
    image.close()
    image.close()

    assert not image.active


def test_inactivation_waits_for_a_write_under_way(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev, writing, go_on = os.pwritev, threading.Event(), threading.Event()
    order: list[str] = []

    def slow(fd: int, buffers: list[bytes], offset: int) -> int:
        writing.set()
        go_on.wait(10)
        order.append("written")
        return pwritev(fd, buffers, offset)

    def inactivate() -> None:
        image.inactivate()
        order.append("inactive")

    monkeypatch.setattr(os, "pwritev", slow)
    writer = threading.Thread(target=image.writev, args=(0, [b"x"]))
    closer = threading.Thread(target=inactivate)
    writer.start()
    assert writing.wait(10)
    closer.start()
    go_on.set()
    writer.join(10)
    closer.join(10)

    assert order == ["written", "inactive"]


def test_file_grows_by_writing_behind_its_end(path: Path) -> None:
    file = ImageFile(str(path), read_only=False)
    file.activate()

    file.writev(64 * KIB, [b"tail"])

    assert file.size == 64 * KIB + 4


def test_descriptor_is_not_inherited(path: Path) -> None:
    image = open_image(str(path), "raw", read_only=False, active=True)

    descriptors = [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if os.path.realpath(entry) == str(path)]

    assert len(descriptors) == 1
    assert not os.get_inheritable(descriptors[0])
    image.close()


def test_missing_image_is_refused(tmp_path: Path) -> None:
    with refused(ImageErrorKind.MISSING):
        open_image(str(tmp_path / "none.img"), "raw", read_only=False, active=True)


def test_directory_is_refused(tmp_path: Path) -> None:
    with refused(ImageErrorKind.MISSING):
        open_image(str(tmp_path), "raw", read_only=True, active=True)


def test_fifo_is_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with refused(ImageErrorKind.MISSING):
        open_image(str(tmp_path / "fifo"), "raw", read_only=False, active=True)


def test_unknown_format_lists_the_known_ones(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'vmdk' is unknown, known are raw"):
        open_image(str(path), "vmdk", read_only=False, active=True)
