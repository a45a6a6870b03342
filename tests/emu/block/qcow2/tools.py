"""What judges our qcow2 images: Debian's qemu-img, and a bytearray that says what a disk holds."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from emu.block.image import Image, open_image
from emu.block.qcow2.image import Qcow2Image
from emu.block.qcow2.snapshottable import About
from emu.errors import ImageError, ImageErrorKind

SEED = int(os.environ.get("EMU_TEST_SEED", "20260101"))
KIB = 1 << 10
MIB = 1 << 20

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed (Debian: qemu-utils)")


def qemu_img(*arguments: object) -> str:
    """What `qemu-img` prints; it must succeed."""
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{arguments}: {done.stdout} {done.stderr}"
    return done.stdout


def create(path: Path, size: int, options: str = "", *, backing: Path | None = None, backing_format: str = "qcow2") -> Path:
    """A new image; the backing file is named relative to it."""
    behind = ("-b", backing.name, "-F", backing_format) if backing else ()
    qemu_img("create", "-q", "-f", "qcow2", *(("-o", options) if options else ()), *behind, path, size)
    return path


def opened(path: Path, *, active: bool = True, read_only: bool = False) -> Image:
    return open_image(str(path), "qcow2", read_only=read_only, active=active)


def take_snapshot(image: Image, name: str, *, time_ns: int = 0) -> None:
    """A snapshot of a disk alone, at once."""
    assert isinstance(image, Qcow2Image)
    image.freeze()
    image.keep(name, About(time_ns=time_ns, disk_size=image.size))


def content(image: Image) -> bytes:
    data = bytearray(image.size)
    image.readv(0, [data])
    return bytes(data)


def read(image: Image, offset: int, length: int) -> bytes:
    data = bytearray(length)
    image.readv(offset, [data])
    return bytes(data)


@contextmanager
def refused(kind: ImageErrorKind, match: str | None = None) -> Iterator[None]:
    with pytest.raises(ImageError, match=match) as caught:
        yield
    assert caught.value.kind is kind


def state(path: Path) -> tuple[bytes, int, list[str]]:
    """All that a write to the file would change."""
    return path.read_bytes(), path.stat().st_mtime_ns, os.listxattr(path)


@dataclass(frozen=True)
class Check:
    """What `qemu-img check` found."""

    corruptions: int
    leaks: int
    errors: int


def check(path: Path) -> Check:
    """Any number of leaks and corruptions is an answer."""
    command = ["qemu-img", "check", "--output=json", "-f", "qcow2", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2, 3), done.stderr
    found = json.loads(done.stdout)
    return Check(found.get("corruptions", 0), found.get("leaks", 0), found["check-errors"])


CLEAN = Check(0, 0, 0)


def assert_qemu_reads(path: Path, expected: bytes | bytearray) -> None:
    """`qemu-img compare` with a raw file of what the disk must hold."""
    model = path.with_suffix(".model")
    model.write_bytes(expected)
    qemu_img("compare", "-q", "-f", "raw", "-F", "qcow2", model, path)


class Model:
    """A disk and what it must hold, changed together."""

    def __init__(self, path: Path, chance: random.Random, expected: bytes | None = None, *, largest: int = 64 * KIB) -> None:
        self.path = path
        self.chance = chance
        self.image = opened(path)
        self.expected = bytearray(self.image.size if expected is None else expected)
        self.largest = largest
        assert len(self.expected) == self.image.size

    def extent(self) -> tuple[int, int]:
        """Ranges of all sizes, half of them whole sectors, some up to the end."""
        length = int(self.largest ** self.chance.random())
        offset = self.chance.randrange(len(self.expected))
        if self.chance.random() < 0.5:
            offset, length = offset // 512 * 512, -(-length // 512) * 512
        if self.chance.random() < 0.05:
            offset = max(len(self.expected) - length, 0)
        return offset, min(length, len(self.expected) - offset)

    def step(self) -> None:
        """One random operation."""
        offset, length = self.extent()
        kind = self.chance.choices(("write", "read", "zero", "discard", "flush", "reopen"), (40, 20, 15, 15, 1, 0.3))[0]
        getattr(self, kind)(offset, length)

    def write(self, offset: int, length: int) -> None:
        data = self.chance.randbytes(length)
        at = self.chance.randrange(length + 1)
        self.image.writev(offset, [data[:at], memoryview(data)[at:]])
        self.expected[offset : offset + length] = data

    def read(self, offset: int, length: int) -> None:
        data = bytearray(length)
        at = self.chance.randrange(length + 1)
        self.image.readv(offset, [memoryview(data)[:at], memoryview(data)[at:]])
        same = data == self.expected[offset : offset + length]
        assert same, f"{length} bytes at {offset:#x} are wrong"

    def zero(self, offset: int, length: int) -> None:
        self.image.write_zeroes(offset, length, unmap=self.chance.random() < 0.5)
        self.expected[offset : offset + length] = bytes(length)

    def discard(self, offset: int, length: int) -> None:
        """What a discarded byte reads as is undefined: zero, or what it was."""
        self.image.discard(offset, length)
        found = read(self.image, offset, length)
        was = self.expected[offset : offset + length]
        assert all(now in (0, old) for now, old in zip(found, was, strict=True))
        self.expected[offset : offset + length] = found

    def flush(self, _offset: int, _length: int) -> None:
        self.image.flush()

    def reopen(self, _offset: int, _length: int) -> None:
        self.image.inactivate()
        self.image.activate()

    def judge(self) -> None:
        """Close the image, and have it judged by QEMU."""
        self.image.close()
        assert check(self.path) == CLEAN
        assert_qemu_reads(self.path, self.expected)
