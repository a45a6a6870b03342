"""The split virtqueue (virtio 1.2, 2.7), with indirect descriptors, the event index and any layout.

    descriptor table   16 bytes each: address le64, length le32, flags le16, next le16
    available ring     flags le16, idx le16, ring[size] le16, used_event le16
    used ring          flags le16, idx le16, ring[size] (id le32, length le32), avail_event le16

Everything in the rings is the guest's, and hostile: a GuestError says what is wrong, and the device then asks for a reset.
The guest does not run while a chain is popped or pushed (one vCPU thread), so no memory barriers are needed, but it does run
while a device works on the buffers of a chain: what must not change under the device's hands is copied when it is popped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.errors import GuestError, StateError
from emu.memory import GuestMemory
from migration.vmstate import State, VMState, flag, u16, u64

QUEUE_MAX = 1024  # descriptors in one queue or one indirect table; the most Linux asks of any device, and QEMU's bound
MAX_CHAIN_BYTES = 1 << 32  # 2.7.5.1
DESCRIPTOR_BYTES = 16

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_U16 = struct.Struct("<H")
_IDX = 2  # offset of idx in both rings
_AVAIL_RING = 4
_USED_RING = 4


class Desc(IntEnum):
    """Descriptor flags (2.7.5)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4


# Plain integers for the walk below, the hot path.
_NEXT = int(Desc.NEXT)
_WRITE = int(Desc.WRITE)
_INDIRECT = int(Desc.INDIRECT)

NO_NOTIFY = 1  # used.flags (2.7.8): the device needs no notification
NO_INTERRUPT = 1  # avail.flags (2.7.6): the driver needs no interrupt


@dataclass(slots=True, kw_only=True)
class QueueState(State):
    """One virtqueue as the driver set it up and how far it has been served."""

    VMSTATE: ClassVar[VMState] = VMState("virtqueue", version=1, minimum=1)
    size: int = u16(max=QUEUE_MAX)  # 0 until the driver chooses
    ready: bool = flag()
    desc: int = u64()
    avail: int = u64()
    used: int = u64()
    last_avail: int = u16()  # chains taken, modulo 2^16
    used_idx: int = u16()  # chains given back, modulo 2^16
    signalled: int = u16()  # used_idx when it was last decided whether to interrupt
    signalled_valid: bool = flag()

    def check(self) -> None:
        if self.size & (self.size - 1):
            raise StateError(f"virtqueue.size is {self.size}, must be 0 or a power of two")
        if self.ready and self.size == 0:
            raise StateError("virtqueue.ready is set with virtqueue.size 0, must be at least 1")
        if self.ready and (error := misaligned(self)):
            raise StateError(f"virtqueue.{error}")
        if self.in_flight > self.size:
            raise StateError(f"virtqueue.last_avail is {self.in_flight} ahead of used_idx, virtqueue.size is {self.size}")
        if self.signalled_valid and (self.used_idx - self.signalled) & 0xFFFF > self.size:
            raise StateError(f"virtqueue.signalled is {self.signalled}, more than a queue behind used_idx {self.used_idx}")

    @property
    def in_flight(self) -> int:
        """Chains taken and not given back."""
        return (self.last_avail - self.used_idx) & 0xFFFF


def misaligned(state: QueueState) -> str:
    """Which address breaks the alignment of 2.7, and how; empty when none does."""
    for name, address, alignment in (("desc", state.desc, 16), ("avail", state.avail, 2), ("used", state.used, 4)):
        if address % alignment:
            return f"{name} is {address:#x}, must be a multiple of {alignment}"
    return ""


class Chain:
    """One buffer of the guest: what the device may read, then what it may write, each in pieces of any size.

    `addresses` are the guest addresses of the writable pieces; after another thread wrote to them, tell `GuestMemory.written`.
    """

    __slots__ = ("addresses", "head", "readable", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview], addresses: list[int]) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable
        self.addresses = addresses

    @property
    def readable_size(self) -> int:
        """Bytes the device may read."""
        return sum(map(len, self.readable))

    @property
    def writable_size(self) -> int:
        """Bytes the device may write."""
        return sum(map(len, self.writable))


