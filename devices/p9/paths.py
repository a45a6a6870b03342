"""Names and paths as the guest gives them: bytes, relative to the share, whose own path is empty. Pure."""

from __future__ import annotations

import errno

NAME_MAX = 255
PATH_MAX = 32 << 10  # bytes; eight times what one Linux system call takes


def plain(name: bytes) -> bytes:
    """The name itself, if it names something in a directory and nothing else."""
    if not name or b"/" in name or b"\0" in name:
        raise OSError(errno.ENOENT, "a name is empty or holds a slash or NUL")
    if name in (b".", b".."):
        raise OSError(errno.EINVAL, "a name is . or ..")
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, f"a name has {len(name)} bytes, at most {NAME_MAX} are allowed")
    return name


def child(path: bytes, name: bytes) -> bytes:
    """The path of a name in a directory; ENAMETOOLONG when it is too long."""
    path = path + b"/" + plain(name) if path else plain(name)
    if len(path) > PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, f"a path has {len(path)} bytes, at most {PATH_MAX} are allowed")
    return path


def parent(path: bytes) -> bytes:
    """The directory of a path; the share's root is its own."""
    return path.rpartition(b"/")[0]
