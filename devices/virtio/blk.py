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
from enum import IntEnum
from typing import ClassVar

from devices.virtio.device import DeviceId, VirtioDevice, VirtioState
from devices.virtio.queue import Chain, QueueState, split
from devices.virtio.workers import Executor, Workers
from emu.block.image import Image
from emu.errors import GuestError, ImageError
from emu.memory import GuestMemory
from migration.vmstate import VMState, flag, structs

log = logging.getLogger(__name__)

SECTOR = 512
PHYSICAL_BLOCK_EXP = 3  # 4 KiB physical blocks: what a host file system writes at once
QUEUE_SIZE = 256
SEG_MAX = QUEUE_SIZE - 2  # all but header and status
SERIAL_BYTES = 20  # 5.2.6
PATIENCE = 200e-6  # seconds; stopping the guest for an answer that comes later costs as much
WORKERS = 4  # requests of one disk under way at a time in the host
MAX_READ_AT_ONCE = 64 << 10  # bytes; copied in less time than it takes to wake a worker
MAX_RANGES = 16  # of one discard or write-zeroes request
MAX_RANGE_SECTORS = (1 << 30) // SECTOR  # a worker is not longer than 1 GiB in one range, where the host must write the zeroes

HEADER = struct.Struct("<IIQ")  # type, reserved, sector
RANGE = struct.Struct("<QII")  # sector, sectors, flags
RANGE_UNMAP = 1
CONFIG = struct.Struct("<QII HBB I BBHI BBH III II B3x")
CONFIG_WRITEBACK = 32  # offset of writeback


class Feature(IntEnum):
    """Bit numbers (5.2.3)."""

    SEG_MAX = 2
    RO = 5
    BLK_SIZE = 6
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    DISCARD = 13
    WRITE_ZEROES = 14


class Type(IntEnum):
    """Request types (5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class BlkStatus(IntEnum):
    """The last byte of every request (5.2.6)."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


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


