"""9P transport (virtio 1.2, 5.9; QEMU, hw/9pfs): one queue of requests, served by one worker thread, one after the other.

    queue_notified: pop chains, copy messages -> waiting -> worker: Server, data straight between file and guest memory
                                                         -> done -> post: push, interrupt (one for many)

A message that needs nothing of the host is answered right there, if none comes before it.

The fids of a migratable share are saved with the queue and the length of messages that was agreed upon; before the guest may
run elsewhere, its files are found and open there. Any other share that is mounted forbids saving and moving the guest. When the
state is saved no request is under way: each has been carried out once and answered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, cast

from devices.p9 import saved, wire
from devices.p9.fids import Fids
from devices.p9.saved import FidsState
from devices.p9.server import Server
from devices.virtio.device import DeviceId, VirtioDevice, VirtioState
from devices.virtio.queue import Chain, QueueState, split
from devices.virtio.workers import Executor, Workers
from emu.errors import GuestError, MigrationError, StateError
from emu.memory import GuestMemory
from migration.vmstate import VMState, structs, subsection, u32

QUEUE_SIZE = 128  # QEMU's, and as many pieces as Linux makes of a message
MOUNT_TAG = 1 << 0  # feature: the configuration space holds a tag
PATIENCE = 200e-6  # seconds; stopping the guest for an answer that comes later costs as much


@dataclass(slots=True, kw_only=True)
class VirtioP9State(VirtioState):
    """The queue, the session's message length, 0 without one, and its fids, if they are saved at all."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-9p", version=1, minimum=1)
    queues: list[QueueState] = structs(QueueState, min_len=1, max_len=1)
    msize: int = u32(max=wire.MSIZE_MAX)
    session: FidsState = subsection(FidsState)

    def check(self) -> None:
        VirtioState.check(self)
        if self.session.fids and self.msize == 0:
            raise StateError(f"virtio-9p.session has {len(self.session.fids)} fids, must have none with virtio-9p.msize 0")
        if 0 < self.msize < wire.MSIZE_MIN:
            raise StateError(f"virtio-9p.msize is {self.msize}, must be 0 or at least {wire.MSIZE_MIN}")


@dataclass(slots=True)
class Request:
    """One message under way; `head` and `data` are the room for the reply."""

    chain: Chain
    message: bytes
    payload: list[memoryview]
    head: list[memoryview]
    data: list[memoryview]
    written: int = 0


