"""Entropy device (virtio 1.2, 5.4). Requests are served at once, on the vCPU thread."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from devices.virtio.device import DeviceId, VirtioDevice, VirtioState
from devices.virtio.queue import QueueState, split
from emu.errors import GuestError
from emu.memory import GuestMemory
from migration.vmstate import VMState, structs, u64

REQUEST_MAX = 4096  # bytes for one chain; a device may fill less than the buffer (5.4.6.2), and Linux asks for 64


Source = Callable[[int, int], bytes]  # position in the stream, bytes wanted


def host_entropy(_position: int, size: int) -> bytes:
    """From the host's kernel."""
    return os.urandom(size)


def seeded_stream(seed: str) -> Source:
    """What a deterministic machine gives: the same bytes for the same reads."""
    return lambda position, size: hashlib.shake_256(f"{seed} {position}".encode()).digest(size)


@dataclass(slots=True, kw_only=True)
class VirtioRngState(VirtioState):
    """One queue, and how much was drawn."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-rng", version=2, minimum=1)
    queues: list[QueueState] = structs(QueueState, min_len=1, max_len=1)
    drawn: int = u64(since=2)  # bytes, modulo 2^64


class VirtioRng(VirtioDevice):
    """`source` gives the random bytes; what the driver has drawn so far is its position."""

    STATE = VirtioRngState
    DEVICE_ID = DeviceId.ENTROPY
    QUEUE_SIZES = (64,)

    state: VirtioRngState

    def __init__(self, name: str, memory: GuestMemory, source: Source = host_entropy) -> None:
        self._source = source
        super().__init__(name, memory)

    def queue_notified(self, index: int) -> None:
        """Fill every chain that is there."""
        queue = self.queues[index]
        try:
            while (chain := queue.pop()) is not None:
                pieces, _ = split(chain.writable, REQUEST_MAX)
                size = sum(map(len, pieces))
                if size == 0:
                    raise GuestError(f"entropy request {chain.head} has no room for a byte")
                entropy = memoryview(self._source(self.state.drawn, size))
                self.state.drawn = (self.state.drawn + size) & (1 << 64) - 1
                for piece, address in zip(pieces, chain.addresses, strict=False):  # pieces are the first of the chain's
                    piece[:], entropy = entropy[: len(piece)], entropy[len(piece) :]
                    self.memory.written(address, len(piece))
                queue.push(chain, size)
            queue.enable_notification()
        finally:
            self.used(index)
