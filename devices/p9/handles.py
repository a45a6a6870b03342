"""Messages about fids and what is open: walk, open, read, write, directory entries, extended attributes, locks.

Every handler reads all fields of its message before it does anything. As in QEMU all locks are granted: the guest's kernel has
asked its own processes before, and nobody else on the host is asked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from devices.p9 import wire
from devices.p9.fids import Attribute, Fid
from devices.p9.paths import child, parent
from devices.p9.session import Call, Session
from devices.virtio.queue import split

LOCK_SUCCESS = b"\0"
F_UNLCK = 2
XATTR_REPLACE = 2
OFFSET_MAX = (1 << 63) - 1


def version(session: Session, call: Call) -> bytes:
    """Begin a session; all fids of the one before are gone."""
    msize, name = call.fields.u32(), call.fields.string()
    session.start(0)
    if msize < wire.MSIZE_MIN:
        raise OSError(errno.EMSGSIZE, f"msize is {msize}, must be at least {wire.MSIZE_MIN}")
    msize = min(msize, wire.MSIZE_MAX)
    known = name == wire.VERSION
    if known:
        session.msize = msize
    return wire.u32(msize) + wire.string(name if known else b"unknown")


def auth(_session: Session, _call: Call) -> bytes:
    """Whoever got as far as here may attach; the error is what clients (diod's) understand so."""
    raise OSError(errno.ENOENT, "no authentication is needed")


def attach(session: Session, call: Call) -> bytes:
    """Give the guest the share's root. Who it says it is only owns what it makes."""
    fields = call.fields
    number, _auth, _user, _tree, uid = fields.u32(), fields.u32(), fields.string(), fields.string(), fields.u32()
    with session.path(b"") as fd:
        qid = session.files.qid(fd)
    session.attach(number, Fid(b"", uid))
    return qid.pack()


def flush(session: Session, call: Call) -> bytes:  # noqa: ARG001 - a handler as all others
    """What is flushed came before, and has been answered."""
    call.fields.u16()
    return b""


def walk(session: Session, call: Call) -> bytes:
    """A new fid, some names away; as far as the names lead when they do not lead to the end."""
    number, new, names = call.fields.u32(), call.fields.u32(), call.fields.strings()
    fid = session.fids.file(number)
    if new == number:
        session.fids.closed(number)
    else:
        session.fids.check_free(new)
    path, found = fid.path, []
    for name in names:
        try:
            path = parent(path) if name == b".." else child(path, name)
            with session.path(path) as fd:
                found.append(session.files.qid(fd))
        except OSError:
            if not found:
                raise
            return wire.qids(found)
    if new == number:
        session.fids.move(fid, path)
    else:
        session.fids.add(new, Fid(path, fid.uid))
    return wire.qids(found)


def lopen(session: Session, call: Call) -> bytes:
    """Open a fid's file."""
    number, flags = call.fields.u32(), call.fields.u32()
    fid = session.fids.closed(number)
    session.fids.check_open()
    with session.at(fid) as fd:
        qid = session.files.qid(fd)
        session.fids.opens(fid, session.files.open(fd, flags))
    return qid.pack() + wire.u32(session.msize - wire.IO_HEADER)


def lcreate(session: Session, call: Call) -> bytes:
    """Make a file in a fid's directory and open it; the fid is the file's then."""
    fields = call.fields
    number, name, flags, mode, gid = fields.u32(), fields.string(), fields.u32(), fields.u32(), fields.u32()
    fid = session.fids.closed(number)
    session.fids.check_open()
    path = child(fid.path, name)
    with session.at(fid) as directory:
        fd = session.files.create(directory, name, flags, mode, session.owner(fid, gid))
    session.fids.move(fid, path)
    session.fids.opens(fid, fd)
    return session.files.qid(fd).pack() + wire.u32(session.msize - wire.IO_HEADER)


def read(session: Session, call: Call) -> bytes:
    """Fill the guest's buffers from a file, or from an attribute."""
    number, offset, count = call.fields.u32(), call.fields.u64(), call.fields.u32()
    fid = session.fids.get(number)
    pieces, _ = split(call.data, min(count, session.msize - wire.IO_HEADER))
    if fid.attribute is not None:
        call.filled = _scatter(memoryview(fid.attribute.value)[min(offset, len(fid.attribute.value)) :], pieces)
    elif pieces:
        fd = session.fids.opened(number).fd
        call.filled = os.preadv(fd, pieces, _within(offset))
    return wire.u32(call.filled)


def _scatter(value: memoryview, pieces: Sequence[memoryview]) -> int:
    done = 0
    for piece in pieces:
        part = value[done : done + len(piece)]
        piece[: len(part)] = part
        done += len(part)
    return done


def _within(offset: int) -> int:
    if offset > OFFSET_MAX:
        raise OSError(errno.EINVAL, f"offset is {offset:#x}, at most {OFFSET_MAX:#x} is allowed")
    return offset


def write(session: Session, call: Call) -> bytes:
    """Write the guest's buffers to a file, or gather an attribute from them."""
    number, offset, count = call.fields.u32(), call.fields.u64(), call.fields.u32()
    fid = session.fids.get(number)
    if count > sum(map(len, call.payload)):
        raise OSError(errno.EPROTO, f"a write of {count} bytes brings {sum(map(len, call.payload))}")
    pieces, _ = split(call.payload, count)
    if fid.attribute is None:
        fd = session.fids.opened(number).fd
        return wire.u32(os.pwritev(fd, pieces, _within(offset)) if pieces else 0)
    attribute = fid.attribute
    if not attribute.written or offset != len(attribute.value) or offset + count > attribute.size:
        raise OSError(errno.EINVAL, f"{count} bytes at {offset} of an attribute of {attribute.size}")
    for piece in pieces:
        attribute.value += piece
    return wire.u32(count)


def clunk(session: Session, call: Call) -> bytes:
    """Forget a fid; an attribute that was gathered in it is set now."""
    fid = session.fids.remove(call.fields.u32())
    session.settle()
    if fid.attribute is not None and fid.attribute.written:
        _commit(session, fid, fid.attribute)
    return b""


def _commit(session: Session, fid: Fid, attribute: Attribute) -> None:
    if len(attribute.value) != attribute.size:
        raise OSError(errno.EINVAL, f"attribute has {len(attribute.value)} bytes of {attribute.size} announced")
    with session.at(fid) as fd:
        if attribute.size == 0 and attribute.flags & XATTR_REPLACE:  # how Linux removes one
            session.files.remove_attribute(fd, attribute.name)
        else:
            session.files.set_attribute(fd, attribute.name, bytes(attribute.value), attribute.flags)


def xattrwalk(session: Session, call: Call) -> bytes:
    """A new fid, to read an attribute through, or the names of all for an empty name."""
    number, new, name = call.fields.u32(), call.fields.u32(), call.fields.string()
    fid = session.fids.file(number)
    session.fids.check_free(new)
    session.fids.check_open()
    with session.at(fid) as fd:
        value = session.files.get_attribute(fd, name) if name else session.files.list_attributes(fd)
    handle = Fid(fid.path, fid.uid)
    session.fids.add(new, handle)
    session.fids.holds(handle, Attribute(name, bytearray(value)))
    return wire.u64(len(value))


def xattrcreate(session: Session, call: Call) -> bytes:
    """Turn a fid into one that an attribute is written through."""
    fields = call.fields
    number, name, size, flags = fields.u32(), fields.string(), fields.u64(), fields.u32()
    fid = session.fids.closed(number)
    session.fids.check_open()
    session.files.check_attribute(name, size)
    session.fids.holds(fid, Attribute(name, bytearray(), size, flags, written=True))
    return b""


def readdir(session: Session, call: Call) -> bytes:
    """As many entries of a directory as go into a reply; none at its end."""
    number, offset, count = call.fields.u32(), call.fields.u64(), call.fields.u32()
    fd = session.fids.opened(number).fd
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise OSError(errno.ENOTDIR, f"fid {number} is no directory")
    room = min(count, session.msize - wire.IO_HEADER, sum(map(len, call.data)))
    out = bytearray()
    for entry in session.files.entries(fd, _within(offset)):
        packed = wire.dirent(entry.qid, entry.offset, entry.kind, entry.name)
        if len(out) + len(packed) > room:
            if not out:
                raise OSError(errno.EINVAL, f"an entry has {len(packed)} bytes, the reply has room for {room}")
            break
        out += packed
    return wire.u32(len(out)) + out


def fsync(session: Session, call: Call) -> bytes:
    """Bring a file to the disk; without its times if that is enough."""
    number, data_only = call.fields.u32(), call.fields.u32()
    fd = session.fids.opened(number).fd
    if data_only:
        os.fdatasync(fd)
    else:
        os.fsync(fd)
    return b""


def lock(session: Session, call: Call) -> bytes:
    """Granted."""
    fields = call.fields
    number, _type, _flags, _start, _length = fields.u32(), fields.u8(), fields.u32(), fields.u64(), fields.u64()
    fields.u32()
    fields.string()
    session.fids.opened(number)
    return LOCK_SUCCESS


def getlock(session: Session, call: Call) -> bytes:
    """Nobody holds a lock that would be in the way."""
    fields = call.fields
    number, _type, start, length = fields.u32(), fields.u8(), fields.u64(), fields.u64()
    process, client = fields.u32(), fields.string()
    session.fids.opened(number)
    return bytes([F_UNLCK]) + wire.u64(start) + wire.u64(length) + wire.u32(process) + wire.string(client)
