"""What can go wrong, by whose fault.

- `GuestError`: the guest did what its manual forbids. Logged; the device gives its defined answer; the machine goes on.
- `EmuError` and below: the host, a file, a peer or the user. One line for the user: what, value, bound.
- Any other exception is our bug and stops the machine with a traceback in the log.
"""

from __future__ import annotations

import errno
from enum import Enum


class GuestError(Exception):
    """Raised by device code when a ring, register or address given by the guest breaks the device's specification."""


class EmuError(Exception):
    """Raised by any part of emu for what the user or the host did; its text is one line, shown as it is."""


class ConfigError(EmuError):
    """Raised while a machine is described or built, when an option or file cannot be used."""


class EngineError(EmuError):
    """Raised by the engine when this build of Unicorn is unknown, or the CPU cannot go on."""


class StreamError(EmuError):
    """Raised while a migration stream or snapshot is read, when its framing is broken, cut short or of another version."""


class StateError(EmuError):
    """Raised while a section's content is checked; the text starts with `section.field`."""


class MigrationError(EmuError):
    """Raised when a migration or snapshot is refused or fails; the guest and its disks are where they were before."""


class ImageErrorKind(Enum):
    """Why an image could not be used; callers match this, users read the text."""

    MISSING = "missing"
    LOCKED = "locked"
    INACTIVE = "inactive"
    READ_ONLY = "read-only"
    BOUNDS = "bounds"
    CORRUPT = "corrupt"
    STALE = "stale"  # another process wrote to it since we let it go
    IO = "io"


class ImageError(EmuError):
    """Raised by the block layer; `kind` says why, `path` which image."""

    def __init__(self, kind: ImageErrorKind, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.kind = kind
        self.path = path

    @property
    def no_space(self) -> bool:
        """Whether the host had no room: its file system is full, or the user's share of it."""
        cause = self.__cause__
        if isinstance(cause, ImageError):
            return cause.no_space
        return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
