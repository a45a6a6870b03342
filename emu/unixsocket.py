"""Unix sockets to listen at: for their user alone, and there under their name only once somebody listens."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
from pathlib import Path


class UnixListener:
    """A listening, non-blocking socket with the name `path`, until `close`."""

    def __init__(self, path: Path) -> None:
        """Take over a name that nobody listens at any more; OSError when it is in use, if by something else than a socket."""
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX)
        # Of this thread alone, so that nobody else binds it; and short, for a socket's path has 107 bytes at most.
        temporary = path.parent / f".emu.{threading.get_native_id()}"
        try:
            if _is_left_over(path):
                path.unlink()
            temporary.unlink(missing_ok=True)
            os.fchmod(self.socket.fileno(), 0o600)  # bind takes the mode over, so that nobody slips in before a chmod
            self.socket.bind(str(temporary))
            try:
                self.socket.listen()
                self._inode = temporary.stat().st_ino
                path.hardlink_to(temporary)  # a rename would replace what somebody else has put there meanwhile
            finally:
                temporary.unlink()
        except FileExistsError:
            self.socket.close()
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        except OSError:
            self.socket.close()
            raise
        self.socket.setblocking(False)

    def close(self) -> None:
        """Stop listening and remove the name, unless it has become another's; harmless when told twice."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()


def _is_left_over(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)  # somebody whose queue is full of clients listens, too
                return probe.connect_ex(str(path)) == errno.ECONNREFUSED
    return False
