"""One image file on the host: its descriptor, its lock, its owner mark, and whole transfers. Image formats build on it.

    inactive --activate: lock, compare the owner mark, read the size--> active
    active   --inactivate: refuse writes, wait for those under way, fsync, remember the mark, unlock--> inactive

While active the first write leaves the owner mark. While inactive nothing here writes to the file, and reads are allowed. One
descriptor serves the file's whole life: a path that is renamed meanwhile changes nothing. Page caches need no dropping: they
are coherent on one host, and network file systems revalidate them when the lock is taken.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from emu.block import fallocate
from emu.block.lock import holder, try_lock, unlock
from emu.block.owner import MarkStore, Owner, mark_store
from emu.block.place import on_this_host
from emu.block.sparse import data_runs
from emu.errors import ImageError, ImageErrorKind

ReadBuffers: TypeAlias = "Sequence[bytearray | memoryview]"
WriteBuffers: TypeAlias = "Sequence[bytes | bytearray | memoryview]"

IOV_MAX = os.sysconf("SC_IOV_MAX")  # the kernel's bound on buffers in one preadv
_ZEROES = bytes(1 << 20)
_ZEROES_AT_ONCE = 64  # times _ZEROES in one pwritev


class ImageFile:
    """A file or block device that holds an image. Safe for concurrent use; transfers release the GIL.

    Offsets and lengths are bytes. All errors are ImageError; the host's errno is in its `__cause__`.
    """

    def __init__(
        self,
        path: str,
        *,
        read_only: bool,
        locking: bool = True,
        marks: Callable[[int, str], MarkStore] = mark_store,
    ) -> None:
        """Open `path`, inactive. Without `locking` it is owned without a lock, and nothing keeps others away."""
        self.path = path
        self.read_only = read_only
        self.locking = locking
        self._fd = self._open()
        self._owner = Owner(self._fd, path, marks(self._fd, path), read_only=read_only)
        self._transitions = threading.RLock()  # activate, inactivate and close, one at a time
        self._gate = threading.Condition()  # guards the four below
        self._active = False
        self._closed = False
        self._reads = 0
        self._writes = 0
        self._lost: ImageError | None = None  # the sync that failed
        self.size = self._measure()

    def _open(self) -> int:
        # O_NONBLOCK: opening a FIFO must not hang; regular files and block devices ignore it.
        flags = (os.O_RDONLY if self.read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = os.open(self.path, flags)
        except FileNotFoundError as exc:
            raise ImageError(ImageErrorKind.MISSING, self.path, "does not exist") from exc
        except OSError as exc:
            refused = not self.read_only and exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            kind = ImageErrorKind.READ_ONLY if refused else ImageErrorKind.IO
            raise ImageError(kind, self.path, f"cannot be opened to {self._purpose}: {exc.strerror}") from exc
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            os.close(fd)
            raise ImageError(ImageErrorKind.MISSING, self.path, "is neither a regular file nor a block device")
        return fd

    @property
    def _purpose(self) -> str:
        return "read" if self.read_only else "read and write"

    def _measure(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)  # st_size is 0 for a block device

    def measure(self) -> None:
        """Read the size afresh: another process may have changed it while the image was inactive here."""
        with self._reading():
            self.size = self._measure()

    @property
    def identity(self) -> tuple[int, int]:
        """Which file it is, whatever its name: device and inode."""
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    @property
    def place(self) -> str:
        """Which file it is, for another process to compare."""
        return on_this_host("file {} {}".format(*self.identity))

    @property
    def active(self) -> bool:
        """True while this process holds the image's lock and may write."""
        return self._active

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Take the lock and read the size afresh; harmless when active.

        `expect_unchanged` refuses, as STALE, an image that somebody wrote to since it was inactivated here.
        """
        with self._transitions:
            if self._active:
                return
            if self._closed:
                raise ImageError(ImageErrorKind.INACTIVE, self.path, "is closed")
            if self.locking:
                self._lock()
            try:
                self._owner.activated(expect_unchanged=expect_unchanged)
            except ImageError:
                self._unlock()
                raise
            self.size = self._measure()
            self._active = True

    def _lock(self) -> None:
        try:
            locked = try_lock(self._fd, exclusive=not self.read_only)
        except OSError as exc:
            raise self._failed("locking it", exc) from exc
        if not locked:
            raise ImageError(ImageErrorKind.LOCKED, self.path, f"is in use by {holder(self._fd)}")

    def _unlock(self) -> None:
        if self.locking:
            unlock(self._fd)

    def inactivate(self) -> None:
        """Put everything on disk and drop the lock; harmless when inactive. On an error the image stays active."""
        with self._transitions:
            if not self._active:
                return
            with self._gate:
                self._active = False
                self._gate.wait_for(lambda: self._writes == 0)
            try:
                self._sync(os.fsync)
                self._owner.letting_go()
            except ImageError:
                self._active = True
                raise
            self._unlock()

    def close(self) -> None:
        """Inactivate and close; harmless when closed. On an error the file is closed all the same."""
        with self._transitions:
            if self._closed:
                return
            try:
                self.inactivate()
            finally:
                with self._gate:
                    self._active, self._closed = False, True
                    self._gate.wait_for(lambda: self._reads == 0 and self._writes == 0)
                os.close(self._fd)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._gate:
            if self._closed:
                raise ImageError(ImageErrorKind.INACTIVE, self.path, "is closed")
            self._reads += 1
        try:
            yield
        finally:
            with self._gate:
                self._reads -= 1
                self._gate.notify_all()

    @contextmanager
    def _writing(self, offset: int, length: int) -> Iterator[None]:
        with self._gate:
            if self.read_only:
                text = f"is read-only, refused to write {length} bytes at {offset:#x}"
                raise ImageError(ImageErrorKind.READ_ONLY, self.path, text)
            if not self._active:
                text = f"is inactive, refused to write {length} bytes at {offset:#x}"
                raise ImageError(ImageErrorKind.INACTIVE, self.path, text)
            self._writes += 1
        try:
            self._owner.before_write()
            yield
        finally:
            with self._gate:
                self._writes -= 1
                self._gate.notify_all()

    def readv(self, offset: int, buffers: ReadBuffers) -> None:
        """Fill `buffers` one after the other from `offset`."""
        length = sum(map(len, buffers))
        with self._reading():
            try:
                rest = buffers
                while length:
                    done = os.preadv(self._fd, rest[:IOV_MAX], offset)
                    if done == 0:
                        text = f"ends at {offset:#x}, {length} bytes before the end of a read"
                        raise ImageError(ImageErrorKind.IO, self.path, text)
                    offset, length = offset + done, length - done
                    rest = after(rest, done) if length else ()
            except OSError as exc:
                raise self._failed(f"reading {length} bytes at {offset:#x}", exc) from exc

    def readv_cached(self, offset: int, buffers: ReadBuffers) -> bool:
        """Fill `buffers` if the host has it all in its cache; False, whatever the reason, when only `readv` can tell."""
        with self._reading():
            try:
                return os.preadv(self._fd, buffers[:IOV_MAX], offset, os.RWF_NOWAIT) == sum(map(len, buffers))
            except OSError:
                return False

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the parts that may hold something; all else reads as zero."""
        with self._reading():
            try:
                yield from data_runs(self._fd, 0, self.size)
            except OSError as exc:
                raise self._failed("looking for its data", exc) from exc

    def writev(self, offset: int, buffers: WriteBuffers) -> None:
        """Write `buffers` one after the other from `offset`; the file grows as needed."""
        length = sum(map(len, buffers))
        with self._writing(offset, length):
            try:
                rest = buffers
                while length:
                    done = os.pwritev(self._fd, rest[:IOV_MAX], offset)
                    offset, length = offset + done, length - done
                    rest = after(rest, done) if length else ()
                with self._gate:
                    self.size = max(self.size, offset)
            except OSError as exc:
                raise self._failed(f"writing {length} bytes at {offset:#x}", exc) from exc

    def flush(self) -> None:
        """Put what was written on disk; nothing to do for a file that cannot have been written to."""
        if self._active and not self.read_only:
            with self._reading():
                self._sync(os.fdatasync)

    def _sync(self, sync: Callable[[int], None]) -> None:
        # After a failed sync the kernel may have dropped the dirty pages and reports success from then on: never believe it.
        if self._lost is not None:
            raise ImageError(ImageErrorKind.IO, self.path, "lost writes in an earlier flush that failed") from self._lost
        try:
            sync(self._fd)
        except OSError as exc:
            self._lost = self._failed("flushing", exc)
            raise self._lost from exc

    def discard(self, offset: int, length: int) -> None:
        """Give the space of a range back to the host; a hint, left alone where the host cannot."""
        with self._writing(offset, length):
            self._fallocate(fallocate.PUNCH_HOLE, offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make a range read as zeroes; with `unmap` its space may be given back."""
        with self._writing(offset, length):
            if self._fallocate(fallocate.PUNCH_HOLE if unmap else fallocate.ZERO_RANGE, offset, length):
                return
        while length:
            step = min(length, len(_ZEROES) * _ZEROES_AT_ONCE)
            whole, part = divmod(step, len(_ZEROES))
            self.writev(offset, [_ZEROES] * whole + [_ZEROES[:part]])
            offset, length = offset + step, length - step

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        try:
            return length == 0 or fallocate.fallocate(self._fd, mode, offset, length)
        except OSError as exc:
            raise self._failed(f"zeroing {length} bytes at {offset:#x}", exc) from exc

    def truncate(self, size: int) -> None:
        """Set the file's length."""
        with self._writing(size, 0):
            try:
                os.ftruncate(self._fd, size)
            except OSError as exc:
                raise self._failed(f"setting its length to {size}", exc) from exc
            self.size = size

    def _failed(self, what: str, exc: OSError) -> ImageError:
        return ImageError(ImageErrorKind.IO, self.path, f"{what} failed: {exc.strerror}")


def after(buffers: WriteBuffers, done: int) -> list[memoryview]:
    """What is left of `buffers` when their first `done` bytes have been transferred."""
    rest: list[memoryview] = []
    for buffer in buffers:
        if done < len(buffer):
            rest.append(memoryview(buffer)[done:])
        done = max(0, done - len(buffer))
    return rest