class RequestError(Exception):
    """Raised while a request is parsed or carried out, when it fails for the guest's fault; carries the status byte."""

    def __init__(self, status: BlkStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Request:
    """One request under way. `work` runs on a worker and returns the bytes it put into the chain's writable part."""

    chain: Chain
    work: Callable[[], int]
    status_byte: memoryview
    written: int = 0

    def finish(self, status: BlkStatus, written: int = 0) -> None:
        """Put the status behind the `written` bytes of data."""
        self.status_byte[0] = status
        self.written = written + 1


@dataclass(slots=True)
class Read:
    """The work of a read, which can also be tried on the vCPU thread."""

    image: Image
    offset: int
    data: list[memoryview]
    length: int

    def __call__(self) -> int:
        self.image.readv(self.offset, self.data)
        return self.length

    def at_once(self) -> bool:
        """Read if that is quick; False when it is a worker's."""
        return self.length <= MAX_READ_AT_ONCE and self.image.readv_cached(self.offset, self.data)


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
        self._serial = serial.encode()[:SERIAL_BYTES].ljust(SERIAL_BYTES, b"\0")
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
                request = self._parse(chain)
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

    # Requests: parsed on the vCPU thread, so that the guest cannot change what was checked.

    def _parse(self, chain: Chain) -> Request:
        """Make a request of a chain. One without room for the status cannot be answered and breaks the device."""
        size = chain.writable_size
        if size == 0:
            raise GuestError(f"block request {chain.head} has no room for its status")
        data, status_byte = split(chain.writable, size - 1)
        header, payload = split(chain.readable, HEADER.size)
        try:
            work = self._work_of(b"".join(header), payload, data)
        except RequestError as exc:
            work = _refuse(exc)
        return Request(chain, work, status_byte[0])

    def _work_of(self, header: bytes, payload: list[memoryview], data: list[memoryview]) -> Callable[[], int]:
        if len(header) < HEADER.size:
            raise RequestError(BlkStatus.IOERR, f"request header has {len(header)} bytes, must have {HEADER.size}")
        kind, _, sector = HEADER.unpack(header)
        if kind == Type.IN:
            return self._read(sector, data)
        if kind == Type.OUT:
            return self._write(sector, payload)
        if kind == Type.FLUSH:
            return self._flush
        if kind == Type.GET_ID:
            return lambda: self._get_id(data)
        if kind == Type.DISCARD and self._negotiated(Feature.DISCARD):
            return self._discard(payload)
        if kind == Type.WRITE_ZEROES and self._negotiated(Feature.WRITE_ZEROES):
            return self._write_zeroes(payload)
        raise RequestError(BlkStatus.UNSUPP, f"request type {kind} is not supported")

    def _extent(self, sector: int, length: int) -> int:
        """The byte offset of a transfer, if it is whole sectors of this disk."""
        capacity = self._image.size // SECTOR
        if length % SECTOR:
            raise RequestError(BlkStatus.IOERR, f"transfer of {length} bytes is not a multiple of {SECTOR}")
        if sector + length // SECTOR > capacity:
            raise RequestError(BlkStatus.IOERR, f"sectors {sector}..{sector + length // SECTOR} of a disk of {capacity}")
        return sector * SECTOR

    def _read(self, sector: int, data: list[memoryview]) -> Read:
        length = sum(map(len, data))
        return Read(self._image, self._extent(sector, length), data, length)

    def _write(self, sector: int, data: list[memoryview]) -> Callable[[], int]:
        self._check_writable()
        offset = self._extent(sector, sum(map(len, data)))
        return self._writing(lambda: self._image.writev(offset, data))

    def _check_writable(self) -> None:
        if self._image.read_only:
            raise RequestError(BlkStatus.IOERR, "write to a read-only disk")

    def _writing(self, write: Callable[[], None]) -> Callable[[], int]:
        through = self._writethrough

        def work() -> int:
            write()
            if through:
                self._image.flush()
            return 0

        return work

    def _flush(self) -> int:
        self._image.flush()
        return 0

    def _get_id(self, data: list[memoryview]) -> int:
        serial, done = self._serial, 0
        for piece in split(data, SERIAL_BYTES)[0]:
            piece[:] = serial[done : done + len(piece)]
            done += len(piece)
        return done

    def _ranges(self, payload: list[memoryview], allowed: int) -> list[tuple[int, int, int]]:
        """The (offset, length, flags) of a discard or write-zeroes request, all checked before the first is touched."""
        self._check_writable()
        size = sum(map(len, payload))
        if size % RANGE.size or not RANGE.size <= size <= RANGE.size * MAX_RANGES:
            text = f"ranges have {size} bytes, must be a multiple of {RANGE.size} up to {RANGE.size * MAX_RANGES}"
            raise RequestError(BlkStatus.IOERR, text)
        ranges: list[tuple[int, int, int]] = []
        for sector, sectors, flags in RANGE.iter_unpack(b"".join(payload)):
            if flags & ~allowed:
                raise RequestError(BlkStatus.UNSUPP, f"range flags are {flags:#x}, allowed are {allowed:#x}")
            if sectors > MAX_RANGE_SECTORS:
                raise RequestError(BlkStatus.IOERR, f"range has {sectors} sectors, at most {MAX_RANGE_SECTORS} are allowed")
            ranges.append((self._extent(sector, sectors * SECTOR), sectors * SECTOR, flags))
        return ranges

    def _discard(self, payload: list[memoryview]) -> Callable[[], int]:
        ranges = self._ranges(payload, 0)

        def write() -> None:
            for offset, length, _ in ranges:
                self._image.discard(offset, length)

        return self._writing(write)

    def _write_zeroes(self, payload: list[memoryview]) -> Callable[[], int]:
        ranges = self._ranges(payload, RANGE_UNMAP)

        def write() -> None:
            for offset, length, flags in ranges:
                self._image.write_zeroes(offset, length, unmap=bool(flags & RANGE_UNMAP))

        return self._writing(write)


def _refuse(exc: RequestError) -> Callable[[], int]:
    def work() -> int:
        raise exc

    return work