class VirtioP9(VirtioDevice):
    """A share. `post` runs a function on the vCPU thread, soon; `tag` is what the guest mounts it by.

    A migratable one (its session says so) loads a guest whose files are not all there only with `keep_stale`, their fids stale.
    """

    STATE = VirtioP9State
    DEVICE_ID = DeviceId.P9
    QUEUE_SIZES = (QUEUE_SIZE,)

    state: VirtioP9State

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        server: Server,
        *,
        tag: str,
        executor: Executor,
        post: Callable[[Callable[[], None]], None],
        keep_stale: bool = False,
    ) -> None:
        self._server = server
        self._tag = tag.encode()
        self._keep_stale = keep_stale
        self._prepared: Fids | None = None  # of the state that is loaded next
        self._workers: Workers[Request] = Workers(1, executor, post, carry_out=self._carry_out, give_back=self._give_back)
        super().__init__(name, memory)

    @property
    def offered(self) -> int:
        """Feature bits."""
        return super().offered | MOUNT_TAG

    def config(self) -> bytes:
        """struct virtio_9p_config: the tag and its length."""
        return struct.pack("<H", len(self._tag)) + self._tag

    def queue_notified(self, index: int) -> None:
        """Hand every chain that is there to the worker."""
        queue = self.queues[index]
        try:
            while (chain := queue.pop()) is not None:
                request = _parse(chain)
                if not self._carried_out_here(request):
                    self._workers.start(request)
        finally:
            queue.enable_notification()
            self._give_back(self._workers.settle(PATIENCE))

    def _carried_out_here(self, request: Request) -> bool:
        """A third of Linux's messages need no host: going to the worker and back would be most of what they take."""
        session = self._server.session
        if not session.lock.acquire(blocking=False):  # somebody is looking through the fids
            return False
        try:
            return self._server.answers_alone(request.message) and self._workers.carry_out_here(request)
        finally:
            session.lock.release()

    def _carry_out(self, request: Request) -> None:
        reply, filled = self._server.serve(request.message, request.payload, request.data)
        done = 0
        for piece in [*request.head, *request.data]:
            part = reply[done : done + len(piece)]
            if not part:
                break
            piece[: len(part)] = part
            done += len(part)
        request.written = len(reply) + filled

    def _give_back(self, done: list[Request]) -> None:
        """Push finished chains, with one interrupt."""
        for request in done:
            chain = request.chain
            for address, piece in zip(chain.addresses, chain.writable, strict=True):
                self.memory.written(address, len(piece))
            if self.live:  # a broken device uses no more buffers (2.1.2)
                self.queues[0].push(chain, request.written)
        if done and self.live:
            self.used(0)

    def quiet(self, within: float) -> bool:
        """Wait up to `within` seconds for the host to be done with every request: whether it is."""
        return self._workers.quiet(within)

    def drain(self) -> None:
        """Return when no request is in flight and the driver's rings show it."""
        self._workers.drain()

    def obstacles(self) -> list[str]:
        """What of this share forbids saving and moving now, as whole sentences; from any thread."""
        session = self._server.session
        if not session.migratable:
            return []
        try:
            with session.lock:
                found = saved.obstacles(session.files, session.fids, strict=not self._keep_stale)
        except OSError as exc:
            found = [f"cannot be looked through: {exc.strerror}"]
        return [f"Share {self._tag.decode()!r} {what}." for what in found]

    def save(self) -> VirtioP9State:
        """The state, with the session's."""
        session = self._server.session
        self.state.msize = session.msize
        self.state.session = saved.save(session.files, session.fids)
        return self.state

    @contextmanager
    def prepared(self, state: VirtioState) -> Iterator[None]:
        """Have a guest's files open, for `load` inside; MigrationError when they are not there."""
        session, coming = self._server.session, cast(VirtioP9State, state).session  # parsed as the class that STATE is
        self._prepared = session.fids.fresh()
        try:
            if coming.fids and not session.migratable:
                raise MigrationError(f"share {self._tag.decode()!r} is mounted in the guest that comes, it must be migratable")
            try:
                saved.restore(session.files, coming, self._prepared, strict=not self._keep_stale)
            except (MigrationError, OSError) as exc:
                why = f"cannot be looked through: {exc.strerror}" if isinstance(exc, OSError) else exc
                raise MigrationError(f"share {self._tag.decode()!r} {why}") from exc
            yield
        finally:
            if self._prepared is not None:
                self._prepared.clear()
                self._prepared = None

    def after_load(self) -> None:
        """A reset or another state ends the session of the one before. Files that nobody prepared are lost."""
        self._workers.drop()
        session, fids = self._server.session, self._prepared
        self._prepared = None
        if fids is None:
            fids = session.fids.fresh()
            saved.lose(self.state.session, fids)
        session.go_on(self.state.msize, fids)
        super().after_load()


def _parse(chain: Chain) -> Request:
    """Copy a message, but for a write's data. One without a header, or without room for an error, breaks the device."""
    header, _ = split(chain.readable, wire.HEADER.size)
    if chain.readable_size < wire.HEADER.size or chain.writable_size < wire.ERROR_SIZE:
        sizes = f"{chain.readable_size} bytes and room for {chain.writable_size}"
        raise GuestError(f"9p request {chain.head} has {sizes}, must have {wire.HEADER.size} and {wire.ERROR_SIZE}")
    size, kind, _tag = wire.HEADER.unpack(b"".join(header))
    message, _ = split(chain.readable, max(wire.HEADER.size, min(size, wire.MSIZE_MAX)))
    payload: list[memoryview] = []
    if kind == wire.Type.WRITE:
        message, payload = split(message, wire.WRITE_HEADER)
    head, data = split(chain.writable, wire.READ_HEADER)
    return Request(chain, b"".join(message), payload, head, data)
