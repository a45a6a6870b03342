"""What all messages of a session share: the directory, the fids, and whether the guest can be saved and moved with them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from devices.p9.fids import Fid, Fids
from devices.p9.hostfs import HostFs
from devices.p9.owner import Owner
from devices.p9.wire import Reader
from emu.errors import MigrationError


class Blocker(Protocol):
    """What forbids saving and moving until it is removed."""

    def remove(self) -> None:
        """It is gone."""


@dataclass(slots=True)
class Call:
    """One message under way: its fields, the data behind a Twrite's, where an Rread's data goes and how much went there."""

    fields: Reader
    payload: Sequence[memoryview]
    data: Sequence[memoryview]
    filled: int = 0


class Session:
    """A guest's use of one share; messages are served, and the fids looked at, under `lock`."""

    def __init__(self, files: HostFs, block: Callable[[], Blocker] | None, *, fids: Fids | None = None) -> None:
        """`block` forbids saving and moving, or raises MigrationError when that cannot be had; None: the fids move along."""
        self.files = files
        self.fids = Fids() if fids is None else fids
        self.msize = 0  # bytes of the longest message; 0 until Tversion
        self.lock = threading.RLock()
        self._block = block
        self._blocker: Blocker | None = None

    @property
    def migratable(self) -> bool:
        """Whether the fids move with the guest."""
        return self._block is None

    def start(self, msize: int) -> None:
        """Begin anew, nothing attached."""
        self.go_on(msize, self.fids.fresh())

    def go_on(self, msize: int, fids: Fids) -> None:
        """Be a session that began elsewhere, with its fids."""
        with self.lock:
            self.fids.clear()
            self.fids = fids
            self.settle()
            self.msize = msize

    def close(self) -> None:
        """End the session and let the directory go."""
        self.start(0)
        self.files.close()

    def attach(self, number: int, fid: Fid) -> None:
        """The guest mounts the share; OSError EBUSY when it is about to be moved without it."""
        if self._block is not None and self._blocker is None:
            try:
                self._blocker = self._block()
            except MigrationError as exc:
                raise OSError(errno.EBUSY, str(exc)) from exc
        try:
            self.fids.add(number, fid)
        finally:
            self.settle()

    def settle(self) -> None:
        """A share without fids is not mounted: the guest may be saved and moved again."""
        if self._blocker is not None and not self.fids:
            self._blocker.remove()
            self._blocker = None

    @contextlib.contextmanager
    def at(self, fid: Fid) -> Iterator[int]:
        """A descriptor of a fid's file: the open one, which may have lost its name, or what its path leads to now."""
        fid.check()
        if fid.fd >= 0:
            yield fid.fd
            return
        with self.path(fid.path) as fd:
            yield fd

    @contextlib.contextmanager
    def path(self, path: bytes) -> Iterator[int]:
        """An O_PATH descriptor of a path."""
        fd = self.files.find(path)
        try:
            yield fd
        finally:
            os.close(fd)

    def owner(self, fid: Fid, gid: int) -> Owner:
        """Whose a file that is made through `fid` is."""
        return Owner(fid.uid, gid)
