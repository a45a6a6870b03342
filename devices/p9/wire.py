"""9P2000.L messages as bytes (diod's protocol.md; Linux, include/net/9p/9p.h). Pure: no files, no state.

    size[4] type[1] tag[2] body       all little endian; size counts itself; a reply's type is its request's plus one
    string: length[2] bytes           qid: type[1] version[4] path[8]

What comes in is the guest's, and hostile: a reader never goes beyond its message, and a broken one is EPROTO for the guest.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

MSIZE_MIN = 4096  # below it Linux does not mount either
MSIZE_MAX = 1 << 20
WALK_MAX = 16  # names in one Twalk (P9_MAXWELEM)
IO_HEADER = 24  # bytes that Linux leaves for the header of a read or write (P9_IOHDRSZ)
VERSION = b"9P2000.L"

HEADER = struct.Struct("<IBH")
QID = struct.Struct("<BIQ")
WRITE_HEADER = HEADER.size + 16  # fid, offset, count: what stands before a write's data
READ_HEADER = HEADER.size + 4  # count: what stands before a read's data
ERROR_SIZE = HEADER.size + 4

_U8 = struct.Struct("<B")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_DIRENT = struct.Struct("<BIQQB")  # qid, offset of the next, type
_ATTRIBUTES = struct.Struct("<QBIQIII15Q")


class Type(IntEnum):
    """Requests, and the one reply that has none."""

    RLERROR = 7
    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    RENAME = 20
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    XATTRWALK = 30
    XATTRCREATE = 32
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    AUTH = 102
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


class QidType(IntFlag):
    """First byte of a qid."""

    FILE = 0
    SYMLINK = 0x02
    DIR = 0x80


@dataclass(frozen=True, slots=True)
class Qid:
    """What a file is by, whatever its names are."""

    type: int
    version: int
    path: int

    def pack(self) -> bytes:
        """13 bytes."""
        return QID.pack(self.type, self.version, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What Rgetattr tells; times in nanoseconds."""

    qid: Qid
    mode: int
    uid: int
    gid: int
    links: int
    rdev: int
    size: int
    block_size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int

    VALID = 0x7FF  # P9_GETATTR_BASIC: neither birth time nor generation

    def pack(self) -> bytes:
        """The body of Rgetattr."""
        times = [part for time in (self.atime, self.mtime, self.ctime) for part in divmod(time, 10**9)]
        return _ATTRIBUTES.pack(
            *(self.VALID, self.qid.type, self.qid.version, self.qid.path, self.mode, self.uid, self.gid),
            *(self.links, self.rdev, self.size, self.block_size, self.blocks),
            *(part & (1 << 64) - 1 for part in times),
            *(0, 0, 0, 0),
        )


class Valid(IntFlag):
    """Which fields of Tsetattr count (P9_ATTR)."""

    MODE = 0x1
    UID = 0x2
    GID = 0x4
    SIZE = 0x8
    ATIME = 0x10
    MTIME = 0x20
    CTIME = 0x40
    ATIME_SET = 0x80  # else the host's time now
    MTIME_SET = 0x100


@dataclass(frozen=True, slots=True)
class Changes:
    """The body of Tsetattr behind its fid; times in nanoseconds."""

    valid: int
    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int


class Reader:
    """Takes the fields of one message, in order; OSError EPROTO where it ends too early."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        """`data` starts behind the tag."""
        self._data = data
        self._at = 0

    def _take(self, layout: struct.Struct) -> int:
        start = self._at
        if start + layout.size > len(self._data):
            raise OSError(errno.EPROTO, "message is cut short")
        self._at = start + layout.size
        value: int = layout.unpack_from(self._data, start)[0]
        return value

    def u8(self) -> int:
        """One byte."""
        return self._take(_U8)

    def u16(self) -> int:
        """Two bytes."""
        return self._take(_U16)

    def u32(self) -> int:
        """Four bytes."""
        return self._take(_U32)

    def u64(self) -> int:
        """Eight bytes."""
        return self._take(_U64)

    def string(self) -> bytes:
        """A string, of any bytes."""
        length = self.u16()
        start = self._at
        if start + length > len(self._data):
            raise OSError(errno.EPROTO, "string goes beyond its message")
        self._at = start + length
        return self._data[start : start + length]

    def strings(self) -> list[bytes]:
        """The names of a Twalk."""
        count = self.u16()
        if count > WALK_MAX:
            raise OSError(errno.EINVAL, f"walk has {count} names, at most {WALK_MAX} are allowed")
        return [self.string() for _ in range(count)]

    def changes(self) -> Changes:
        """What Tsetattr asks for."""
        valid, mode, uid, gid = (self.u32() for _ in range(4))
        size, atime, atime_ns, mtime, mtime_ns = (self.u64() for _ in range(5))
        if max(atime_ns, mtime_ns) >= 10**9:
            raise OSError(errno.EINVAL, "a time has a second's worth of nanoseconds or more")
        return Changes(valid, mode, uid, gid, size, _signed(atime) * 10**9 + atime_ns, _signed(mtime) * 10**9 + mtime_ns)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def u32(value: int) -> bytes:
    """Four bytes."""
    return _U32.pack(value)


def u64(value: int) -> bytes:
    """Eight bytes."""
    return _U64.pack(value)


def string(text: bytes) -> bytes:
    """A string with its length."""
    return _U16.pack(len(text)) + text


def strings(texts: Sequence[bytes]) -> bytes:
    """The names of a Twalk."""
    return _U16.pack(len(texts)) + b"".join(map(string, texts))


def qids(found: Sequence[Qid]) -> bytes:
    """The body of Rwalk."""
    return _U16.pack(len(found)) + b"".join(qid.pack() for qid in found)


def dirent(qid: Qid, offset: int, kind: int, name: bytes) -> bytes:
    """One entry of Rreaddir; `offset` is where the one behind it is."""
    return _DIRENT.pack(qid.type, qid.version, qid.path, offset, kind) + string(name)


def message(kind: int, tag: int, body: bytes, data: int = 0) -> bytes:
    """A whole message, or its first part when `data` more bytes come behind it."""
    return HEADER.pack(HEADER.size + len(body) + data, kind, tag) + body


def error(tag: int, code: int) -> bytes:
    """An Rlerror; `code` is Linux's errno."""
    return message(Type.RLERROR, tag, u32(code))
