"""Who changes a folder's files: told by the kernel (inotify(7)), not by those who are watched."""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from pathlib import Path

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name behind it
_CHANGES = {0x2: "modify", 0x4: "attrib", 0x40: "moved-from", 0x80: "moved-to", 0x100: "create", 0x200: "delete"}
_LOST = 0x4000  # IN_Q_OVERFLOW
_BUFFER = 1 << 16

State = dict[str, tuple[object, ...]]


class Witness:
    """Notes every write, truncation, hole, attribute and name that changes in `folder` from now on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._fd >= 0, os.strerror(ctypes.get_errno())
        watch = libc.inotify_add_watch(self._fd, os.fsencode(folder), sum(_CHANGES))
        assert watch >= 0, os.strerror(ctypes.get_errno())
        self._before = self._state()

    def _state(self) -> State:
        """All that a change shows in, for what inotify might not tell."""
        state: State = {}
        for path in sorted(self._folder.iterdir()):
            status, content = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
            state[path.name] = (status.st_size, status.st_blocks, status.st_mtime_ns, status.st_ctime_ns, content)
        return state

    def changes(self) -> list[str]:
        """What happened, `modify disk.img`; what inotify did not tell and yet is different, as `differs disk.img`."""
        found: list[str] = []
        try:
            while events := os.read(self._fd, _BUFFER):
                at = 0
                while at < len(events):
                    _watch, mask, _cookie, length = _EVENT.unpack_from(events, at)
                    name = events[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode()
                    kinds = ["lost"] if mask & _LOST else [kind for bit, kind in _CHANGES.items() if mask & bit]
                    found += [f"{kind} {name}" for kind in kinds]
                    at += _EVENT.size + length
        except BlockingIOError:
            pass
        now = self._state()
        different = {name for name in now.keys() | self._before.keys() if now.get(name) != self._before.get(name)}
        return found + [f"differs {name}" for name in sorted(different)]

    def close(self) -> None:
        """Look no more."""
        os.close(self._fd)
