"""Virtio over MMIO, version 2 of its registers (virtio 1.2, 4.2.2).

    0x000 identity: magic, version, device, vendor        0x050 notify   0x060 interrupt status, acknowledge
    0x010 features of the device, of the driver           0x070 status   0x0ac shared memory: there is none
    0x030 the selected queue: maximum, size, ready,       0x0fc generation of
          addresses of its three parts (0x080..0x0a4)     0x100 the device's configuration space

A slot without a device answers with device id 0. The legacy interface (version 1) is missing: its registers (guest page size,
queue align, queue PFN) do not exist here. Control registers take aligned 32-bit accesses alone (4.2.2.2).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from devices.virtio.device import DeviceId, VirtioDevice
from devices.virtio.queue import QueueState
from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, u8, u32

log = logging.getLogger(__name__)

MAGIC = 0x74726976  # "virt"
VERSION = 2
VENDOR = 0x20554D45  # "EMU "
NO_REGION = 0xFFFF_FFFF  # length and base, both halves, of a shared memory region that does not exist


class Reg(IntEnum):
    """Register offsets (4.2.2)."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


class Interrupt(IntEnum):
    """InterruptStatus."""

    USED_BUFFER = 1
    CONFIG_CHANGE = 2


@dataclass(slots=True, kw_only=True)
class VirtioMmioState(State):
    """The transport's own registers; what belongs to the device is in the device's state."""

    VMSTATE: ClassVar[VMState] = VMState("virtio-mmio", version=1, minimum=1)
    device_features_sel: int = u32()
    driver_features_sel: int = u32()
    queue_sel: int = u32()
    interrupt_status: int = u8(max=Interrupt.USED_BUFFER | Interrupt.CONFIG_CHANGE)


class VirtioMmio(Device[VirtioMmioState]):
    """One slot: a device or, with None, an empty one. The line is high while an interrupt is not acknowledged."""

    STATE = VirtioMmioState

    def __init__(self, name: str, device: VirtioDevice | None, irq: IrqLine) -> None:
        self.device = device
        self._irq = irq
        super().__init__(name)
        if device is not None:
            device.interrupts = self

    def used_buffers(self, queue: int) -> None:  # noqa: ARG002 - one interrupt for all queues here; PCI has one for each
        """Tell the driver that a queue has used buffers."""
        self._raise(Interrupt.USED_BUFFER)

    def config_changed(self) -> None:
        """Tell the driver that the configuration space or the status changed."""
        self._raise(Interrupt.CONFIG_CHANGE)

    def _raise(self, interrupt: Interrupt) -> None:
        self.state.interrupt_status |= interrupt
        self._irq.set(True)

    def read(self, offset: int, size: int) -> int:
        """A load; what does not exist reads as 0."""
        device = self.device
        if offset >= Reg.CONFIG:
            return device.read_config(offset - Reg.CONFIG, size) if device else 0
        if offset in IDENTITY and size == 4:
            return IDENTITY[offset]
        if device is None:
            return DeviceId.NONE
        register = READ.get(offset)
        if register is None or size != 4:
            log.info("%s: guest reads %d bytes at %#x: no such register", self.name, size, offset)
            return 0
        return register(self, device)

    def write(self, offset: int, size: int, value: int) -> None:
        """A store; what does not exist or is read-only is left alone."""
        device = self.device
        if device is None:
            return
        if offset >= Reg.CONFIG:
            device.write_config(offset - Reg.CONFIG, size, value)
            return
        register = WRITE.get(offset)
        if register is None or size != 4:
            log.info("%s: guest writes %d bytes at %#x: no such register", self.name, size, offset)
            return
        register(self, device, value)

    def _queue(self, device: VirtioDevice) -> QueueState | None:
        queue_sel = self.state.queue_sel
        return device.queues[queue_sel].state if queue_sel < len(device.queues) else None

    def _device_features(self, device: VirtioDevice) -> int:
        sel = self.state.device_features_sel
        return device.offered >> 32 * sel & 0xFFFF_FFFF if sel < 2 else 0

    def _queue_num_max(self, device: VirtioDevice) -> int:
        return device.queues[self.state.queue_sel].limit if self._queue(device) else 0

    def _queue_ready(self, device: VirtioDevice) -> int:
        queue = self._queue(device)
        return int(queue is not None and queue.ready)

    def _set_device_features_sel(self, _: VirtioDevice, value: int) -> None:
        self.state.device_features_sel = value

    def _set_driver_features(self, device: VirtioDevice, value: int) -> None:
        device.accept_features(self.state.driver_features_sel, value)

    def _set_driver_features_sel(self, _: VirtioDevice, value: int) -> None:
        self.state.driver_features_sel = value

    def _set_queue_sel(self, _: VirtioDevice, value: int) -> None:
        self.state.queue_sel = value

    def _set_queue_num(self, device: VirtioDevice, value: int) -> None:
        if self._settable(device):
            device.guarded(lambda: device.queues[self.state.queue_sel].set_size(value))

    def _set_queue_ready(self, device: VirtioDevice, value: int) -> None:
        if self._queue(device):
            device.set_queue_ready(self.state.queue_sel, bool(value & 1))

    def _settable(self, device: VirtioDevice) -> QueueState | None:
        """The selected queue, if the driver may still set it up: not once it is ready (4.2.2.2)."""
        queue = self._queue(device)
        if queue is None or queue.ready:
            log.info("%s: guest sets up queue %d, which is ready or does not exist", self.name, self.state.queue_sel)
            return None
        return queue

    def _set_status(self, device: VirtioDevice, value: int) -> None:
        device.set_status(value & 0xFF)
        if value & 0xFF == 0:
            self.state.interrupt_status = 0
            self._irq.set(False)

    def _acknowledge(self, _: VirtioDevice, value: int) -> None:
        self.state.interrupt_status &= ~value
        self._irq.set(self.state.interrupt_status != 0)

    def _set_desc_low(self, device: VirtioDevice, value: int) -> None:
        if queue := self._settable(device):
            queue.desc = _with_low(queue.desc, value)

    def _set_desc_high(self, device: VirtioDevice, value: int) -> None:
        if queue := self._settable(device):
            queue.desc = _with_high(queue.desc, value)

    def _set_driver_low(self, device: VirtioDevice, value: int) -> None:
        if queue := self._settable(device):
            queue.avail = _with_low(queue.avail, value)

    def _set_driver_high(self, device: VirtioDevice, value: int) -> None:
        if queue := self._settable(device):
            queue.avail = _with_high(queue.avail, value)

    def _set_device_low(self, device: VirtioDevice, value: int) -> None:
        if queue := self._settable(device):
            queue.used = _with_low(queue.used, value)

    def _set_device_high(self, device: VirtioDevice, value: int) -> None:
        if queue := self._settable(device):
            queue.used = _with_high(queue.used, value)


