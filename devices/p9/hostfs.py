"""The shared directory on the host: the one file of 9p that touches it.

Nothing leads out of it. Files are found by `beneath` from the directory's descriptor, never by a path of the host; what was
found is worked on by its descriptor (through /proc/self/fd, which names exactly that file); what is made, renamed or removed is
one plain name in a directory that was found. No symbolic link is ever followed; only plain files and directories are opened.
All errors are OSErrors with the errno that the guest is told.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from devices.p9 import dirents, mapped, xattrs
from devices.p9.beneath import Resolve, best
from devices.p9.identity import Identity, look
from devices.p9.mapped import Ownership
from devices.p9.owner import Owner
from devices.p9.paths import plain
from devices.p9.wire import Attributes, Changes, Qid, QidType, Valid
from emu.errors import ConfigError

TARGET_MAX = 4095  # bytes of a symbolic link
ALWAYS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
LASTING_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_DIRECTORY  # that an open file goes on to have
KEPT_FLAGS = LASTING_FLAGS | os.O_TRUNC

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ESTALE)
QID_TYPES = {dirents.DIRECTORY: QidType.DIR, dirents.SYMLINK: QidType.SYMLINK}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory; `offset` is where the next one is, `kind` one of readdir(3)'s DT_ values."""

    qid: Qid
    offset: int
    kind: int
    name: bytes


def proc(fd: int) -> str:
    """A name for the file behind a descriptor of ours, for calls that take no descriptor of O_PATH."""
    return f"/proc/self/fd/{fd}"


