"""A 9P2000.L server: message in, reply out, whatever carries them.

    message -> HANDLERS -> Session -> HostFs -> reply, or Rlerror with Linux's errno

Messages are served one after the other. That is what makes Tflush right: at its turn, what it flushes has been answered.
Data does not pass through here: Tread and Twrite go between the file and the buffers that the transport gives.
Missing: 9P2000 and 9P2000.u, authentication, locks that other programs of the host would see.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Callable, Sequence

from devices.p9 import handles, names, wire
from devices.p9.session import Call, Session
from devices.p9.wire import Reader, Type

log = logging.getLogger(__name__)

Handler = Callable[[Session, Call], bytes]

NO_NAMES = b"\0\0"
_COPY = struct.Struct("<IBHII2s")  # Twalk without names: header, fid, new fid, NO_NAMES
_CLUNK = struct.Struct("<IBHI")  # header, fid

HANDLERS: dict[int, Handler] = {
    Type.STATFS: names.statfs,
    Type.LOPEN: handles.lopen,
    Type.LCREATE: handles.lcreate,
    Type.SYMLINK: names.symlink,
    Type.MKNOD: names.mknod,
    Type.RENAME: names.rename,
    Type.READLINK: names.readlink,
    Type.GETATTR: names.getattr_,
    Type.SETATTR: names.setattr_,
    Type.XATTRWALK: handles.xattrwalk,
    Type.XATTRCREATE: handles.xattrcreate,
    Type.READDIR: handles.readdir,
    Type.FSYNC: handles.fsync,
    Type.LOCK: handles.lock,
    Type.GETLOCK: handles.getlock,
    Type.LINK: names.link,
    Type.MKDIR: names.mkdir,
    Type.RENAMEAT: names.renameat,
    Type.UNLINKAT: names.unlinkat,
    Type.VERSION: handles.version,
    Type.AUTH: handles.auth,
    Type.ATTACH: handles.attach,
    Type.FLUSH: handles.flush,
    Type.WALK: handles.walk,
    Type.READ: handles.read,
    Type.WRITE: handles.write,
    Type.CLUNK: handles.clunk,
    Type.REMOVE: names.remove,
}


class Server:
    """Serves one session, one message at a time."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def serve(self, message: bytes, payload: Sequence[memoryview] = (), data: Sequence[memoryview] = ()) -> tuple[bytes, int]:
        """Carry a message out. Returns the reply without an Rread's data, and the bytes of that which are in `data`.

        `message` has at least a header; that of a Twrite ends where its data begins, which is in `payload`. `data` is the room
        for the reply behind wire.READ_HEADER bytes.
        """
        size, kind, tag = wire.HEADER.unpack_from(message)
        call = Call(Reader(message[wire.HEADER.size :]), payload, data)
        try:
            with self.session.lock:
                body = self._handle(size, kind, call)
        except OSError as exc:
            log.debug("9p: message %d: %s", kind, exc)
            return wire.error(tag, exc.errno or errno.EIO), 0
        except (OverflowError, ValueError) as exc:  # a number or a name beyond what the host's system calls take
            log.info("9p: message %d: %s", kind, exc)
            return wire.error(tag, errno.EINVAL), 0
        return wire.message(kind + 1, tag, body, call.filled), call.filled

    def answers_alone(self, message: bytes) -> bool:
        """Whether a message needs nothing of the host and never waits: a fid is copied, or one that is not open ends."""
        size, kind, _tag = wire.HEADER.unpack_from(message)
        if size != len(message):
            return False
        if kind == Type.WALK:
            return size == _COPY.size and message.endswith(NO_NAMES)
        return kind == Type.CLUNK and size == _CLUNK.size and self.session.fids.is_plain(_CLUNK.unpack(message)[-1])

    def _handle(self, size: int, kind: int, call: Call) -> bytes:
        handler = HANDLERS.get(kind)
        if handler is None:
            raise OSError(errno.EOPNOTSUPP, f"message {kind} is none of 9P2000.L")
        session = self.session
        if kind != Type.VERSION and session.msize == 0:
            raise OSError(errno.EPROTO, f"message {kind} comes before a version is agreed upon")
        if kind != Type.VERSION and not wire.HEADER.size <= size <= session.msize:
            raise OSError(errno.EMSGSIZE, f"message has {size} bytes, the session allows {session.msize}")
        body = handler(session, call)
        room = min(wire.READ_HEADER + sum(map(len, call.data)), session.msize or wire.MSIZE_MIN)
        if wire.HEADER.size + len(body) + call.filled > room:
            raise OSError(errno.EMSGSIZE, f"reply has {wire.HEADER.size + len(body)} bytes, there is room for {room}")
        return body
