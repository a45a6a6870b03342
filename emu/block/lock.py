"""Who holds an image: open-file-description byte locks (fcntl(2)), exclusive for a writer, shared for readers.

The bytes are those QEMU locks (block/file-posix.c: 100 + permission used, 200 + permission refused to others), so that an image
in use by one program is refused by the other. A lock belongs to the open file, not to the process: it goes when the last
duplicate of the descriptor is closed, a second open in the same process conflicts, and closing an unrelated descriptor of the
same file drops nothing, which is why plain POSIX locks are never used here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid

# First byte and number of bytes. QEMU's permissions: 0 consistent read, 1 write, 2 write unchanged, 3 resize.
_ALL = (100, 200)
_USES_READ = (100, 1)
_USES_WRITE = (101, 3)
_REFUSES_WRITE = (201, 3)

HELD_ERRNOS = (errno.EAGAIN, errno.EACCES)  # fcntl(2) allows either for a conflicting lock
MAX_PROCESS_NAME = 32  # of a foreign process, shown in an error line


def _flock(fd: int, command: int, kind: int, extent: tuple[int, int]) -> int:
    """Issue one lock command; the lock type in the answer."""
    answer: tuple[int, ...] = _FLOCK.unpack(fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, *extent, 0)))
    return answer[0]


def try_lock(fd: int, *, exclusive: bool) -> bool:
    """Take the lock of an image; False when somebody else holds it. OSError when the file system knows no locks."""
    try:
        if exclusive:
            _flock(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, _ALL)
            return True
        _flock(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, _USES_READ)
        _flock(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, _REFUSES_WRITE)
        # QEMU's writers take shared locks too and then look who minds; look in turn whether there is such a writer.
        if _flock(fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, _USES_WRITE) == fcntl.F_UNLCK:
            return True
    except OSError as exc:
        unlock(fd)
        if exc.errno in HELD_ERRNOS:
            return False
        raise
    unlock(fd)
    return False


def unlock(fd: int) -> None:
    """Drop the lock; harmless when none is held. Explicit, because a forked child keeps the description open."""
    _flock(fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, _ALL)


def holder(fd: int) -> str:
    """Who locks the file of `fd`, for an error line: `process 1234 (emu)`, `this process`, or `another process`.

    The kernel reports an OFD lock's owner as pid -1, but /proc/PID/fdinfo shows every lock under the description that holds it.
    A process of another user or another host stays unnamed.
    """
    status = os.fstat(fd)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # gone meanwhile, or not ours to look at
            continue
        if any(_locks(process, descriptor, status) for descriptor in descriptors):
            return "this process" if process.name == str(os.getpid()) else f"process {process.name} ({_name(process)})"
    return "another process"


def _locks(process: Path, descriptor: Path, image: os.stat_result) -> bool:
    try:
        status = descriptor.stat()
        if (status.st_dev, status.st_ino) != (image.st_dev, image.st_ino):
            return False
        return "lock:" in (process / "fdinfo" / descriptor.name).read_text()
    except OSError:
        return False


def _name(process: Path) -> str:
    """The program a process runs; for a Python program the script or module, not the interpreter."""
    try:
        arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        name = (process / "comm").read_text().strip()
    except OSError:
        return "unknown"
    if name.startswith("python") and "-c" not in arguments:
        name = next((Path(argument).name for argument in arguments[1:] if argument and argument[0] != "-"), name)
    return "".join(char for char in name if char.isprintable())[:MAX_PROCESS_NAME]