class HostFs:
    """One shared directory. With `mapped`, QEMU's security model mapped-xattr; else files are the host's own (`none`)."""

    def __init__(self, root: Path, *, readonly: bool, mapped: bool, resolve: Resolve | None = None) -> None:
        """ConfigError when `root` is no directory that can be shared."""
        self._readonly = readonly
        self._mapped = mapped
        self._resolve = resolve or best()
        try:
            self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            status = os.stat(proc(self._root))  # noqa: PTH116 - fails where there is no /proc to work through
        except OSError as exc:
            raise ConfigError(f"share {root}: {exc.strerror}") from exc
        self._device, self._inode = status.st_dev, status.st_ino
        if mapped:
            self._check_attributes(root)

    def _check_attributes(self, root: Path) -> None:
        try:
            os.listxattr(proc(self._root))
            os.getxattr(proc(self._root), mapped.PREFIX + b"mode")
        except OSError as exc:
            if exc.errno != errno.ENODATA:
                os.close(self._root)
                text = f"share {root}: security=mapped needs a file system with user attributes: {exc.strerror}"
                raise ConfigError(text) from exc

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._root)

    def find(self, path: bytes) -> int:
        """An O_PATH descriptor of what is at `path`, the caller's to close."""
        return self._resolve(self._root, path)

    def _writable(self) -> None:
        if self._readonly:
            raise OSError(errno.EROFS, "the share is read-only")

    # What a file is.

    def attributes(self, fd: int) -> Attributes:
        """As the guest sees it."""
        found = os.fstat(fd)
        own = mapped.read(proc(fd)) if self._mapped else Ownership()
        mode = found.st_mode if own.mode is None else own.mode
        return Attributes(
            qid=self._qid(found, mode),
            mode=mode,
            uid=found.st_uid if own.uid is None else own.uid,
            gid=found.st_gid if own.gid is None else own.gid,
            links=found.st_nlink,
            rdev=found.st_rdev if own.rdev is None else own.rdev,
            size=found.st_size,
            block_size=found.st_blksize,
            blocks=found.st_blocks,
            atime=found.st_atime_ns,
            mtime=found.st_mtime_ns,
            ctime=found.st_ctime_ns,
        )

    def qid(self, fd: int) -> Qid:
        """The same for all names of a file, in every process, as long as the file is there."""
        return self.attributes(fd).qid if self._mapped else self._qid(status := os.fstat(fd), status.st_mode)

    def _qid(self, found: os.stat_result, mode: int) -> Qid:
        kind = QidType.DIR if stat.S_ISDIR(mode) else QidType.SYMLINK if stat.S_ISLNK(mode) else QidType.FILE
        version = (found.st_mtime_ns ^ found.st_size << 8) & 0xFFFF_FFFF
        return Qid(kind, version, self._qid_path(found.st_dev, found.st_ino))

    def _qid_path(self, device: int, inode: int) -> int:
        """The inode number, with the device's in it for what is mounted below the share."""
        return inode if device == self._device else xxhash.xxh3_64_intdigest(struct.pack("<QQ", device, inode))

    def identity(self, directory: int, name: bytes = b"") -> Identity:
        """Which file a name in a directory is, or a descriptor itself: for another process, and after another start."""
        kind, inode, device, born = look(directory, name)
        return Identity(kind, self._qid_path(device, inode), born)

    def root(self) -> Identity:
        """The shared directory itself."""
        return self.identity(self._root)

    def identities(self, paths: Iterable[bytes]) -> list[Identity | None]:
        """What each path leads to now, None for nothing; those of one directory cost little when they come together."""
        found: list[Identity | None] = []
        above: bytes | None = None
        fd = -1
        with contextlib.ExitStack() as stack:
            for path in paths:
                directory, _slash, name = path.rpartition(b"/")
                try:
                    if directory != above:
                        stack.close()
                        above, fd = directory, -1
                        fd = self.find(directory)
                        stack.callback(os.close, fd)
                    found.append(self.identity(fd, name) if fd >= 0 else None)
                except OSError as exc:
                    if exc.errno not in NOT_THERE:
                        raise
                    found.append(None)
        return found

    def space(self, fd: int) -> os.statvfs_result:
        """What there is of the file system."""
        return os.fstatvfs(fd)

    def change(self, fd: int, changes: Changes) -> None:
        """What Tsetattr asks for; the times last, for the rest changes them."""
        self._writable()
        valid, path = changes.valid, proc(fd)
        if valid & Valid.SIZE:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "only a plain file has a size to set")
            os.truncate(path, changes.size)
        uid = changes.uid if valid & Valid.UID else None
        gid = changes.gid if valid & Valid.GID else None
        if self._mapped:
            mode = changes.mode & 0o7777 | stat.S_IFMT(self.attributes(fd).mode) if valid & Valid.MODE else None
            mapped.write(path, Ownership(uid=uid, gid=gid, mode=mode))
        else:
            if uid is not None or gid is not None:
                os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
            if valid & Valid.MODE:
                os.chmod(path, changes.mode & 0o7777)  # noqa: PTH101 - bytes and descriptors, not paths
        if valid & (Valid.ATIME | Valid.MTIME):
            _set_times(fd, changes)

    def readlink(self, fd: int) -> bytes:
        """The target of a symbolic link, which is the guest's to follow."""
        if not stat.S_ISLNK(self.attributes(fd).mode):
            raise OSError(errno.EINVAL, "not a symbolic link")
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            return os.readlink(b"", dir_fd=fd)
        file = os.open(proc(fd), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(file, TARGET_MAX)
        finally:
            os.close(file)

    # Open files.

    def open(self, fd: int, flags: int) -> int:
        """Open the plain file or directory that `fd` means."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._writable()
        real, seen = os.fstat(fd).st_mode, self.attributes(fd).mode
        for mode in (real, seen):
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.ELOOP if stat.S_ISLNK(mode) else errno.ENXIO, "only plain files and directories are opened")
        return os.open(proc(fd), (flags & KEPT_FLAGS | ALWAYS) & ~os.O_NOFOLLOW)  # the name in /proc is a link itself

    def reopen(self, fd: int, flags: int) -> int:
        """Open what was open before: a file may be written to by who opened it before it was made read-only, as git's are."""
        try:
            return self.open(fd, flags)
        except PermissionError:
            found = os.fstat(fd)
            if self._readonly or found.st_uid != os.geteuid():
                raise
            os.chmod(proc(fd), stat.S_IMODE(found.st_mode) | mapped.FILE_MODE)  # noqa: PTH101
            try:
                return self.open(fd, flags)
            finally:
                os.chmod(proc(fd), stat.S_IMODE(found.st_mode))  # noqa: PTH101

    def flags(self, fd: int) -> int:
        """Those to open an open file with once more."""
        return fcntl.fcntl(fd, fcntl.F_GETFL) & LASTING_FLAGS

    def publish(self, fd: int) -> None:
        """Have other hosts that open the file see what was written: closing does that on NFS, and nothing on local disks."""
        os.close(os.dup(fd))

    def entries(self, fd: int, offset: int) -> Iterator[Entry]:
        """Some entries of an open directory from `offset` on, 0 or one that came with an entry; none at its end."""
        directory = os.fstat(fd)
        top = (directory.st_dev, directory.st_ino) == (self._device, self._inode)
        for found in dirents.fetch(fd, offset):
            inode = self._inode if top and found.name == b".." else found.inode  # what is above the share is nobody's business
            qid = Qid(QID_TYPES.get(found.kind, QidType.FILE), 0, self._qid_path(directory.st_dev, inode))
            kind = dirents.UNKNOWN if self._mapped and found.kind == dirents.FILE else found.kind  # any to the guest
            yield Entry(qid, found.following, kind, found.name)

    # Names in directories.

    def create(self, directory: int, name: bytes, flags: int, mode: int, owner: Owner) -> int:
        """Make a plain file and open it; one that is there is opened unless O_EXCL forbids it."""
        self._writable()
        try:
            # A file of another's is nobody's business until it is theirs.
            first = mode & 0o777 if owner.is_ours and not self._mapped else mapped.FILE_MODE
            access = flags & KEPT_FLAGS & ~os.O_DIRECTORY | ALWAYS | os.O_CREAT | os.O_EXCL
            fd = os.open(plain(name), access, first, dir_fd=directory)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            with self.at(directory, name) as found:
                return self.open(found, flags)
        try:
            self._dress(directory, name, fd, stat.S_IFREG | mode & 0o7777, owner)
        except OSError:
            os.close(fd)
            raise
        return fd

    def mkdir(self, directory: int, name: bytes, mode: int, owner: Owner) -> Qid:
        """Make a directory."""
        self._writable()
        os.mkdir(plain(name), mapped.DIRECTORY_MODE, dir_fd=directory)
        return self._made(directory, name, stat.S_IFDIR | mode & 0o7777, owner)

    def symlink(self, directory: int, name: bytes, target: bytes, owner: Owner) -> Qid:
        """Make a symbolic link to whatever the guest likes; the host never follows it."""
        self._writable()
        if not 0 < len(target) <= TARGET_MAX or b"\0" in target:
            raise OSError(errno.EINVAL, "a symbolic link's target is empty, too long or holds a NUL")
        if not self._mapped:
            os.symlink(target, plain(name), dir_fd=directory)
            with self.at(directory, name) as fd:
                owner.take(fd, proc(fd))
                return self.qid(fd)
        self._make_file(directory, name, target)
        return self._made(directory, name, stat.S_IFLNK | 0o777, owner)

    def mknod(self, directory: int, name: bytes, mode: int, device: int, owner: Owner) -> Qid:
        """Make a file of any type. Device nodes exist in the guest alone: `none` refuses them."""
        self._writable()
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(errno.EINVAL, "no type that mknod makes")
        if self._mapped or kind == stat.S_IFREG:
            self._make_file(directory, name, b"")
            return self._made(directory, name, kind | mode & 0o7777, owner, device)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(errno.EPERM, "device nodes are made with security=mapped only")
        os.mknod(plain(name), kind | mapped.FILE_MODE, dir_fd=directory)
        return self._made(directory, name, kind | mode & 0o7777, owner)

    def _make_file(self, directory: int, name: bytes, content: bytes) -> None:
        fd = os.open(plain(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | ALWAYS, mapped.FILE_MODE, dir_fd=directory)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def _made(self, directory: int, name: bytes, mode: int, owner: Owner, device: int = 0) -> Qid:
        with self.at(directory, name) as fd:
            self._dress(directory, name, fd, mode, owner, device)
            return self.qid(fd)

    def _dress(self, directory: int, name: bytes, fd: int, mode: int, owner: Owner, device: int = 0) -> None:
        """Give a new file its mode and owner; it goes again when that fails."""
        try:
            if self._mapped:
                mapped.write(proc(fd), Ownership(owner.uid, owner.gid, mode, device or None))
            elif owner.take(fd, proc(fd)) or stat.S_IMODE(os.fstat(fd).st_mode) != mode & 0o7777:
                os.chmod(proc(fd), mode & 0o7777)  # noqa: PTH101
        except OSError:
            with contextlib.suppress(OSError):
                self.remove(directory, name, directory_wanted=stat.S_ISDIR(mode))
            raise

    def link(self, fd: int, directory: int, name: bytes) -> None:
        """Give a file of this share another name in it."""
        self._writable()
        os.link(proc(fd), plain(name), dst_dir_fd=directory)

    def rename(self, old_directory: int, old: bytes, new_directory: int, new: bytes) -> None:
        """Move a name; what was there under the new one goes."""
        self._writable()
        os.rename(plain(old), plain(new), src_dir_fd=old_directory, dst_dir_fd=new_directory)

    def remove(self, directory: int, name: bytes, *, directory_wanted: bool) -> None:
        """Take a name away."""
        self._writable()
        if directory_wanted:
            os.rmdir(plain(name), dir_fd=directory)
        else:
            os.unlink(plain(name), dir_fd=directory)

    @contextlib.contextmanager
    def at(self, directory: int, name: bytes) -> Iterator[int]:
        """An O_PATH descriptor of one name in a directory."""
        fd = self._resolve(directory, plain(name))
        try:
            yield fd
        finally:
            os.close(fd)

    # Extended attributes.

    def get_attribute(self, fd: int, name: bytes) -> bytes:
        """A value."""
        return os.getxattr(proc(fd), xattrs.checked(name))

    def list_attributes(self, fd: int) -> bytes:
        """All names, each ended by a NUL."""
        return b"".join(name + b"\0" for name in map(os.fsencode, os.listxattr(proc(fd))) if xattrs.is_shared(name))

    def set_attribute(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        """Set a value; `flags` are setxattr(2)'s."""
        self._writable()
        os.setxattr(proc(fd), xattrs.checked(name), value, flags)

    def remove_attribute(self, fd: int, name: bytes) -> None:
        """Take an attribute away."""
        self._writable()
        os.removexattr(proc(fd), xattrs.checked(name))

    def check_attribute(self, name: bytes, size: int) -> None:
        """OSError when `set_attribute` could not be right."""
        self._writable()
        xattrs.check(name, size)


def _set_times(fd: int, changes: Changes) -> None:
    """One that is not asked for stays; one that is not given is now."""
    valid, now = changes.valid, (Valid.ATIME | Valid.MTIME)
    if valid & (now | Valid.ATIME_SET | Valid.MTIME_SET) == now:
        os.utime(proc(fd))
        return
    found = os.fstat(fd)
    atime = changes.atime if valid & Valid.ATIME_SET else time.time_ns()
    mtime = changes.mtime if valid & Valid.MTIME_SET else time.time_ns()
    times = (atime if valid & Valid.ATIME else found.st_atime_ns, mtime if valid & Valid.MTIME else found.st_mtime_ns)
    os.utime(proc(fd), ns=times)
