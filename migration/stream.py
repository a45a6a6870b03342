"""The stream: the same for live migration, files and snapshots.

    source                                  destination
    MAGIC VERSION ------------------------>
    CONFIG --------------------------------> compared with this machine
           <-------------------------------- ACCEPT
    RAM, RAM, … ROUND ---------------------> (for every round but the last; disks that move along: migration/blocks.py)
           <-------------------------------- ROUND: all of that is in place
    RAM, RAM, … --------------------------->
    SECTION, SECTION, … ------------------->
    DESCRIPTION, END ---------------------->  parse, check, commit, take the disks
           <-------------------------------- READY
    GO ------------------------------------>  run
           <-------------------------------- RUNNING
           <-------------------------------- ERROR (at any time before RUNNING: gave up, let go, does not run)

On a one-way channel (a file, a pipe) the answers and GO are left out, and END is the order to run.

A frame is KIND (1 byte), LENGTH (4 bytes, little endian), LENGTH bytes, and the XXH3-64 hash of all of these (8 bytes).
Payloads are msgpack maps; RAM and DISK frames have their data behind the map, a MAP frame is followed by page-aligned raw RAM.

Version rule: VERSION changes when a frame's meaning does; this build reads its own alone. Sections have versions of their own
(migration.vmstate), which is where compatibility lives.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, cast

import msgpack
import xxhash

from emu.errors import MigrationError, StreamError
from migration.channel import Buffer
from migration.vmstate import Wire

MAGIC: bytes = b"emu-vm\r\n"  # the line end shows a transfer that rewrites text
VERSION = 1

_HEADER = struct.Struct("<8sI")
_FRAME = struct.Struct("<BI")
_HASH = struct.Struct("<Q")
_MAP_LENGTH = struct.Struct("<I")


class PeerRefused(MigrationError):  # noqa: N818 - a decision of the other side, told as such
    """Raised when an ERROR frame comes: the other side has given up, let go of the disks and does not run the guest."""


class Kind(IntEnum):
    """What a frame is."""

    CONFIG = 1
    RAM = 2
    MAP = 3
    SECTION = 4
    DESCRIPTION = 5
    END = 6
    GO = 7
    ROUND = 8
    DISK = 9
    ACCEPT = 16
    READY = 17
    RUNNING = 18
    ERROR = 19


PAGES_PER_FRAME = 1024  # 4 MiB: long enough to let the GIL go, short enough to be cancelled and paced
MAX_MAP = 64 << 10  # bytes of msgpack in a RAM frame: two page lists of 4 bytes a page, and names
MAX_RAM = PAGES_PER_FRAME * 4096 + MAX_MAP
MAX_DISK = 4 << 20  # bytes of blocks in a DISK frame
MAX_SECTION = 16 << 20  # a 9p session with all the fids that it may have takes 12 MiB, other devices tens of KiB
MAX_SMALL = 64 << 10  # an error text, an empty map

_LIMITS: dict[Kind, int] = {
    Kind.CONFIG: MAX_SECTION,
    Kind.RAM: MAX_RAM,
    Kind.MAP: MAX_SMALL,
    Kind.DISK: MAX_DISK + MAX_MAP,
    Kind.SECTION: MAX_SECTION,
    Kind.DESCRIPTION: MAX_SECTION,
    Kind.END: MAX_SMALL,
    Kind.GO: MAX_SMALL,
    Kind.ROUND: MAX_SMALL,
    Kind.ACCEPT: MAX_SMALL,
    Kind.READY: MAX_SMALL,
    Kind.RUNNING: MAX_SMALL,
    Kind.ERROR: MAX_SMALL,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `payload` is valid until the next one is read."""

    kind: Kind
    payload: memoryview

    def fields(self) -> dict[str, Wire]:
        """The payload as a msgpack map; repeated keys, other types and trailing bytes are a StreamError."""
        return unpack(self.payload, self.kind.name)

    def fields_and_data(self) -> tuple[dict[str, Wire], memoryview]:
        """The map of a RAM or DISK frame, which has its length (4 bytes) in front, and the data behind it."""
        payload = self.payload
        if len(payload) < _MAP_LENGTH.size:
            raise StreamError(f"{self.kind.name} frame has {len(payload)} bytes, must have at least {_MAP_LENGTH.size}")
        (size,) = _MAP_LENGTH.unpack_from(payload)
        rest = payload[_MAP_LENGTH.size :]
        if size > len(rest):
            raise StreamError(f"{self.kind.name} frame says its map has {size} bytes, {len(rest)} are there")
        return unpack(rest[:size], self.kind.name), rest[size:]


def unpack(payload: memoryview, what: str) -> dict[str, Wire]:
    """Decode one msgpack map with text keys, each given once; anything else is a StreamError naming `what`."""
    try:
        value = msgpack.unpackb(payload, strict_map_key=True, object_pairs_hook=_unique)
    except StreamError:
        raise
    except Exception as exc:  # msgpack raises half a dozen unrelated types on garbage
        raise StreamError(f"{what} frame: not a msgpack map: {exc or type(exc).__name__}") from exc
    if not isinstance(value, dict):
        raise StreamError(f"{what} frame: holds {type(value).__name__}, must be a map")
    return cast("dict[str, Wire]", value)


