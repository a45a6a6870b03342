"""Virtio over PCI, without the legacy interface (virtio 1.2, 4.1): one memory BAR, five capabilities, INTA#.

    configuration space                        behind BAR 0
    0x00 header: 1af4, 1040 + device id        0x0000 common configuration (4.1.4.3)
    0x40 common configuration                  0x1000 interrupt status (4.1.4.5)
    0x50 interrupt status                      0x2000 the device's configuration space (4.1.4.6)
    0x60 device configuration                  0x3000 notifications, 4 bytes a queue (4.1.4.4)
    0x70 notifications
    0x84 access by configuration space (4.1.4.9): for guests that do not map the BAR

Missing: MSI-X (its vectors read as 0xffff), queue reset, notification data, shared memory.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from devices.pci import CONFIG_SIZE, Config
from devices.virtio.device import DeviceId, VirtioDevice
from devices.virtio.queue import QueueState
from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, u8, u16, u32

log = logging.getLogger(__name__)

VENDOR, DEVICE_BASE = 0x1AF4, 0x1040  # 4.1.2
CLASSES = {DeviceId.BLOCK: 0x0100, DeviceId.NET: 0x0200, DeviceId.CONSOLE: 0x0780}
OTHER_CLASS = 0x00FF
HAS_CAPABILITIES, INTERRUPT = 0x10, 0x08  # status (PCI 6.2.3)
MEMORY_SPACE, COMMAND_BITS = 0x0002, 0x0406  # command (6.2.2): memory, bus master, interrupts off
INTERRUPTS_OFF = 0x0400
NO_VECTOR = 0xFFFF

BAR_SIZE = 0x4000
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
REGION = 0x1000
NOTIFY_MULTIPLIER = 4

CAP_ID = 0x09  # vendor-specific
CAP = struct.Struct("<BBBBBBBBII")  # 4.1.4
FIRST_CAP = 0x40
NOTIFY_CAP, ACCESS_CAP = 0x70, 0x84
ACCESS_BAR, ACCESS_OFFSET, ACCESS_LENGTH, ACCESS_DATA = (ACCESS_CAP + at for at in (4, 8, 12, 16))


class Common(IntEnum):
    """Offsets in the common configuration (4.1.4.3)."""

    DEVICE_FEATURE_SELECT, DEVICE_FEATURE, DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x00, 0x04, 0x08, 0x0C
    CONFIG_MSIX_VECTOR, NUM_QUEUES, DEVICE_STATUS, CONFIG_GENERATION = 0x10, 0x12, 0x14, 0x15
    QUEUE_SELECT, QUEUE_SIZE, QUEUE_MSIX_VECTOR, QUEUE_ENABLE, QUEUE_NOTIFY_OFF = 0x16, 0x18, 0x1A, 0x1C, 0x1E
    QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x20, 0x28, 0x30


WIDTHS = {
    **dict.fromkeys((0x00, 0x04, 0x08, 0x0C, 0x20, 0x24, 0x28, 0x2C, 0x30, 0x34), 4),
    **dict.fromkeys((0x10, 0x12, 0x16, 0x18, 0x1A, 0x1C, 0x1E), 2),
    **dict.fromkeys((0x14, 0x15), 1),
}
ADDRESSES = {Common.QUEUE_DESC: "desc", Common.QUEUE_DRIVER: "avail", Common.QUEUE_DEVICE: "used"}


class Interrupt(IntEnum):
    """ISR status."""

    USED_BUFFER = 1
    CONFIG_CHANGE = 2


@dataclass(slots=True, kw_only=True)
class VirtioPciState(State):
    """The function's and the transport's own registers; what belongs to the device is in the device's state."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-pci", version=1, minimum=1)
    command: int = u16(max=COMMAND_BITS)
    bar: int = u32()
    interrupt_line: int = u8()
    cache_line: int = u8()
    access_bar: int = u8()
    access_offset: int = u32()
    access_length: int = u32()
    device_feature_select: int = u32()
    driver_feature_select: int = u32()
    queue_select: int = u16()
    interrupt_status: int = u8(max=Interrupt.USED_BUFFER | Interrupt.CONFIG_CHANGE)


