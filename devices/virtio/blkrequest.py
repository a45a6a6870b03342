"""The block device's requests (virtio 1.2, 5.2.6): a chain of the guest's is checked and becomes work for the image.

    header (type, reserved, sector) | data to write, or ranges | room for data to read | status byte

They are parsed on the vCPU thread, so that the guest cannot change what was checked; what they do may be done on any other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from devices.virtio.queue import Chain, split
from emu.block.image import Image
from emu.errors import GuestError, ImageError
from emu.ioerror import Operation

SECTOR = 512
SERIAL_BYTES = 20  # 5.2.6
MAX_READ_AT_ONCE = 64 << 10  # bytes; copied in less time than it takes to wake a worker
MAX_RANGES = 16  # of one discard or write-zeroes request
MAX_RANGE_SECTORS = (1 << 30) // SECTOR  # a worker is not longer than 1 GiB in one range, where the host must write the zeroes

HEADER = struct.Struct("<IIQ")  # type, reserved, sector
RANGE = struct.Struct("<QII")  # sector, sectors, flags
RANGE_UNMAP = 1


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


class RequestError(Exception):
    """Raised while a request is parsed or carried out, when it fails for the guest's fault; carries the status byte."""

    def __init__(self, status: BlkStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Request:
    """One request under way. `work` runs on a worker and returns the bytes it put into the chain's writable part.

    Either it is finished, or `error` is why the host could not carry it out.
    """

    chain: Chain
    position: int  # of the chain in the available ring, modulo 2^16
    work: Callable[[], int]
    status_byte: memoryview
    written: int = 0
    error: ImageError | None = None

    @property
    def operation(self) -> Operation:
        """For those who are told of an error."""
        return Operation.READ if isinstance(self.work, Read) else Operation.WRITE

    def finish(self, status: BlkStatus, written: int = 0) -> None:
        """Put the status behind the `written` bytes of data."""
        self.status_byte[0] = status
        self.written = written + 1


@dataclass(slots=True)
class Write:
    """The work of whatever changes the disk; with `through` it is on the host's disk when it is done."""

    image: Image
    write: Callable[[], None]
    through: bool

    def __call__(self) -> int:
        self.write()
        if self.through:
            self.image.flush()
        return 0


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


class RequestParser:
    """Makes requests for one image."""

    def __init__(self, image: Image, serial: str) -> None:
        """`serial` is cut to 20 bytes."""
        self._image = image
        self._serial = serial.encode()[:SERIAL_BYTES].ljust(SERIAL_BYTES, b"\0")

    def parse(self, chain: Chain, position: int, *, features: int, writethrough: bool) -> Request:
        """Make a request of the chain at `position` of the available ring.

        `writethrough` has what it writes on disk when it is done.

        One without room for the status cannot be answered, which is a GuestError.
        """
        size = chain.writable_size
        if size == 0:
            raise GuestError(f"block request {chain.head} has no room for its status")
        data, status_byte = split(chain.writable, size - 1)
        header, payload = split(chain.readable, HEADER.size)
        try:
            work = self._work_of(b"".join(header), payload, data, features, writethrough)
        except RequestError as exc:
            work = _refuse(exc)
        return Request(chain, position, work, status_byte[0])

    def _work_of(
        self, header: bytes, payload: list[memoryview], data: list[memoryview], features: int, writethrough: bool
    ) -> Callable[[], int]:
        if len(header) < HEADER.size:
            raise RequestError(BlkStatus.IOERR, f"request header has {len(header)} bytes, must have {HEADER.size}")
        kind, _, sector = HEADER.unpack(header)
        if kind == Type.IN:
            return self._read(sector, data)
        if kind == Type.FLUSH:
            return self._flush
        if kind == Type.GET_ID:
            return lambda: self._get_id(data)
        return Write(self._image, self._write_of(kind, sector, payload, features), writethrough)

    def _write_of(self, kind: int, sector: int, payload: list[memoryview], features: int) -> Callable[[], None]:
        if kind == Type.OUT:
            return self._write(sector, payload)
        if kind == Type.DISCARD and features >> Feature.DISCARD & 1:
            return self._discard(payload)
        if kind == Type.WRITE_ZEROES and features >> Feature.WRITE_ZEROES & 1:
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

    def _write(self, sector: int, data: list[memoryview]) -> Callable[[], None]:
        self._check_writable()
        offset = self._extent(sector, sum(map(len, data)))
        return lambda: self._image.writev(offset, data)

    def _check_writable(self) -> None:
        if self._image.read_only:
            raise RequestError(BlkStatus.IOERR, "write to a read-only disk")

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

    def _discard(self, payload: list[memoryview]) -> Callable[[], None]:
        ranges = self._ranges(payload, 0)

        def write() -> None:
            for offset, length, _ in ranges:
                self._image.discard(offset, length)

        return write

    def _write_zeroes(self, payload: list[memoryview]) -> Callable[[], None]:
        ranges = self._ranges(payload, RANGE_UNMAP)

        def write() -> None:
            for offset, length, flags in ranges:
                self._image.write_zeroes(offset, length, unmap=bool(flags & RANGE_UNMAP))

        return write


def _refuse(exc: RequestError) -> Callable[[], int]:
    def work() -> int:
        raise exc

    return work