def _unique(pairs: Sequence[tuple[object, Wire]]) -> dict[str, Wire]:
    fields: dict[str, Wire] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise StreamError(f"a map has the key {key!r:.40}, must be text")
        if key in fields:
            raise StreamError(f"a map has the key {key!r:.40} twice")
        fields[key] = value
    return fields


class Sink(Protocol):
    """Where a stream is written: a channel, or whatever else takes bytes in order."""

    def write(self, *buffers: Buffer) -> None:
        """Take all of `buffers`."""


class Source(Protocol):
    """Where a stream is read."""

    def read_into(self, view: memoryview) -> None:
        """Fill `view`; StreamError when the stream ends first."""


class StreamWriter:
    """Writes frames to a channel and counts the bytes."""

    def __init__(self, channel: Sink) -> None:
        self._channel = channel
        self._gathered: list[Buffer] | None = None
        self.bytes_written = 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write the frames of this context at its end, in one go: many small ones would wake the other side as often."""
        gathered: list[Buffer] = []
        self._gathered = gathered
        try:
            yield
        finally:
            self._gathered = None
        self._channel.write(*gathered)

    def start(self) -> None:
        """Write magic and version."""
        self.raw(_HEADER.pack(MAGIC, VERSION))

    def raw(self, *buffers: Buffer) -> None:
        """Write bytes outside any frame."""
        if self._gathered is None:
            self._channel.write(*buffers)
        else:
            self._gathered += buffers
        self.bytes_written += sum(len(buffer) for buffer in buffers)

    def frame(self, kind: Kind, fields: dict[str, Wire], data: memoryview | None = None) -> None:
        """Write one frame; `data` follows the map in RAM and DISK frames."""
        packed = cast(bytes, msgpack.packb(fields))
        if data is not None:
            packed = _MAP_LENGTH.pack(len(packed)) + packed
        size = len(packed) + (0 if data is None else len(data))
        if size > _LIMITS[kind]:
            raise MigrationError(f"{kind.name} frame has {size} bytes, at most {_LIMITS[kind]} fit")
        head = _FRAME.pack(kind, size)
        digest = xxhash.xxh3_64(head)
        digest.update(packed)
        if data is None:
            self.raw(head + packed + _HASH.pack(digest.intdigest()))
        else:
            digest.update(data)
            self.raw(head + packed, data, _HASH.pack(digest.intdigest()))


class StreamReader:
    """Reads frames from a channel, trusting nothing: lengths are bounded before anything is allocated for them."""

    def __init__(self, channel: Source) -> None:
        self._channel = channel
        self._buffer = bytearray(MAX_SMALL)
        self.bytes_read = 0

    def start(self) -> None:
        """Read magic and version; raises StreamError when they are not ours."""
        magic, version = _HEADER.unpack(self.raw(_HEADER.size))
        if magic != MAGIC:
            raise StreamError(f"not an emu stream: it starts with {bytes(magic)!r}, must start with {MAGIC!r}")
        if version != VERSION:
            raise StreamError(f"the stream has version {version}, this build reads {VERSION}")

    def raw(self, size: int) -> memoryview:
        """Read `size` bytes outside any frame; valid until the next read."""
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        self._channel.read_into(view)
        self.bytes_read += size
        return view

    def next(self) -> Frame:
        """Read one frame and check its hash."""
        head = bytes(self.raw(_FRAME.size))
        number, size = _FRAME.unpack(head)
        if number not in _KINDS:
            raise StreamError(f"frame kind is {number}, must be one of {', '.join(map(str, sorted(_KINDS)))}")
        kind = Kind(number)
        if size > _LIMITS[kind]:
            raise StreamError(f"{kind.name} frame says it has {size} bytes, at most {_LIMITS[kind]} are accepted")
        view = self.raw(size + _HASH.size)
        digest = xxhash.xxh3_64(head)
        digest.update(view[:size])
        (sent,) = _HASH.unpack_from(view, size)
        if digest.intdigest() != sent:
            raise StreamError(f"{kind.name} frame is damaged: its hash is {digest.intdigest():#x}, was sent as {sent:#x}")
        return Frame(kind, view[:size])

    def expect(self, kind: Kind) -> Frame:
        """Read one frame that must be of `kind`; an ERROR frame is raised as PeerRefused."""
        frame = self.next()
        if frame.kind is Kind.ERROR and kind is not Kind.ERROR:
            reason = frame.fields().get("error")
            raise PeerRefused(f"the other side refused: {reason if isinstance(reason, str) else 'no reason given'}")
        if frame.kind is not kind:
            raise StreamError(f"got a {frame.kind.name} frame, expected {kind.name}")
        return frame


_KINDS = frozenset(int(kind) for kind in Kind)
