"""Which extended attributes a guest shares with the host: the user's own, but for those that the security model keeps. Pure."""

from __future__ import annotations

import errno

from devices.p9 import mapped

PREFIX = b"user."
VALUE_MAX = 64 << 10  # linux/limits.h, XATTR_SIZE_MAX


def is_shared(name: bytes) -> bool:
    """Whether the guest may know of it."""
    return name.startswith(PREFIX) and not name.startswith(mapped.PREFIX) and b"\0" not in name


def checked(name: bytes) -> bytes:
    """The name itself; EOPNOTSUPP for one that is not shared, as from a file system that has no such attributes."""
    if not is_shared(name):
        raise OSError(errno.EOPNOTSUPP, "only user attributes are shared")
    return name


def check(name: bytes, size: int) -> None:
    """OSError when no such attribute can be set."""
    checked(name)
    if size > VALUE_MAX:
        raise OSError(errno.E2BIG, f"an attribute has {size} bytes, at most {VALUE_MAX} are allowed")
