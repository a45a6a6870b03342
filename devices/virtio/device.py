"""A virtio device without its transport (virtio 1.2, 2 and 3.1): status, feature negotiation, queues, configuration space.

    ACKNOWLEDGE -> DRIVER -> features written -> FEATURES_OK (refused if they are not a subset) -> queues -> DRIVER_OK -> work

A transport (mmio.py) shows this to the driver in its own registers and gives the device an `Interrupts`. When the guest breaks
a rule of its rings, DEVICE_NEEDS_RESET is set (2.1.2), the queues stand still and the machine goes on. Missing: packed
virtqueues, queue reset, notification data, shared memory regions.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

from devices.virtio.queue import Queue, QueueState
from emu.device import Device
from emu.errors import GuestError, StateError
from emu.memory import GuestMemory
from migration.vmstate import State, VMState, structs, u8, u64

log = logging.getLogger(__name__)

QUEUES_MAX = 16  # the most any device here has (virtio-console with its ports)


class DeviceId(IntEnum):
    """Section 5."""

    NONE = 0
    NET = 1
    BLOCK = 2
    CONSOLE = 3
    ENTROPY = 4
    P9 = 9


class Status(IntEnum):
    """Device status field (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


STATUS_BITS = 0xCF

RING_INDIRECT_DESC = 1 << 28  # section 6
RING_EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32
RING_FEATURES = VERSION_1 | RING_INDIRECT_DESC | RING_EVENT_IDX


@dataclass(slots=True, kw_only=True)
class VirtioState(State):
    """What every virtio device has; a device adds its own and says how many queues it has."""

    VMSTATE: ClassVar[VMState] = VMState("virtio", version=1, minimum=1)
    status: int = u8(max=STATUS_BITS)
    features: int = u64()  # accepted by the driver
    config_generation: int = u8()
    queues: list[QueueState] = structs(QueueState, max_len=QUEUES_MAX)

    @property
    def waiting(self) -> int:
        """Chains in flight that the state holds; those of any other device are all done by the time it is saved."""
        return 0

    def check(self) -> None:
        name, status = self.VMSTATE.name, self.status
        if status & ~STATUS_BITS:
            raise StateError(f"{name}.status is {status:#x}, must be within {STATUS_BITS:#x}")
        if status & Status.DRIVER_OK and not status & Status.FEATURES_OK:
            raise StateError(f"{name}.status is {status:#x}, DRIVER_OK needs FEATURES_OK")
        if status & Status.FEATURES_OK and not self.features & VERSION_1:
            raise StateError(f"{name}.features is {self.features:#x}, FEATURES_OK needs VERSION_1 ({VERSION_1:#x})")
        for index, queue in enumerate(self.queues):
            # A chain that broke the rules is never given back; every other one has been, by `drain`.
            if queue.in_flight != self.waiting and not status & Status.NEEDS_RESET:
                raise StateError(f"{name}.queues[{index}] has {queue.in_flight} chains in flight, must have {self.waiting}")


class Interrupts(Protocol):
    """What a transport does for its device."""

    def used_buffers(self, queue: int) -> None:
        """Tell the driver that a queue has used buffers."""

    def config_changed(self) -> None:
        """Tell the driver that the configuration space or the status changed."""


class _Unconnected:
    """The interrupts of a device no transport carries yet."""

    def used_buffers(self, queue: int) -> None:
        """Nobody listens."""

    def config_changed(self) -> None:
        """Nobody listens."""


class VirtioDevice(Device[VirtioState], ABC):
    """Base of the devices; all methods run on the vCPU thread. A subclass sets its attributes before calling `__init__`."""

    STATE: ClassVar[type[State] | None] = VirtioState
    DEVICE_ID: ClassVar[DeviceId] = DeviceId.NONE
    QUEUE_SIZES: ClassVar[tuple[int, ...]] = ()  # the largest size of each queue

    queues: list[Queue]

    def __init__(self, name: str, memory: GuestMemory) -> None:
        self.memory = memory
        self.interrupts: Interrupts = _Unconnected()
        super().__init__(name)

    # What a device is, beyond its queues.

    @property
    def offered(self) -> int:
        """Feature bits the device offers."""
        return RING_FEATURES

    def config(self) -> bytes:
        """The device's configuration space as it is now."""
        return b""

    def config_written(self, offset: int, data: bytes) -> None:  # noqa: ARG002 - a device with writable fields takes it
        """The driver wrote to the configuration space, inside its bounds."""
        log.info("%s: guest wrote read-only configuration at %#x", self.name, offset)

    @abstractmethod
    def queue_notified(self, index: int) -> None:
        """The driver made chains available in a ready queue; GuestError breaks the device until it is reset."""

    def quiet(self, within: float) -> bool:  # noqa: ARG002 - a device with workers waits for them
        """Wait up to `within` seconds for the host to be done with every request: whether it is, and `drain` need not wait."""
        return True

    def drain(self) -> None:
        """Return when no chain is in flight. Called with the vCPU stopped, before images are let go and state is saved."""

    # State.

    def after_load(self) -> None:
        """Find the queues again. What does not fit this machine leaves a device that needs a reset, not an exception."""
        queues = zip(self.state.queues, self.QUEUE_SIZES, strict=True)
        self.queues = [Queue(self.memory, queue, limit) for queue, limit in queues]
        self._features_settled()
        try:
            self._fit()
        except GuestError as exc:
            log.warning("%s: loaded state does not fit this machine: %s", self.name, exc)
            self.state.status |= Status.NEEDS_RESET

    def _fit(self) -> None:
        # Until FEATURES_OK they are what the driver has written so far, and may be anything.
        if self.state.status & Status.FEATURES_OK and self.state.features & ~self.offered:
            raise GuestError(f"features {self.state.features:#x} were accepted, {self.offered:#x} are offered")
        for queue in self.queues:
            if queue.state.size > queue.limit:
                raise GuestError(f"queue size is {queue.state.size}, at most {queue.limit} is offered")
            queue.map()

    def _features_settled(self) -> None:
        for queue in self.queues:
            queue.indirect = bool(self.state.features & RING_INDIRECT_DESC)
            queue.event_idx = bool(self.state.features & RING_EVENT_IDX)

    # What a transport calls.

    def accept_features(self, word: int, value: int) -> None:
        """The driver accepted features, 32 bits at a time."""
        state = self.state
        if state.status & Status.FEATURES_OK:
            log.info("%s: guest changes its features after FEATURES_OK", self.name)
        elif word < 2:
            state.features = state.features & ~(0xFFFF_FFFF << 32 * word) | value << 32 * word

    def set_status(self, value: int) -> None:
        """The driver wrote the status; 0 resets. Bits are never cleared otherwise (2.1.1), and some are refused (3.1.1)."""
        if value == 0:
            self.reset()
            return
        state = self.state
        added = value & STATUS_BITS & ~Status.NEEDS_RESET & ~state.status
        if added & Status.FEATURES_OK:
            if state.features & ~self.offered or not state.features & VERSION_1:
                log.info("%s: guest accepts features %#x of %#x: refused", self.name, state.features, self.offered)
                added &= ~Status.FEATURES_OK
            else:
                self._features_settled()
        if added & Status.DRIVER_OK and not (state.status | added) & Status.FEATURES_OK:
            log.info("%s: guest sets DRIVER_OK without FEATURES_OK: refused", self.name)
            added &= ~Status.DRIVER_OK
        state.status |= added

    def read_config(self, offset: int, size: int) -> int:
        """A load from the configuration space; behind its end there are zeroes."""
        return int.from_bytes(self.config()[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """A store to the configuration space; behind its end it is lost."""
        if offset + size <= len(self.config()):
            self.config_written(offset, value.to_bytes(size, "little"))

    def set_queue_ready(self, index: int, ready: bool) -> None:
        """The driver enables or disables a queue; disabling returns when nothing is in flight (4.2.2.2)."""
        queue = self.queues[index]
        if ready and not queue.state.ready:
            self.guarded(queue.enable)
        elif not ready and queue.state.ready:
            self.drain()
            queue.disable()

    def notify(self, index: int) -> None:
        """The driver made chains available; ignored unless the device is live (3.1.1) and the queue ready."""
        if self.live and index < len(self.queues) and self.queues[index].state.ready:
            self.guarded(lambda: self.queue_notified(index))

    # What a device calls.

    @property
    def live(self) -> bool:
        """True while the driver is there and has broken nothing."""
        return self.state.status & (Status.DRIVER_OK | Status.NEEDS_RESET) == Status.DRIVER_OK

    def guarded(self, action: Callable[[], None]) -> None:
        """Run `action`; a GuestError from it breaks the device until the driver resets it."""
        try:
            action()
        except GuestError as exc:
            log.info("%s: needs reset: %s", self.name, exc)
            self.state.status |= Status.NEEDS_RESET
            if self.state.status & Status.DRIVER_OK:
                self.interrupts.config_changed()  # 2.1.2

    def used(self, index: int) -> None:
        """Interrupt the driver if it wants to hear of what was pushed."""
        if self.queues[index].notify_needed():
            self.interrupts.used_buffers(index)

    def config_changed(self) -> None:
        """The device itself changed its configuration space."""
        self.state.config_generation = self.state.config_generation + 1 & 0xFF
        if self.state.status & Status.DRIVER_OK:
            self.interrupts.config_changed()