def _with_low(address: int, half: int) -> int:
    return address & ~0xFFFF_FFFF | half


def _with_high(address: int, half: int) -> int:
    return address & 0xFFFF_FFFF | half << 32


IDENTITY: dict[int, int] = {
    Reg.MAGIC_VALUE: MAGIC,
    Reg.VERSION: VERSION,
    Reg.VENDOR_ID: VENDOR,
}

READ: dict[int, Callable[[VirtioMmio, VirtioDevice], int]] = {
    Reg.DEVICE_ID: lambda _, device: device.DEVICE_ID,
    Reg.DEVICE_FEATURES: VirtioMmio._device_features,
    Reg.QUEUE_NUM_MAX: VirtioMmio._queue_num_max,
    Reg.QUEUE_READY: VirtioMmio._queue_ready,
    Reg.INTERRUPT_STATUS: lambda mmio, _: mmio.state.interrupt_status,
    Reg.STATUS: lambda _, device: device.state.status,
    Reg.SHM_LEN_LOW: lambda _mmio, _device: NO_REGION,
    Reg.SHM_LEN_HIGH: lambda _mmio, _device: NO_REGION,
    Reg.SHM_BASE_LOW: lambda _mmio, _device: NO_REGION,
    Reg.SHM_BASE_HIGH: lambda _mmio, _device: NO_REGION,
    Reg.CONFIG_GENERATION: lambda _, device: device.state.config_generation,
}

WRITE: dict[int, Callable[[VirtioMmio, VirtioDevice, int], None]] = {
    Reg.DEVICE_FEATURES_SEL: VirtioMmio._set_device_features_sel,
    Reg.DRIVER_FEATURES: VirtioMmio._set_driver_features,
    Reg.DRIVER_FEATURES_SEL: VirtioMmio._set_driver_features_sel,
    Reg.QUEUE_SEL: VirtioMmio._set_queue_sel,
    Reg.QUEUE_NUM: VirtioMmio._set_queue_num,
    Reg.QUEUE_READY: VirtioMmio._set_queue_ready,
    Reg.QUEUE_NOTIFY: lambda _, device, value: device.notify(value),
    Reg.INTERRUPT_ACK: VirtioMmio._acknowledge,
    Reg.STATUS: VirtioMmio._set_status,
    Reg.QUEUE_DESC_LOW: VirtioMmio._set_desc_low,
    Reg.QUEUE_DESC_HIGH: VirtioMmio._set_desc_high,
    Reg.QUEUE_DRIVER_LOW: VirtioMmio._set_driver_low,
    Reg.QUEUE_DRIVER_HIGH: VirtioMmio._set_driver_high,
    Reg.QUEUE_DEVICE_LOW: VirtioMmio._set_device_low,
    Reg.QUEUE_DEVICE_HIGH: VirtioMmio._set_device_high,
    Reg.SHM_SEL: lambda _mmio, _device, _value: None,  # every region is absent
}
