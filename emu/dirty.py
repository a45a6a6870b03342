"""Which pages of a block of RAM were written: by the guest's CPU, a device, or a host call, while the guest runs.

Two logs keep one promise: a page whose content in `words` changes after `start` or a `collect` is in the next `collect`.

- userfaultfd: the kernel write-protects the pages and notes the first write to each (asynchronous mode, Linux 6.7). Exact, next
  to free for the guest, and no page of the guest's is copied.
- compare: a copy of all RAM to compare with. Works everywhere; costs as much memory again, and a read of all RAM each time.

Sources: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from fcntl import ioctl
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from emu.errors import EmuError
from emu.pagemap import PAGE, PageIs, Pagemap, ScanFlag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emu.ram import Ram

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
UFFD_USER_MODE_ONLY = 1  # asynchronous protection needs no handler, so none of the kernel's own faults either
UFFD_API = 0xAA
UFFD_FEATURE_WP_ASYNC = 1 << 15  # implies WP_UNPOPULATED: the first write to a page that is not there yet is seen too
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
UFFDIO_REGISTER_MODE_WP = 2

COMPARED_AT_ONCE = 2048  # pages: 8 MiB, so that what numpy makes on the way stays in the cache


class DirtyLog(Protocol):
    """The dirty pages of one block of RAM. One thread at a time; the guest may run."""

    @property
    def words(self) -> NDArray[np.uint64]:
        """Where to read the pages that `collect` reports, shape (pages, 512): RAM itself, or the log's copy of it."""

    def start(self) -> None:
        """Begin to watch: everything there is so far counts as known. Starting again begins anew."""

    def collect(self) -> NDArray[np.int64]:
        """Runs [first page, count], in order, of the pages written since `start` or the last `collect`."""

    def stop(self) -> None:
        """Stop watching and give back what that took; harmless when stopped."""


class UffdDirtyLog:
    """A log kept by the kernel. Only writes through the mapping are seen, not those to a file below it."""

    def __init__(self, ram: Ram) -> None:
        self._ram = ram
        self._uffd = -1
        self._pagemap: Pagemap | None = None

    @property
    def words(self) -> NDArray[np.uint64]:
        """RAM itself."""
        return self._ram.words

    def start(self) -> None:
        """Begin to watch; EmuError with the reason when the kernel cannot."""
        self._watch(self._ram.size)

    def probe(self) -> None:
        """Fail as `start` would, at the price of one page."""
        self._watch(PAGE)
        self.stop()

    def _watch(self, size: int) -> None:
        self.stop()
        try:
            self._pagemap = Pagemap()
            self._uffd = _open_userfaultfd()
            ioctl(self._uffd, UFFDIO_API, bytearray(struct.pack("<QQQ", UFFD_API, UFFD_FEATURE_WP_ASYNC, 0)))
            whole = struct.pack("<QQQQ", self._ram.address, size, UFFDIO_REGISTER_MODE_WP, 0)
            ioctl(self._uffd, UFFDIO_REGISTER, bytearray(whole))
            self._scan(self._pagemap, size)  # the first scan reports every page, and protects it
        except OSError as exc:
            self.stop()
            raise EmuError(f"RAM {self._ram.name} cannot be watched by userfaultfd: {exc.strerror}") from exc

    def collect(self) -> NDArray[np.int64]:
        """Runs of dirty pages, protected again in the same step; EmuError when RAM was mapped anew since `start`."""
        if self._pagemap is None:
            raise RuntimeError("the dirty log is not started")
        try:
            return self._scan(self._pagemap, self._ram.size)
        except PermissionError as exc:
            raise EmuError(f"RAM {self._ram.name} was mapped anew: its dirty log must be started again") from exc

    def _scan(self, pagemap: Pagemap, size: int) -> NDArray[np.int64]:
        flags = ScanFlag.WP_MATCHING | ScanFlag.CHECK_WPASYNC
        return pagemap.scan(self._ram.address, size, all_of=PageIs.WRITTEN, flags=flags)

    def stop(self) -> None:
        """Stop watching; the kernel takes all protection away with the descriptor."""
        if self._uffd >= 0:
            os.close(self._uffd)
            self._uffd = -1
        if self._pagemap is not None:
            self._pagemap.close()
            self._pagemap = None


class CompareDirtyLog:
    """A log by comparing RAM with a copy, for hosts without asynchronous userfaultfd.

    What is dirty has to be read from the copy: RAM may show a page for a moment as it neither was nor will be, and a page that
    then changes back to what the copy has would never be reported again.
    """

    def __init__(self, ram: Ram) -> None:
        self._ram = ram
        self._known: NDArray[np.uint64] | None = None

    @property
    def words(self) -> NDArray[np.uint64]:
        """The copy, which `collect` brings up to date."""
        if self._known is None:
            raise RuntimeError("the dirty log is not started")
        return self._known

    def start(self) -> None:
        """Begin to watch, with a copy of what is there."""
        self.stop()
        known = np.frombuffer(mmap.mmap(-1, self._ram.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint64)
        self._known = known.reshape(self._ram.words.shape)
        for first, count in self._ram.present().tolist():
            self._known[first : first + count] = self._ram.words[first : first + count]

    def collect(self) -> NDArray[np.int64]:
        """Runs of pages that differ from the copy, which then has them as they are."""
        known, words = self.words, self._ram.words
        dirty: list[NDArray[np.int64]] = []
        for first in range(0, len(words), COMPARED_AT_ONCE):
            some = slice(first, first + COMPARED_AT_ONCE)
            pages = np.flatnonzero((known[some] != words[some]).any(axis=1)) + first
            known[pages] = words[pages]
            dirty.append(pages)
        return _runs(np.concatenate(dirty))

    def stop(self) -> None:
        """Give the copy back."""
        self._known = None


def open_dirty_log(ram: Ram, kind: Literal["auto", "userfaultfd", "compare"] = "auto") -> DirtyLog:
    """A log for `ram`, stopped: the best this host can keep, or the one asked for; EmuError with the reason when it cannot."""
    if kind == "compare":
        return CompareDirtyLog(ram)
    log = UffdDirtyLog(ram)
    try:
        log.probe()  # the only way to know: kernel, privileges and the kind of mapping all have a say
    except EmuError:
        if kind == "userfaultfd":
            raise
        return CompareDirtyLog(ram)
    return log


def _open_userfaultfd() -> int:
    number = SYS_USERFAULTFD.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"no userfaultfd on {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    fd = int(libc.syscall(ctypes.c_long(number), ctypes.c_long(os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _runs(pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rising page numbers as runs [first, count]."""
    if len(pages) == 0:
        return np.empty((0, 2), np.int64)
    starts = np.flatnonzero(np.diff(pages, prepend=pages[0] - 2) != 1)
    counts = np.diff(starts, append=len(pages))
    return np.stack((pages[starts], counts), axis=1)