class VirtioPci(Device[VirtioPciState]):
    """A device in a PCI slot. Implements devices.pci.PciFunction."""

    STATE = VirtioPciState

    def __init__(self, name: str, device: VirtioDevice, irq: IrqLine) -> None:
        self.device = device
        self._irq = irq
        super().__init__(name)
        device.interrupts = self

    def after_load(self) -> None:
        """Lay the configuration space out again."""
        self._config = self._header()

    @property
    def bar_size(self) -> int:
        """Bytes behind its BAR."""
        return BAR_SIZE

    @property
    def window(self) -> range:
        """The addresses the BAR takes part in."""
        state = self.state
        return range(state.bar, state.bar + BAR_SIZE) if state.command & MEMORY_SPACE and state.bar else range(0)

    # devices.virtio.device.Interrupts

    def used_buffers(self, queue: int) -> None:  # noqa: ARG002 - one interrupt for all queues without MSI-X
        """Tell the driver that a queue has used buffers."""
        self._raise(Interrupt.USED_BUFFER)

    def config_changed(self) -> None:
        """Tell the driver that the configuration space or the status changed."""
        self._raise(Interrupt.CONFIG_CHANGE)

    def _raise(self, interrupt: Interrupt) -> None:
        self.state.interrupt_status |= interrupt
        self._update_irq()

    def _update_irq(self) -> None:
        self._irq.set(bool(self.state.interrupt_status) and not self.state.command & INTERRUPTS_OFF)

    # Configuration space

    def _header(self) -> bytes:
        """What never changes."""
        config = bytearray(CONFIG_SIZE)
        device = self.device
        words = {
            Config.VENDOR: VENDOR,
            Config.DEVICE: DEVICE_BASE + device.DEVICE_ID,
            Config.STATUS: HAS_CAPABILITIES,
            Config.REVISION: 1,
            Config.CLASS: CLASSES.get(device.DEVICE_ID, OTHER_CLASS),
            Config.SUBSYSTEM_VENDOR: VENDOR,
            Config.SUBSYSTEM: 0x1100,  # as QEMU's: at least 0x40 tells that the device is not a legacy one
            Config.CAPABILITIES: FIRST_CAP,
            Config.INTERRUPT_PIN - 1: 1 << 8,
        }
        for at, word in words.items():
            config[at : at + 2] = word.to_bytes(2, "little")
        for kind, (at, behind, offset) in enumerate(
            ((0x40, 0x50, COMMON), (NOTIFY_CAP, ACCESS_CAP, NOTIFY), (0x50, 0x60, ISR), (0x60, NOTIFY_CAP, DEVICE)), start=1
        ):
            size = 20 if kind == 2 else 16
            config[at : at + 16] = CAP.pack(CAP_ID, behind, size, kind, 0, 0, 0, 0, offset, REGION)
        config[NOTIFY_CAP + 16 : NOTIFY_CAP + 20] = NOTIFY_MULTIPLIER.to_bytes(4, "little")
        config[ACCESS_CAP : ACCESS_CAP + 16] = CAP.pack(CAP_ID, 0, 20, 5, 0, 0, 0, 0, 0, 0)
        return bytes(config)

    def read_config(self, offset: int, size: int) -> int:
        """Load from the configuration space."""
        state = self.state
        if offset & ~3 == ACCESS_DATA:
            return self.read(state.access_offset, state.access_length) if self._accessible(size) else 0
        config = bytearray(self._config)
        config[Config.COMMAND : Config.COMMAND + 2] = state.command.to_bytes(2, "little")
        config[Config.STATUS] |= INTERRUPT if state.interrupt_status else 0
        config[Config.BAR0 : Config.BAR0 + 4] = state.bar.to_bytes(4, "little")
        config[Config.INTERRUPT_LINE], config[CACHE_LINE] = state.interrupt_line, state.cache_line
        config[ACCESS_BAR] = state.access_bar
        config[ACCESS_OFFSET : ACCESS_OFFSET + 8] = struct.pack("<II", state.access_offset, state.access_length)
        return int.from_bytes(config[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Store to the configuration space; of read-only registers nothing."""
        state = self.state
        if offset & ~3 == ACCESS_DATA:
            if self._accessible(size):
                self.write(state.access_offset, state.access_length, value & (1 << 8 * state.access_length) - 1)
            return
        for at in range(size):
            self._write_byte(offset + at, value >> 8 * at & 0xFF)
        self._update_irq()

    def _write_byte(self, offset: int, value: int) -> None:
        state, shift = self.state, 8 * (offset & 3)
        word = offset & ~3
        if word == Config.COMMAND and offset < Config.STATUS:
            state.command = (state.command & ~(0xFF << shift) | value << shift) & COMMAND_BITS
        elif word == Config.BAR0:
            state.bar = (state.bar & ~(0xFF << shift) | value << shift) & -BAR_SIZE
        elif offset == Config.INTERRUPT_LINE:
            state.interrupt_line = value
        elif offset == CACHE_LINE:
            state.cache_line = value
        elif offset == ACCESS_BAR:
            state.access_bar = value
        elif word == ACCESS_OFFSET:
            state.access_offset = state.access_offset & ~(0xFF << shift) | value << shift
        elif word == ACCESS_LENGTH:
            state.access_length = state.access_length & ~(0xFF << shift) | value << shift

    def _accessible(self, size: int) -> bool:
        state = self.state
        return (
            state.access_bar == 0
            and state.access_length in (1, 2, 4)
            and size >= state.access_length
            and state.access_offset % state.access_length == 0
            and state.access_offset < BAR_SIZE
        )

    # Behind the BAR

    def read(self, offset: int, size: int) -> int:
        """Load from behind the BAR."""
        region, register = offset & ~(REGION - 1), offset & REGION - 1
        if region == DEVICE:
            return self.device.read_config(register, size)
        if region == ISR and register == 0:
            status, self.state.interrupt_status = self.state.interrupt_status, 0
            self._update_irq()
            return status
        if region != COMMON or WIDTHS.get(register) != size:
            if region != NOTIFY:
                log.info("%s: guest reads %d bytes at %#x: no such register", self.name, size, offset)
            return 0
        return self._read_common(register)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store behind the BAR."""
        region, register = offset & ~(REGION - 1), offset & REGION - 1
        if region == DEVICE:
            self.device.write_config(register, size, value)
        elif region == NOTIFY:
            self.device.notify(register // NOTIFY_MULTIPLIER)
        elif region == COMMON and WIDTHS.get(register) == size:
            self._write_common(register, value)
        else:
            log.info("%s: guest writes %d bytes at %#x: no such register", self.name, size, offset)

    def _queue(self) -> QueueState | None:
        index = self.state.queue_select
        return self.device.queues[index].state if index < len(self.device.queues) else None

    def _read_common(self, register: int) -> int:
        device, queue = self.device, self._queue()
        if register >= Common.QUEUE_DESC:
            address = 0 if queue is None else int(getattr(queue, ADDRESSES[Common(register & ~4)]))
            return address >> 8 * (register & 4) & 0xFFFF_FFFF
        return READ[Common(register)](self, device, queue)

    def _feature(self, device: VirtioDevice) -> int:
        select = self.state.device_feature_select
        return device.offered >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    def _accepted(self, device: VirtioDevice) -> int:
        select = self.state.driver_feature_select
        return device.state.features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    def _size(self, device: VirtioDevice, queue: QueueState | None) -> int:
        """The queue's maximum until the driver chooses (4.1.4.3)."""
        return 0 if queue is None else queue.size or device.queues[self.state.queue_select].limit

    def _write_common(self, register: int, value: int) -> None:
        state, device = self.state, self.device
        match register:
            case Common.DEVICE_FEATURE_SELECT:
                state.device_feature_select = value
            case Common.DRIVER_FEATURE_SELECT:
                state.driver_feature_select = value
            case Common.DRIVER_FEATURE:
                device.accept_features(state.driver_feature_select, value)
            case Common.QUEUE_SELECT:
                state.queue_select = value
            case Common.DEVICE_STATUS:
                device.set_status(value)
                if value == 0:
                    state.interrupt_status = 0
                    self._update_irq()
            case _:
                self._write_queue(register, value)

    def _write_queue(self, register: int, value: int) -> None:
        """Set the selected queue up: allowed until it is enabled (4.1.4.3.2)."""
        queue, index, device = self._queue(), self.state.queue_select, self.device
        if queue is None or queue.ready:
            log.info("%s: guest sets up queue %d, which is enabled or does not exist", self.name, index)
        elif register == Common.QUEUE_SIZE:
            device.guarded(lambda: device.queues[index].set_size(value))
        elif register == Common.QUEUE_ENABLE and value == 1:
            if not queue.size:
                device.guarded(lambda: device.queues[index].set_size(device.queues[index].limit))
            device.set_queue_ready(index, True)
        elif register >= Common.QUEUE_DESC:
            name, shift = ADDRESSES[Common(register & ~4)], 8 * (register & 4)
            setattr(queue, name, int(getattr(queue, name)) & ~(0xFFFF_FFFF << shift) | value << shift)


CACHE_LINE = 0x0C

READ: dict[Common, Callable[[VirtioPci, VirtioDevice, QueueState | None], int]] = {
    Common.DEVICE_FEATURE_SELECT: lambda pci, _device, _queue: pci.state.device_feature_select,
    Common.DEVICE_FEATURE: lambda pci, device, _queue: pci._feature(device),
    Common.DRIVER_FEATURE_SELECT: lambda pci, _device, _queue: pci.state.driver_feature_select,
    Common.DRIVER_FEATURE: lambda pci, device, _queue: pci._accepted(device),
    Common.CONFIG_MSIX_VECTOR: lambda _pci, _device, _queue: NO_VECTOR,
    Common.NUM_QUEUES: lambda _pci, device, _queue: len(device.queues),
    Common.DEVICE_STATUS: lambda _pci, device, _queue: device.state.status,
    Common.CONFIG_GENERATION: lambda _pci, device, _queue: device.state.config_generation,
    Common.QUEUE_SELECT: lambda pci, _device, _queue: pci.state.queue_select,
    Common.QUEUE_SIZE: lambda pci, device, queue: pci._size(device, queue),
    Common.QUEUE_MSIX_VECTOR: lambda _pci, _device, _queue: NO_VECTOR,
    Common.QUEUE_ENABLE: lambda _pci, _device, queue: int(queue is not None and queue.ready),
    Common.QUEUE_NOTIFY_OFF: lambda pci, _device, _queue: pci.state.queue_select if pci._queue() else 0,
}
