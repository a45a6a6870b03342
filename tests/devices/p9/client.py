"""A 9P client for tests: it speaks to a server as Linux does, field by field, and raises the errno it is told."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgpack
import pytest

from devices.p9 import saved, wire
from devices.p9.beneath import Resolve
from devices.p9.fids import Fids
from devices.p9.hostfs import HostFs
from devices.p9.saved import FidsState
from devices.p9.server import Server
from devices.p9.session import Session
from devices.p9.wire import Qid, Reader, Type
from emu.errors import MigrationError
from migration.blockers import Blockers
from migration.stream import unpack
from migration.vmstate import dump, parse

ROOT = 0
NOBODY = 0xFFFF_FFFF
MSIZE = 64 << 10
REASON = "The share is mounted."


def fields(layout: str, *values: int) -> bytes:
    """Numbers, little endian."""
    return struct.pack("<" + layout, *values)


def qid(reply: Reader) -> Qid:
    return Qid(reply.u8(), reply.u32(), reply.u64())


@dataclass(frozen=True)
class Status:
    """Rgetattr."""

    valid: int
    qid: Qid
    mode: int
    uid: int
    gid: int
    links: int
    rdev: int
    size: int
    block_size: int
    blocks: int
    atime: tuple[int, int]
    mtime: tuple[int, int]
    ctime: tuple[int, int]


class Client:
    """A guest and its share, attached as fid ROOT."""

    def __init__(
        self,
        root: Path,
        *,
        readonly: bool = False,
        mapped: bool = False,
        resolve: Resolve | None = None,
        fids: Fids | None = None,
        msize: int = MSIZE,
    ) -> None:
        self.blockers = Blockers()
        self.open_share = lambda: HostFs(root, readonly=readonly, mapped=mapped, resolve=resolve)
        self.files = self.open_share()
        self.session = Session(self.files, lambda: self.blockers.add(REASON), fids=fids)
        self.server = Server(self.session)
        self.last = 100  # the fid given out last
        self.version(msize)
        self.attach(ROOT)

    def close(self) -> None:
        self.session.close()

    def save(self) -> bytes:
        """The session as a stream has it."""
        return cast(bytes, msgpack.packb(dump(saved.save(self.files, self.session.fids))))

    def restore(self, stream: bytes, *, strict: bool = True) -> None:
        """Go on with another server, which has the session from a stream, unless it refuses with a MigrationError."""
        state = parse(FidsState, FidsState.VMSTATE.version, unpack(memoryview(stream), "SECTION"))
        there = Session(self.open_share(), None, fids=self.session.fids.fresh())
        fids = self.session.fids.fresh()
        try:
            saved.restore(there.files, state, fids, strict=strict)
        except MigrationError:
            fids.clear()
            there.close()
            raise
        there.go_on(self.session.msize, fids)
        self.close()
        self.files, self.session, self.server = there.files, there, Server(there)

    def move(self, *, strict: bool = True) -> None:
        """Go on with another server."""
        self.restore(self.save(), strict=strict)

    def obstacles(self, *, strict: bool = True) -> list[str]:
        return saved.obstacles(self.files, self.session.fids, strict=strict)

    def send(self, kind: int, body: bytes, payload: bytes = b"", room: int = wire.MSIZE_MAX) -> bytes:
        """A whole message; the whole reply."""
        message = wire.message(kind, 7, body, len(payload))
        data = memoryview(bytearray(room))
        head, filled = self.server.serve(message, [memoryview(payload)], [data])
        return head + bytes(data[:filled])

    def ask(self, kind: int, body: bytes, payload: bytes = b"", room: int = wire.MSIZE_MAX) -> Reader:
        """The fields of the reply; OSError with the errno of an Rlerror."""
        reply = self.send(kind, body, payload, room)
        size, answered, tag = wire.HEADER.unpack_from(reply)
        answer = Reader(reply[wire.HEADER.size :])
        assert (size, tag) == (len(reply), 7)
        if answered == Type.RLERROR:
            raise OSError(answer.u32(), "as the server told")
        assert answered == kind + 1
        return answer

    def version(self, msize: int = MSIZE, name: bytes = b"9P2000.L") -> tuple[int, bytes]:
        answer = self.ask(Type.VERSION, wire.u32(msize) + wire.string(name))
        return answer.u32(), answer.string()

    def attach(self, fid: int, uid: int = 0) -> Qid:
        body = fields("II", fid, NOBODY) + wire.string(b"root") + wire.string(b"/") + wire.u32(uid)
        return qid(self.ask(Type.ATTACH, body))

    def flush(self, tag: int) -> None:
        self.ask(Type.FLUSH, fields("H", tag))

    def new(self) -> int:
        self.last += 1
        return self.last

    def try_walk(self, fid: int, new: int, *names: bytes) -> list[Qid]:
        answer = self.ask(Type.WALK, fields("II", fid, new) + wire.strings(names))
        return [qid(answer) for _ in range(answer.u16())]

    def walk(self, *names: bytes, fid: int = ROOT) -> int:
        """A new fid at some names."""
        new = self.new()
        if len(self.try_walk(fid, new, *names)) != len(names):
            raise OSError(errno.ENOENT, "as the server told by fewer qids than there were names")
        return new

    def lopen(self, fid: int, flags: int = 0) -> tuple[Qid, int]:
        answer = self.ask(Type.LOPEN, fields("II", fid, flags))
        return qid(answer), answer.u32()

    def open(self, *names: bytes, flags: int = 0) -> int:
        fid = self.walk(*names)
        self.lopen(fid, flags)
        return fid

    def lcreate(self, fid: int, name: bytes, flags: int = 0o102, mode: int = 0o644, gid: int = 0) -> Qid:
        return qid(self.ask(Type.LCREATE, wire.u32(fid) + wire.string(name) + fields("III", flags, mode, gid)))

    def create(self, name: bytes, content: bytes = b"", *, mode: int = 0o644) -> int:
        """A file in the root, open; its fid."""
        fid = self.walk()
        self.lcreate(fid, name, mode=mode)
        self.write(fid, 0, content)
        return fid

    def read(self, fid: int, offset: int = 0, count: int = 4096) -> bytes:
        answer = self.ask(Type.READ, fields("IQI", fid, offset, count))
        return bytes(answer.u8() for _ in range(answer.u32()))

    def write(self, fid: int, offset: int, content: bytes) -> int:
        return self.ask(Type.WRITE, fields("IQI", fid, offset, len(content)), content).u32()

    def clunk(self, fid: int) -> None:
        self.ask(Type.CLUNK, wire.u32(fid))

    def remove(self, fid: int) -> None:
        self.ask(Type.REMOVE, wire.u32(fid))

    def getattr(self, fid: int) -> Status:
        answer = self.ask(Type.GETATTR, fields("IQ", fid, 0x3FFF))
        valid, found = answer.u64(), qid(answer)
        owner = [answer.u32() for _ in range(3)]
        numbers = [answer.u64() for _ in range(5)]
        times = [(answer.u64(), answer.u64()) for _ in range(3)]
        return Status(valid, found, *owner, *numbers, *times)

    def stat(self, *names: bytes) -> Status:
        fid = self.walk(*names)
        status = self.getattr(fid)
        self.clunk(fid)
        return status

    def setattr(
        self,
        fid: int,
        valid: int,
        *,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        atime: tuple[int, int] = (0, 0),
        mtime: tuple[int, int] = (0, 0),
    ) -> None:
        self.ask(Type.SETATTR, fields("IIIIIQQQQQ", fid, valid, mode, uid, gid, size, *atime, *mtime))

    def readdir(self, fid: int, offset: int = 0, count: int = 8192) -> list[tuple[bytes, int, int, Qid]]:
        """Name, type, offset of the next, qid."""
        answer = self.ask(Type.READDIR, fields("IQI", fid, offset, count))
        left, entries = answer.u32(), []
        while left:
            found, following, kind, name = qid(answer), answer.u64(), answer.u8(), answer.string()
            entries.append((name, kind, following, found))
            left -= 24 + len(name)
        return entries

    def names(self, *names: bytes, count: int = 8192) -> list[bytes]:
        """All names in a directory, read in parts of `count` bytes."""
        fid, offset, found = self.open(*names, flags=0o200000), 0, []
        while entries := self.readdir(fid, offset, count):
            found += [entry[0] for entry in entries]
            offset = entries[-1][2]
        self.clunk(fid)
        return sorted(found)

    def statfs(self, fid: int) -> tuple[int, ...]:
        answer = self.ask(Type.STATFS, wire.u32(fid))
        return (answer.u32(), answer.u32(), *(answer.u64() for _ in range(6)), answer.u32())

    def fsync(self, fid: int, *, data_only: int = 0) -> None:
        self.ask(Type.FSYNC, fields("II", fid, data_only))

    def symlink(self, name: bytes, target: bytes, fid: int = ROOT, gid: int = 0) -> Qid:
        return qid(self.ask(Type.SYMLINK, wire.u32(fid) + wire.string(name) + wire.string(target) + wire.u32(gid)))

    def mknod(self, name: bytes, mode: int, major: int = 0, minor: int = 0, fid: int = ROOT) -> Qid:
        return qid(self.ask(Type.MKNOD, wire.u32(fid) + wire.string(name) + fields("IIII", mode, major, minor, 0)))

    def mkdir(self, name: bytes, mode: int = 0o755, fid: int = ROOT, gid: int = 0) -> Qid:
        return qid(self.ask(Type.MKDIR, wire.u32(fid) + wire.string(name) + fields("II", mode, gid)))

    def link(self, fid: int, name: bytes, directory: int = ROOT) -> None:
        self.ask(Type.LINK, fields("II", directory, fid) + wire.string(name))

    def rename(self, fid: int, name: bytes, directory: int = ROOT) -> None:
        self.ask(Type.RENAME, fields("II", fid, directory) + wire.string(name))

    def renameat(self, old: bytes, new: bytes, old_directory: int = ROOT, new_directory: int = ROOT) -> None:
        self.ask(Type.RENAMEAT, wire.u32(old_directory) + wire.string(old) + wire.u32(new_directory) + wire.string(new))

    def unlinkat(self, name: bytes, flags: int = 0, fid: int = ROOT) -> None:
        self.ask(Type.UNLINKAT, wire.u32(fid) + wire.string(name) + wire.u32(flags))

    def readlink(self, *names: bytes) -> bytes:
        return self.ask(Type.READLINK, wire.u32(self.walk(*names))).string()

    def xattrwalk(self, fid: int, new: int, name: bytes) -> int:
        return self.ask(Type.XATTRWALK, fields("II", fid, new) + wire.string(name)).u64()

    def getxattr(self, fid: int, name: bytes) -> bytes:
        new = self.new()
        size = self.xattrwalk(fid, new, name)
        value = self.read(new, 0, size)
        self.clunk(new)
        return value

    def xattrcreate(self, fid: int, name: bytes, size: int, flags: int = 0) -> None:
        self.ask(Type.XATTRCREATE, wire.u32(fid) + wire.string(name) + fields("QI", size, flags))

    def setxattr(self, file: int, name: bytes, value: bytes, flags: int = 0) -> None:
        fid = self.walk(fid=file)
        self.xattrcreate(fid, name, len(value), flags)
        if value:
            self.write(fid, 0, value)
        self.clunk(fid)

    def lock(self, fid: int, kind: int) -> int:
        return self.ask(Type.LOCK, fields("IBIQQI", fid, kind, 0, 0, 0, 1) + wire.string(b"guest")).u8()

    def getlock(self, fid: int, kind: int) -> int:
        return self.ask(Type.GETLOCK, fields("IBQQI", fid, kind, 0, 0, 1) + wire.string(b"guest")).u8()


def refused(code: int, action: Callable[[], object]) -> None:
    """Assert that the server answers with this errno."""
    with pytest.raises(OSError, match="the server told") as caught:
        action()
    assert caught.value.errno == code, errno.errorcode.get(caught.value.errno or 0)
