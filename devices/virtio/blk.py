"""Block device (virtio 1.2, 5.2): one queue, served by worker threads straight between the image and guest memory.

    queue_notified: pop chains, check headers -> waiting -> worker: Image calls -> done -> post: push, interrupt (one for many)
                                               '-> small read that the host has cached -> done

Popping and pushing happen on the vCPU thread; a worker touches nothing but the buffers and the image. A small read from the
host's cache is done at once instead, for handing it to a worker and back takes far longer; and the vCPU thread waits a moment
for the workers before the guest goes on, for most requests are done by then. Reads and writes may overtake each other; a flush
covers every write completed before it was made available, for those have returned from the image.
Missing: several queues, secure erase, lifetime, zoned disks, geometry (which Linux works out itself).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from devices.virtio.blkrequest import (
    MAX_RANGE_SECTORS,
    MAX_RANGES,
    SECTOR,
    BlkStatus,
    Feature,
    Read,
    Request,
    RequestError,
    RequestParser,
)
from devices.virtio.device import DeviceId, VirtioDevice, VirtioState
from devices.virtio.queue import QueueState
from devices.virtio.workers import Executor, Workers
from emu.block.image import Image
from emu.errors import ImageError
from emu.memory import GuestMemory
from migration.vmstate import VMState, flag, structs

log = logging.getLogger(__name__)

PHYSICAL_BLOCK_EXP = 3  # 4 KiB physical blocks: what a host file system writes at once
QUEUE_SIZE = 256
SEG_MAX = QUEUE_SIZE - 2  # all but header and status
PATIENCE = 200e-6  # seconds; stopping the guest for an answer that comes later costs as much
WORKERS = 4  # requests of one disk under way at a time in the host

CONFIG = struct.Struct("<QII HBB I BBHI BBH III II B3x")
CONFIG_WRITEBACK = 32  # offset of writeback


def _bits(*features: Feature) -> int:
    return sum(1 << feature for feature in features)


COMMON = _bits(Feature.SEG_MAX, Feature.BLK_SIZE, Feature.FLUSH, Feature.TOPOLOGY, Feature.CONFIG_WCE)
WRITABLE = _bits(Feature.DISCARD, Feature.WRITE_ZEROES)


@dataclass(slots=True, kw_only=True)
class VirtioBlkState(VirtioState):
    """One queue, nothing in flight, and the cache mode the driver chose; what is on the disk is the image's."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-blk", version=1, minimum=1)
    queues: list[QueueState] = structs(QueueState, min_len=1, max_len=1)
    writeback: bool = flag(True)


class VirtioBlk(VirtioDevice):
    """A disk. `post` runs a function on the vCPU thread, soon; `serial` is cut to 20 bytes."""

    STATE = VirtioBlkState
    DEVICE_ID = DeviceId.BLOCK
    QUEUE_SIZES = (QUEUE_SIZE,)

    state: VirtioBlkState

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        image: Image,
        *,
        executor: Executor,
        post: Callable[[Callable[[], None]], None],
        serial: str = "",
        in_order: bool = False,
    ) -> None:
        """With `in_order` every request is carried out at once, as a deterministic machine needs it."""
        self._image = image
        self._in_order = in_order
        self._parser = RequestParser(image, serial)
        self._workers: Workers[Request] = Workers(WORKERS, executor, post, carry_out=self._carry_out, give_back=self._give_back)
        super().__init__(name, memory)

    @property
    def offered(self) -> int:
        """Feature bits; a read-only image takes no discards."""
        return super().offered | COMMON | (_bits(Feature.RO) if self._image.read_only else WRITABLE)

    def config(self) -> bytes:
        """struct virtio_blk_config (5.2.4)."""
        ranges = (MAX_RANGE_SECTORS, MAX_RANGES)
        geometry = (0, 0, 0)
        topology = (PHYSICAL_BLOCK_EXP, 0, 1 << PHYSICAL_BLOCK_EXP, 0)
        cache = (self.state.writeback, 0, 1)
        capacity = self._image.size // SECTOR
        return CONFIG.pack(
            capacity, 0, SEG_MAX, *geometry, SECTOR, *topology, *cache, *ranges, 1 << PHYSICAL_BLOCK_EXP, *ranges, 1
        )

    def config_written(self, offset: int, data: bytes) -> None:
        """`writeback` is the one field a driver may write (5.2.5)."""
        if offset == CONFIG_WRITEBACK and len(data) == 1 and self._negotiated(Feature.CONFIG_WCE):
            self.state.writeback = bool(data[0] & 1)
        else:
            super().config_written(offset, data)

    def _negotiated(self, feature: Feature) -> bool:
        return bool(self.state.features >> feature & 1)

    @property
    def _writethrough(self) -> bool:
        """Whether a write must be on disk when it completes (5.2.5.2)."""
        return not (self.state.writeback if self._negotiated(Feature.CONFIG_WCE) else self._negotiated(Feature.FLUSH))

    # The vCPU thread: chains in, chains out.

    def queue_notified(self, index: int) -> None:
        """Serve every chain that is there, or hand it to the workers."""
        queue = self.queues[index]
        done: list[Request] = []
        try:
            while (chain := queue.pop()) is not None:
                request = self._parser.parse(chain, features=self.state.features, writethrough=self._writethrough)
                if self._done_at_once(request):
                    done.append(request)
                else:
                    self._workers.start(request)
        finally:
            queue.enable_notification()
            self._give_back(done + self._workers.settle(PATIENCE))

    def _done_at_once(self, request: Request) -> bool:
        if self._in_order:
            self._carry_out(request)
            return True
        if isinstance(request.work, Read) and request.work.at_once():
            request.finish(BlkStatus.OK, request.work.length)
            return True
        return False

    def _give_back(self, done: list[Request]) -> None:
        """Push finished chains, with one interrupt."""
        for request in done:
            chain = request.chain
            for address, piece in zip(chain.addresses, chain.writable, strict=True):
                self.memory.written(address, len(piece))
            if self.live:  # a broken device uses no more buffers (2.1.2)
                self.queues[0].push(chain, request.written)
        if done and self.live:
            self.used(0)

    def drain(self) -> None:
        """Return when no request is in flight and the driver's rings show it."""
        self._workers.drain()

    def after_load(self) -> None:
        """Requests of the state that was replaced must reach neither the memory nor the rings of the new one."""
        self._workers.drop()
        super().after_load()

    def _carry_out(self, request: Request) -> None:
        try:
            request.finish(BlkStatus.OK, request.work())
        except RequestError as exc:
            log.info("%s: %s", self.name, exc)
            request.finish(exc.status)
        except ImageError as exc:
            log.warning("%s: %s", self.name, exc)
            request.finish(BlkStatus.IOERR)
