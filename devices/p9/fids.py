"""The guest's handles: a fid is a path in the share, and an open file or an extended attribute on top of it.

A fid whose file was not there any more when the guest came from elsewhere is stale: it answers ESTALE until it is given back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import ItemsView, Iterator
from dataclasses import dataclass, field

from devices.p9.identity import Identity
from devices.p9.paths import PATH_MAX

FIDS_MAX = 1 << 15  # a guest has one for each name that it remembers
OPEN_MAX = 512  # open files and attributes at a time, of all shares; half the files Linux lets a process have by default
PATHS_MAX = 64 << 20  # bytes of all paths together


@dataclass(slots=True)
class Attribute:
    """An extended attribute that is read, or gathered until the fid goes."""

    name: bytes
    value: bytearray
    size: int = 0  # bytes announced, of one that is written
    flags: int = 0  # setxattr(2)'s
    written: bool = False


@dataclass(slots=True)
class Fid:
    """`path` is relative to the share; `fd` is -1 unless the file is open; `uid` is who attached."""

    path: bytes
    uid: int
    fd: int = -1
    attribute: Attribute | None = None
    lost: Identity | None = None  # what a stale fid stood for

    def check(self) -> None:
        """OSError when the fid is stale."""
        if self.lost is not None:
            raise OSError(errno.ESTALE, "the fid's file was gone when the guest came here")


@dataclass(slots=True)
class Fids:
    """All of one session; OSErrors say what the guest did wrong."""

    fids_max: int = FIDS_MAX
    open_max: int = OPEN_MAX
    _fids: dict[int, Fid] = field(default_factory=dict)
    _path_bytes: int = 0
    _open: int = 0

    def __len__(self) -> int:
        return len(self._fids)

    def __iter__(self) -> Iterator[Fid]:
        return iter(self._fids.values())

    def items(self) -> ItemsView[int, Fid]:
        """All with their numbers."""
        return self._fids.items()

    def fresh(self) -> Fids:
        """None, with the same limits."""
        return Fids(self.fids_max, self.open_max)

    def any(self, number: int) -> Fid:
        """A fid, even a stale one."""
        try:
            return self._fids[number]
        except KeyError:
            raise OSError(errno.EBADF, f"there is no fid {number}") from None

    def get(self, number: int) -> Fid:
        """A fid of any kind that can be worked with."""
        fid = self.any(number)
        fid.check()
        return fid

    def is_plain(self, number: int) -> bool:
        """Whether a fid has nothing behind it but a path, if there is one at all."""
        fid = self._fids.get(number)
        return fid is None or (fid.fd < 0 and fid.attribute is None)

    def file(self, number: int) -> Fid:
        """A fid that stands for a file, not for an attribute."""
        fid = self.get(number)
        if fid.attribute is not None:
            raise OSError(errno.EINVAL, f"fid {number} is an extended attribute")
        return fid

    def closed(self, number: int) -> Fid:
        """A fid of a file that is not open."""
        fid = self.file(number)
        if fid.fd >= 0:
            raise OSError(errno.EBUSY, f"fid {number} is open")
        return fid

    def opened(self, number: int) -> Fid:
        """A fid of an open file."""
        fid = self.file(number)
        if fid.fd < 0:
            raise OSError(errno.EBADF, f"fid {number} is not open")
        return fid

    def check_free(self, number: int) -> None:
        """Whether `add` could take a number."""
        if number in self._fids:
            raise OSError(errno.EBADF, f"fid {number} is in use")
        if len(self._fids) >= self.fids_max or self._path_bytes >= PATHS_MAX:
            raise OSError(errno.ENFILE, f"the guest has {len(self._fids)} fids with {self._path_bytes} bytes of paths")

    def add(self, number: int, fid: Fid) -> None:
        """Give the guest a handle."""
        self.check_free(number)
        self._fids[number] = fid
        self._path_bytes += len(fid.path)

    def move(self, fid: Fid, path: bytes) -> None:
        """Have a fid stand for another path."""
        self._path_bytes += len(path) - len(fid.path)
        fid.path = path

    def check_open(self) -> None:
        """Whether one more file may be opened."""
        if self._open >= self.open_max:
            raise OSError(errno.ENFILE, f"the guest has {self._open} files open, as many as it may")

    def opens(self, fid: Fid, fd: int) -> None:
        """A fid's file is open now."""
        fid.fd = fd
        self._open += 1

    def holds(self, fid: Fid, attribute: Attribute) -> None:
        """A fid is an attribute now, whose value takes memory."""
        fid.attribute = attribute
        self._open += 1

    def remove(self, number: int) -> Fid:
        """Take a handle away, its file closed."""
        fid = self.any(number)
        del self._fids[number]
        self._path_bytes -= len(fid.path)
        if fid.fd >= 0:
            os.close(fid.fd)
            fid.fd = -1
            self._open -= 1
        elif fid.attribute is not None:
            self._open -= 1
        return fid

    def clear(self) -> None:
        """Take all away."""
        for number in list(self._fids):
            self.remove(number)

    def renamed(self, old: bytes, new: bytes) -> None:
        """A path has another name, and so has all that is below it."""
        below = old + b"/"
        for fid in self:
            if fid.path == old or fid.path.startswith(below):
                path = new + fid.path[len(old) :]
                if len(path) <= PATH_MAX and self._path_bytes <= PATHS_MAX:  # else it leads nowhere from now on
                    self.move(fid, path)
