"""Messages about names and attributes: make, link, rename, remove, getattr, setattr, statfs.

Every handler reads all fields of its message before it does anything.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from devices.p9 import wire
from devices.p9.paths import NAME_MAX, child, parent
from devices.p9.session import Call, Session

MAGIC = 0x01021997  # statfs(2)'s V9FS_MAGIC
AT_REMOVEDIR = 0x200
STATFS = struct.Struct("<II6QI")


def getattr_(session: Session, call: Call) -> bytes:
    """All there is, whatever was asked for."""
    number, _mask = call.fields.u32(), call.fields.u64()
    with session.at(session.fids.file(number)) as fd:
        return session.files.attributes(fd).pack()


def setattr_(session: Session, call: Call) -> bytes:
    """Change mode, owner, size or times."""
    number, changes = call.fields.u32(), call.fields.changes()
    with session.at(session.fids.file(number)) as fd:
        session.files.change(fd, changes)
    return b""


def statfs(session: Session, call: Call) -> bytes:
    """What there is of the host's file system."""
    with session.at(session.fids.file(call.fields.u32())) as fd:
        space = session.files.space(fd)
    counts = (space.f_blocks, space.f_bfree, space.f_bavail, space.f_files, space.f_ffree, space.f_fsid)
    return STATFS.pack(MAGIC, space.f_bsize, *counts, NAME_MAX)


def readlink(session: Session, call: Call) -> bytes:
    """The target of a symbolic link."""
    with session.at(session.fids.file(call.fields.u32())) as fd:
        return wire.string(session.files.readlink(fd))


def mkdir(session: Session, call: Call) -> bytes:
    """Make a directory."""
    number, name, mode, gid = call.fields.u32(), call.fields.string(), call.fields.u32(), call.fields.u32()
    fid = session.fids.file(number)
    with session.at(fid) as directory:
        return session.files.mkdir(directory, name, mode, session.owner(fid, gid)).pack()


def symlink(session: Session, call: Call) -> bytes:
    """Make a symbolic link."""
    number, name, target, gid = call.fields.u32(), call.fields.string(), call.fields.string(), call.fields.u32()
    fid = session.fids.file(number)
    with session.at(fid) as directory:
        return session.files.symlink(directory, name, target, session.owner(fid, gid)).pack()


def mknod(session: Session, call: Call) -> bytes:
    """Make a file of any type."""
    number, name = call.fields.u32(), call.fields.string()
    mode, major, minor, gid = (call.fields.u32() for _ in range(4))
    if major >= 1 << 12 or minor >= 1 << 20:
        raise OSError(errno.EINVAL, f"device number {major}:{minor} is beyond Linux's 12 and 20 bits")
    fid = session.fids.file(number)
    with session.at(fid) as directory:
        return session.files.mknod(directory, name, mode, os.makedev(major, minor), session.owner(fid, gid)).pack()


def link(session: Session, call: Call) -> bytes:
    """Give a fid's file another name."""
    number, target, name = call.fields.u32(), call.fields.u32(), call.fields.string()
    with session.at(session.fids.file(number)) as directory, session.at(session.fids.file(target)) as fd:
        session.files.link(fd, directory, name)
    return b""


def rename(session: Session, call: Call) -> bytes:
    """Move a fid's file."""
    number, directory, name = call.fields.u32(), call.fields.u32(), call.fields.string()
    old = session.fids.file(number).path
    _move(session, old, child(session.fids.file(directory).path, name))
    return b""


def renameat(session: Session, call: Call) -> bytes:
    """Move a name."""
    fields = call.fields
    old_number, old, new_number, new = fields.u32(), fields.string(), fields.u32(), fields.string()
    _move(session, child(session.fids.file(old_number).path, old), child(session.fids.file(new_number).path, new))
    return b""


def _move(session: Session, old: bytes, new: bytes) -> None:
    """All fids below go along."""
    with session.path(parent(old)) as old_directory, session.path(parent(new)) as new_directory:
        session.files.rename(old_directory, _name(old), new_directory, _name(new))
    session.fids.renamed(old, new)


def _name(path: bytes) -> bytes:
    if not path:
        raise OSError(errno.EBUSY, "the share itself can be neither renamed nor removed")
    return path.rpartition(b"/")[2]


def unlinkat(session: Session, call: Call) -> bytes:
    """Take a name away."""
    number, name, flags = call.fields.u32(), call.fields.string(), call.fields.u32()
    with session.at(session.fids.file(number)) as directory:
        session.files.remove(directory, name, directory_wanted=bool(flags & AT_REMOVEDIR))
    return b""


def remove(session: Session, call: Call) -> bytes:
    """Take a fid's file away, and the fid, which goes even when the file does not."""
    number = call.fields.u32()
    fid = session.fids.remove(number)
    session.settle()
    fid.check()
    if fid.attribute is not None:
        raise OSError(errno.EINVAL, f"fid {number} is an extended attribute")
    path = fid.path
    with session.path(parent(path)) as directory:
        with session.files.at(directory, _name(path)) as fd:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        session.files.remove(directory, _name(path), directory_wanted=is_directory)
    return b""
