"""The owner mark: proof, left with an image, that somebody wrote to it since we let it go.

A lock dies with its process. So that a destination which ran, wrote and died is still noticed by the source, every activation
that writes leaves a mark before its first write: a number one higher than the mark it found (the epoch) and a random name. An
activation that never writes leaves none, and its predecessor may take the image back. The mark is the extended attribute
`user.emu.owner` of the file, or the file `.NAME.emu-owner` beside it where the file system has no such attributes; a file with
several hard links then has several marks, and all who share it must use the same one. Size and modification time are the second
witness: they catch programs that leave no mark.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emu.errors import ImageError, ImageErrorKind

XATTR = "user.emu.owner"
OWNER_BYTES = 16
MAX_MARK = 64  # bytes; ours have at most 20 digits, a space and 32 hexadecimal digits
_MARK = re.compile(rb"([0-9]{1,18}) ([0-9a-f]{32})\n?")

NO_XATTR = (errno.ENOTSUP, errno.EPERM)  # EPERM: user attributes are not allowed on device nodes


@dataclass(frozen=True, slots=True)
class Mark:
    """Who wrote to an image last; epoch 0 when nobody left a mark, or left one that cannot be read."""

    epoch: int = 0
    owner: str = ""

    @staticmethod
    def parse(raw: bytes) -> Mark:
        """Read a stored mark; anything is accepted, for a mark only has to differ from other marks."""
        match = _MARK.fullmatch(raw)
        return Mark(int(match[1]), match[2].decode()) if match else Mark(0, raw.hex())

    def encode(self) -> bytes:
        """The stored form: plain text, for `getfattr -d`."""
        return f"{self.epoch} {self.owner}".encode()


@dataclass(frozen=True, slots=True)
class Witness:
    """What an image looked like when it was let go."""

    mark: Mark
    size: int
    mtime_ns: int


class MarkStore(Protocol):
    """Where the mark of one image is kept; all methods may raise OSError."""

    def load(self) -> Mark:
        """The mark that is there."""

    def store(self, mark: Mark) -> None:
        """Replace the mark."""

    def probe(self) -> None:
        """Fail as `store` would, changing nothing."""


class XattrMarks:
    """The mark in an extended attribute of the image file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def load(self) -> Mark:
        """The mark that is there."""
        try:
            return Mark.parse(os.getxattr(self._fd, XATTR)[:MAX_MARK])
        except OSError as exc:
            if exc.errno == errno.ENODATA:
                return Mark()
            raise

    def store(self, mark: Mark) -> None:
        """Replace the mark."""
        os.setxattr(self._fd, XATTR, mark.encode())

    def probe(self) -> None:
        """Whoever may write the file may set its user attributes."""


class SidecarMarks:
    """The mark in a file beside the image; symbolic links to an image share one."""

    def __init__(self, path: str) -> None:
        image = Path(path).resolve()
        self.path = image.with_name(f".{image.name}.emu-owner")

    def load(self) -> Mark:
        """The mark that is there."""
        try:
            with self.path.open("rb") as file:
                return Mark.parse(file.read(MAX_MARK))
        except FileNotFoundError:
            return Mark()

    def store(self, mark: Mark) -> None:
        """Replace the mark; a reader sees the old one or the new one."""
        fresh = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        fresh.write_bytes(mark.encode() + b"\n")
        fresh.replace(self.path)

    def probe(self) -> None:
        """Fail where no file can be made."""
        if not os.access(self.path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))


def mark_store(fd: int, path: str) -> MarkStore:
    """The store the image's file system allows."""
    try:
        os.getxattr(fd, XATTR)
    except OSError as exc:
        if exc.errno in NO_XATTR:
            return SidecarMarks(path)
    return XattrMarks(fd)


class Owner:
    """The mark of one image through its life in this process. The caller holds the image's lock in every method."""

    def __init__(
        self,
        fd: int,
        path: str,
        marks: MarkStore,
        *,
        read_only: bool,
        new_owner: Callable[[], str] = lambda: secrets.token_hex(OWNER_BYTES),
    ) -> None:
        self._fd = fd
        self._path = path
        self._marks = marks
        self._read_only = read_only
        self._new_owner = new_owner
        self._let_go: Witness | None = None
        self._marked = False
        self._marking = threading.Lock()

    def activated(self, *, expect_unchanged: bool) -> None:
        """Begin an activation; ImageError STALE when the image must be as we let it go and is not."""
        found, was = self._look(), self._let_go
        if expect_unchanged and was is not None and found != was:
            raise ImageError(ImageErrorKind.STALE, self._path, _stale(found, was))
        if not self._read_only:  # say now what would otherwise fail the guest's first write
            try:
                self._marks.probe()
            except OSError as exc:
                raise self._error("write", exc) from exc
        self._marked = False

    def before_write(self) -> None:
        """Leave the mark of this activation if it is not there yet; any thread."""
        if self._marked:
            return
        with self._marking:
            if self._marked:
                return
            try:
                self._marks.store(Mark(self._marks.load().epoch + 1, self._new_owner()))
            except OSError as exc:
                raise self._error("write", exc) from exc
            self._marked = True

    def letting_go(self) -> None:
        """Remember what the image looks like; the caller has synced it and still holds the lock."""
        self._let_go = self._look()

    def _look(self) -> Witness:
        try:
            status = os.fstat(self._fd)
            return Witness(self._marks.load(), status.st_size, status.st_mtime_ns)
        except OSError as exc:
            raise self._error("read", exc) from exc

    def _error(self, verb: str, exc: OSError) -> ImageError:
        where = f" in {exc.filename}" if isinstance(exc.filename, str) else ""
        return ImageError(ImageErrorKind.IO, self._path, f"cannot {verb} the owner mark{where}: {exc.strerror}")


def _stale(found: Witness, was: Witness) -> str:
    consequence = "resuming here would pair old memory with newer disk contents"
    if found.mark != was.mark:
        epochs = f"epoch {found.mark.epoch}, was {was.mark.epoch}"
        return f"was written to by another emu since this guest let it go ({epochs}); {consequence}"
    change = f"size {found.size}, was {was.size}" if found.size != was.size else "its modification time is newer"
    return f"was changed by another program since this guest let it go ({change}); {consequence}"
