"""Block device (virtio 1.2, 5.2): one queue, served by worker threads straight between the image and guest memory.

    queue_notified: pop chains, check headers -> waiting -> worker: Image calls -> done -> post: push, interrupt (one for many)
                                               '-> small read that the host has cached -> done

Popping and pushing happen on the vCPU thread; a worker touches nothing but the buffers and the image. A small read from the
host's cache is done at once instead, for handing it to a worker and back takes far longer; and the vCPU thread waits a moment
for the workers before the guest goes on, for most requests are done by then. Reads and writes may overtake each other; a flush
covers every write completed before it was made available, for those have returned from the image.

A request that the host fails is reported, or kept until the guest goes on (emu/ioerror.py). What is kept is the chain's head,
as in the stream: the driver may not touch a chain that it was not given back, so it is read and checked again.
Missing: several queues, secure erase, lifetime, zoned disks, geometry (which Linux works out itself).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
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
from devices.virtio.device import DeviceId, Status, VirtioDevice, VirtioState
from devices.virtio.queue import Chain, Queue, QueueState
from devices.virtio.workers import Executor, Workers
from emu.block.image import Image
from emu.errors import ImageError, StateError
from emu.ioerror import Action, IoStatus, OnError, Operation
from emu.memory import GuestMemory
from migration.vmstate import State, VMState, flag, structs, subsection, u16

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
class FailedRequest(State):
    """One chain that was taken and could not be carried out."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-blk-failed-request", version=1, minimum=1)
    head: int = u16()
    position: int = u16()  # in the available ring, modulo 2^16
    no_space: bool = flag()


@dataclass(slots=True, kw_only=True)
class FailedState(State):
    """What waits for the guest to go on, in any order."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-blk-failed", version=1, minimum=1)
    requests: list[FailedRequest] = structs(FailedRequest, max_len=QUEUE_SIZE)


@dataclass(slots=True, kw_only=True)
class VirtioBlkState(VirtioState):
    """One queue, nothing in flight but what failed, and the driver's cache mode; what is on the disk is the image's."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-blk", version=2, minimum=1)
    queues: list[QueueState] = structs(QueueState, min_len=1, max_len=1)
    writeback: bool = flag(True)
    failed: FailedState = subsection(FailedState)

    @property
    def waiting(self) -> int:
        """Those that failed."""
        return len(self.failed.requests)

    def check(self) -> None:
        VirtioState.check(self)
        if self.waiting and not (self.status & Status.DRIVER_OK and self.queues[0].ready):
            raise StateError(f"virtio-blk.failed has {self.waiting} requests, of a queue that is not in use")


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
        on_error: OnError,
        serial: str = "",
        in_order: bool = False,
    ) -> None:
        """With `in_order` every request is carried out at once, as a deterministic machine needs it."""
        self._image = image
        self._on_error = on_error
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
        self._serve(self._new_chains(self.queues[index]))

    def _new_chains(self, queue: Queue) -> Iterator[tuple[int, Chain]]:
        """All that are there, by their positions; what is to be in order waits behind one that failed."""
        while not (self._in_order and self.state.failed.requests) and (chain := queue.pop()) is not None:
            yield queue.state.last_avail - 1 & 0xFFFF, chain

    def retry(self) -> None:
        """The guest goes on: carry out again what failed, each once, oldest first. A broken device forgets it."""
        failed, self.state.failed = self.state.failed.requests, FailedState()
        if failed and self.live:
            self.guarded(lambda: self._serve(self._failed_chains(self.queues[0], failed)))

    def _failed_chains(self, queue: Queue, failed: list[FailedRequest]) -> Iterator[tuple[int, Chain]]:
        last = queue.state.last_avail
        for request in sorted(failed, key=lambda request: request.position - last & 0xFFFF):
            yield request.position, queue.walk(request.head)
        yield from self._new_chains(queue)

    def _serve(self, chains: Iterator[tuple[int, Chain]]) -> None:
        pushed = False
        try:
            for position, chain in chains:
                request = self._parser.parse(chain, position, features=self.state.features, writethrough=self._writethrough)
                if self._done_at_once(request):
                    pushed |= self._answer(request)
                else:
                    self._workers.start(request)
        finally:
            self.queues[0].enable_notification()
            self._give_back(self._workers.settle(PATIENCE), pushed=pushed)

    def _done_at_once(self, request: Request) -> bool:
        if self._in_order:
            self._carry_out(request)
            return True
        if isinstance(request.work, Read) and request.work.at_once():
            request.finish(BlkStatus.OK, request.work.length)
            return True
        return False

    def _give_back(self, done: list[Request], *, pushed: bool = False) -> None:
        """Push finished chains, with one interrupt; `pushed`: some that need it have been before."""
        for request in done:
            pushed |= self._answer(request)
        if pushed and self.live:
            self.used(0)

    def _answer(self, request: Request) -> bool:
        """Push the chain of a request that is done; False when it is kept, or the device is broken."""
        chain = request.chain
        for address, piece in zip(chain.addresses, chain.writable, strict=True):
            self.memory.written(address, len(piece))
        if not self.live:  # a broken device uses no more buffers (2.1.2)
            return False
        if request.error is not None:
            action = self._on_error.failed(request.operation, request.error)
            if action is Action.STOP:
                kept = FailedRequest(head=chain.head, position=request.position, no_space=request.error.no_space)
                self.state.failed.requests.append(kept)
                return False
            if action is Action.IGNORE:
                request.finish(BlkStatus.OK, chain.writable_size - 1 if request.operation is Operation.READ else 0)
            else:
                request.finish(BlkStatus.IOERR)
        self.queues[0].push(chain, request.written)
        return True

    @property
    def io_status(self) -> IoStatus:
        """Whether requests that failed wait for the guest to go on; any thread."""
        failed = self.state.failed.requests
        if not failed:
            return IoStatus.OK
        return IoStatus.NOSPACE if any(request.no_space for request in failed) else IoStatus.FAILED

    def quiet(self, within: float) -> bool:
        """Wait up to `within` seconds for the host to be done with every request: whether it is."""
        return self._workers.quiet(within)

    def drain(self) -> None:
        """Return when no request is in flight but what failed, and the driver's rings show it."""
        self._workers.drain()

    def set_queue_ready(self, index: int, ready: bool) -> None:
        """The driver enables or disables the queue; what failed is no longer its concern then."""
        super().set_queue_ready(index, ready)
        if not self.queues[index].state.ready:
            self.state.failed = FailedState()

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
            request.error = exc
