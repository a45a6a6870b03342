"""Whose a new file is."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose it is in the guest, and on the host as far as emu may say so."""

    uid: int
    gid: int

    @property
    def is_ours(self) -> bool:
        """Whether what we make is theirs already."""
        return (self.uid, self.gid) == (os.geteuid(), os.getegid())

    def take(self, fd: int, path: str) -> bool:
        """Make the file `fd`, whose path in /proc this is, theirs: whether it was not.

        Without privileges, or where the owner does not exist, it stays the user's that emu runs as.
        """
        found = os.fstat(fd)
        if (found.st_uid, found.st_gid) == (self.uid, self.gid):
            return False
        with contextlib.suppress(OSError):
            os.chown(path, self.uid, self.gid)
        return True
