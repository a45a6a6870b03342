"""A block device on a real file, the driver of a guest that uses it, and images that fail or are slow."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from devices.virtio.blk import VirtioBlk
from devices.virtio.blkrequest import HEADER, SECTOR
from devices.virtio.device import RING_EVENT_IDX
from devices.virtio.mmio import Reg
from devices.virtio.workers import Executor
from emu.block.image import Image, open_image
from emu.config import DriveConfig
from emu.errors import ImageError, ImageErrorKind
from emu.ioerror import IoError, OnError
from tests.devices.virtio.driver import EVERYTHING, Driver, InlineExecutor, Memory, Posts, Sent

SECTORS = 256
CONTENT = os.urandom(SECTORS * SECTOR)
WRITEBACK = 32  # offset in the configuration space
WAIT = 10  # seconds; only a hang takes so long


class CountingImage:
    """An image that notes the calls made to it and can be told to fail."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self.calls: list[str] = []
        self.broken: int | bool = False  # every call fails; an errno: with that
        self.cached = False  # whether the host has everything in its cache

    def readv_cached(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        return self.cached and self._image.readv_cached(offset, buffers)

    def close(self) -> None:
        self._image.close()

    def __getattr__(self, name: str) -> object:
        if name not in ("readv", "writev", "flush", "discard", "write_zeroes"):
            return getattr(self._image, name)
        self.calls.append(name)
        if self.broken:
            cause = OSError(self.broken, os.strerror(self.broken))
            raise ImageError(ImageErrorKind.IO, self._image.path, f"{name} failed") from cause
        return getattr(self._image, name)


class Disk:
    """A block device, its file, and the driver of a guest that uses it."""

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        executor: Executor | None = None,
        werror: str = "enospc",
        rerror: str = "report",
        in_order: bool = False,
    ) -> None:
        self.path = path
        self.drive = DriveConfig(path=path, id="disk0", werror=werror, rerror=rerror)
        self.told: list[IoError] = []  # the machine, of errors
        self._in_order = in_order
        self.image = CountingImage(open_image(str(path), "raw", read_only=read_only, active=True))
        self.posts = Posts()
        self.memory = Memory()
        self.driver = Driver(self.new_device(executor or InlineExecutor()), self.memory)

    def new_device(self, executor: Executor) -> VirtioBlk:
        return VirtioBlk(
            "disk0",
            self.memory,
            self.image,  # type: ignore[arg-type]
            executor=executor,
            post=self.posts,
            on_error=OnError(self.drive, self.told.append),
            serial="SERIAL-0123456789-TOO-LONG",
            in_order=self._in_order,
        )

    def start(self, *, features: int = EVERYTHING & ~RING_EVENT_IDX, size: int = 256) -> Disk:
        self.driver.start(features=features, size=size)
        return self

    def send(self, kind: int, sector: int = 0, payload: Sequence[bytes] = (), room: Sequence[int] = ()) -> Sent:
        """Make a request available; its status byte is the last of its room."""
        return self.driver.add([HEADER.pack(kind, 0, sector), *payload], [*room, 1], indirect=True)

    def ask(self, kind: int, sector: int = 0, payload: Sequence[bytes] = (), room: Sequence[int] = ()) -> tuple[int, bytes]:
        """Carry a request out; its status and data."""
        sent = self.send(kind, sector, payload, room)
        self.driver.kick()
        self.posts.run()
        [(head, length)] = self.driver.used()
        answer = self.driver.content(sent)
        assert head == sent.head
        assert 1 <= length <= len(answer)
        return answer[-1], answer[:-1]

    def config(self, layout: str, offset: int) -> int:
        return self.driver.bus.read(Reg.CONFIG + offset, struct.calcsize(layout))


class SlowImage:
    """An image whose reads wait until the test lets them go."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.fails = False

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.reading.set()
        self.go_on.wait(WAIT)
        if self.fails:
            raise ImageError(ImageErrorKind.IO, self._image.path, "readv failed")
        self._image.readv(offset, buffers)

    def __getattr__(self, name: str) -> object:
        return getattr(self._image, name)


def slow_disk(path: Path, pool: ThreadPoolExecutor, *, rerror: str = "report") -> tuple[Disk, SlowImage]:
    disk = Disk(path, executor=pool, rerror=rerror)
    slow = SlowImage(disk.image)  # type: ignore[arg-type]
    disk.image = slow  # type: ignore[assignment]
    disk.driver = Driver(disk.new_device(pool), disk.memory)
    return disk.start(), slow