def split(pieces: Sequence[memoryview], at: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `at` bytes of some pieces, and the rest; where the driver cut its buffer means nothing (2.7.4)."""
    first: list[memoryview] = []
    for index, piece in enumerate(pieces):
        if at < len(piece):
            rest = list(pieces[index:])
            if at:
                first.append(piece[:at])
                rest[0] = piece[at:]
            return first, rest
        first.append(piece)
        at -= len(piece)
    return first, []


class Queue:
    """The device's side of one virtqueue. `limit` is the largest size the device offers."""

    def __init__(self, memory: GuestMemory, state: QueueState, limit: int) -> None:
        self.state = state
        self.limit = limit
        self.indirect = False  # VIRTIO_F_RING_INDIRECT_DESC is negotiated
        self.event_idx = False  # VIRTIO_F_RING_EVENT_IDX is negotiated
        self._memory = memory
        self._unmap()

    def _unmap(self) -> None:
        self._desc = self._avail = self._used = memoryview(b"")

    def map(self) -> None:
        """Find the rings in guest memory; GuestError when they are not there. Called again after a load."""
        state, memory = self.state, self._memory
        if not state.ready:
            self._unmap()
            return
        desc = memory.view(state.desc, DESCRIPTOR_BYTES * state.size)
        avail = memory.view(state.avail, 6 + 2 * state.size)
        used = memory.view(state.used, 6 + 8 * state.size)
        self._desc, self._avail, self._used = desc, avail, used

    def set_size(self, size: int) -> None:
        """The driver chose a size."""
        if not 0 < size <= self.limit or size & (size - 1):
            raise GuestError(f"queue size is {size}, must be a power of two up to {self.limit}")
        self.state.size = size

    def enable(self) -> None:
        """The driver has set the queue up; GuestError, and the queue stays disabled, when it did so wrongly."""
        state = self.state
        if state.size == 0:
            raise GuestError("queue is made ready before its size is set")
        if error := misaligned(state):
            raise GuestError(f"queue {error}")
        state.ready = True
        try:
            self.map()
        except GuestError:
            state.ready = False
            raise

    def disable(self) -> None:
        """Forget the rings; the caller has no chain in flight. The next `enable` starts at index 0."""
        state = self.state
        state.ready = state.signalled_valid = False
        state.last_avail = state.used_idx = state.signalled = 0
        self._unmap()

    def pop(self) -> Chain | None:
        """Take the next chain the driver made available; None when there is none."""
        state = self.state
        if not state.ready:
            return None
        avail, last, size = self._avail, state.last_avail, state.size
        pending = (_U16.unpack_from(avail, _IDX)[0] - last) & 0xFFFF
        if pending == 0:
            return None
        if pending > size:
            raise GuestError(f"avail.idx is {pending} ahead of the device, queue size is {size}")
        if (last - state.used_idx) & 0xFFFF >= size:
            raise GuestError(f"more chains are made available than the queue size, {size}, while all are in flight")
        chain = self.walk(_U16.unpack_from(avail, _AVAIL_RING + 2 * (last & (size - 1)))[0])
        state.last_avail = last + 1 & 0xFFFF
        return chain

    def walk(self, head: int) -> Chain:
        """Follow the chain from `head`. As in QEMU an indirect table may be longer than the queue: Linux makes such tables."""
        table, limit, view, unpack = self._desc, self.state.size, self._memory.view, _DESCRIPTOR.unpack_from
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        addresses: list[int] = []
        index, seen, total = head, 0, 0
        while True:
            if index >= limit:
                raise GuestError(f"descriptor {index} is outside its table of {limit}")
            if seen == limit:
                raise GuestError(f"descriptor chain from {head} is longer than {limit}")
            seen += 1
            address, length, flags, index = unpack(table, index * DESCRIPTOR_BYTES)
            if flags & _INDIRECT:
                if table is not self._desc:
                    raise GuestError(f"indirect table of chain {head} holds an indirect descriptor")
                table = self._indirect_table(address, length, flags)
                limit, index, seen = length // DESCRIPTOR_BYTES, 0, 0
                continue
            if length:
                total += length
                if flags & _WRITE:
                    writable.append(view(address, length))
                    addresses.append(address)
                elif writable:
                    raise GuestError(f"chain {head} has a readable descriptor after a writable one")  # 2.7.4.2
                else:
                    readable.append(view(address, length))
            if not flags & _NEXT:
                break
        if total > MAX_CHAIN_BYTES:
            raise GuestError(f"chain {head} has {total:#x} bytes, at most {MAX_CHAIN_BYTES:#x} are allowed")
        return Chain(head, readable, writable, addresses)

    def _indirect_table(self, address: int, length: int, flags: int) -> memoryview:
        """The table an indirect descriptor points to (2.7.5.3); its WRITE flag means nothing."""
        if not self.indirect:
            raise GuestError("indirect descriptor without VIRTIO_F_RING_INDIRECT_DESC")
        if flags & _NEXT:
            raise GuestError("indirect descriptor has the NEXT flag")
        if length == 0 or length % DESCRIPTOR_BYTES or length > QUEUE_MAX * DESCRIPTOR_BYTES:
            bound = QUEUE_MAX * DESCRIPTOR_BYTES
            raise GuestError(f"indirect table has {length} bytes, must be a multiple of 16 from 16 to {bound}")
        return self._memory.view(address, length)

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back; the device wrote the first `written` bytes of its writable part."""
        state = self.state
        index = state.used_idx
        _USED.pack_into(self._used, _USED_RING + 8 * (index & (state.size - 1)), chain.head, written)
        state.used_idx = index = index + 1 & 0xFFFF
        _U16.pack_into(self._used, _IDX, index)

    def notify_needed(self) -> bool:
        """Whether the driver wants an interrupt for what was pushed since this was last asked (2.7.7.2)."""
        state = self.state
        if not state.ready:
            return False
        if not self.event_idx:
            return not _U16.unpack_from(self._avail, 0)[0] & NO_INTERRUPT
        new, old, valid = state.used_idx, state.signalled, state.signalled_valid
        state.signalled, state.signalled_valid = new, True
        (used_event,) = _U16.unpack_from(self._avail, _AVAIL_RING + 2 * state.size)
        return not valid or (new - used_event - 1) & 0xFFFF < (new - old) & 0xFFFF

    def enable_notification(self) -> bool:
        """Ask to be notified of the next chain (2.7.10); True when one came meanwhile and must be popped without being told."""
        state = self.state
        if not state.ready:
            return False
        if self.event_idx:
            _U16.pack_into(self._used, _USED_RING + 8 * state.size, state.last_avail)
        else:
            _U16.pack_into(self._used, 0, 0)
        return bool(_U16.unpack_from(self._avail, _IDX)[0] != state.last_avail)

    def disable_notification(self) -> None:
        """Say that notifications are not needed; with the event index that is what an event left behind says."""
        if self.state.ready and not self.event_idx:
            _U16.pack_into(self._used, 0, NO_NOTIFY)
