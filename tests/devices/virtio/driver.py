"""A guest's virtio driver for tests: it lays out rings in guest memory and speaks to a device through its MMIO registers."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from devices.virtio.device import RING_EVENT_IDX, Status, VirtioDevice
from devices.virtio.mmio import Reg, VirtioMmio
from devices.virtio.queue import Desc
from emu.irq import IrqLine
from emu.memory import GuestMemory
from emu.ram import Ram

RAM = 0x8000_0000
RAM_SIZE = 8 << 20
EVERYTHING = (1 << 64) - 1

DESC = 0x1000  # offsets in RAM of the parts of queue 0
AVAIL = 0x6000
USED = 0x8000
BUFFERS = 0x10000


class Memory(GuestMemory):
    """Guest memory with one block of RAM; remembers what was said to have been written by the host."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        super().__init__([Ram("ram", RAM, RAM_SIZE)], lambda address, size: self.told.append((address, size)))

    def store(self, address: int, data: bytes) -> None:
        """Write as the guest does."""
        self.view(address, len(data))[:] = data


class Line:
    """The wire's far end."""

    def __init__(self) -> None:
        self.level = False
        self.raised = 0
        self.irq = IrqLine(self._set)

    def _set(self, level: bool) -> None:
        self.raised += level and not self.level
        self.level = level


class Posts:
    """Functions waiting for the vCPU thread, which is the test's."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.came = threading.Event()

    def __call__(self, function: Callable[[], None]) -> None:
        self.waiting.append(function)
        self.came.set()

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


class InlineExecutor:
    """A worker that is done at once."""

    def submit(self, fn: Callable[[], None], /) -> None:
        fn()


class HeldExecutor:
    """Workers that begin when the test says so."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []

    def submit(self, fn: Callable[[], None], /) -> None:
        self.held.append(fn)

    def run(self) -> None:
        while self.held:
            self.held.pop(0)()


@dataclass
class Descriptor:
    address: int
    length: int
    flags: int = 0
    next: int = 0

    def pack(self) -> bytes:
        return struct.pack("<QIHH", self.address & EVERYTHING, self.length, self.flags, self.next)


@dataclass
class Sent:
    """A chain given to the device: its head and where its pieces are."""

    head: int
    writable: list[tuple[int, int]]


class Driver:
    """Drives one device as virtio 1.2 section 3.1 says a driver must."""

    def __init__(self, device: VirtioDevice, memory: Memory) -> None:
        self.device = device
        self.memory = memory
        self.line = Line()
        self.bus = VirtioMmio(f"mmio-{device.name}", device, self.line.irq)
        self.size = 0
        self.avail_idx = 0
        self.seen = 0
        self._free = 0
        self._next_buffer = RAM + BUFFERS

    # Registers.

    def read(self, register: int) -> int:
        return self.bus.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.bus.write(register, 4, value)

    @property
    def status(self) -> int:
        return self.read(Reg.STATUS)

    @property
    def needs_reset(self) -> bool:
        return bool(self.status & Status.NEEDS_RESET)

    def add_status(self, bit: Status) -> None:
        self.write(Reg.STATUS, self.status | bit)

    def offered(self) -> int:
        self.write(Reg.DEVICE_FEATURES_SEL, 1)
        high = self.read(Reg.DEVICE_FEATURES)
        self.write(Reg.DEVICE_FEATURES_SEL, 0)
        return high << 32 | self.read(Reg.DEVICE_FEATURES)

    def accept(self, features: int) -> None:
        for word in (0, 1):
            self.write(Reg.DRIVER_FEATURES_SEL, word)
            self.write(Reg.DRIVER_FEATURES, features >> 32 * word & 0xFFFF_FFFF)

    def start(self, *, features: int = EVERYTHING & ~RING_EVENT_IDX, size: int = 64) -> Driver:
        """Reset, negotiate what is offered of `features`, set queue 0 up, DRIVER_OK."""
        self.write(Reg.STATUS, 0)
        self.memory.store(RAM, bytes(BUFFERS))
        self.add_status(Status.ACKNOWLEDGE)
        self.add_status(Status.DRIVER)
        self.accept(self.offered() & features)
        self.add_status(Status.FEATURES_OK)
        self.set_queue(size)
        self.add_status(Status.DRIVER_OK)
        return self

    def set_queue(self, size: int, *, desc: int = RAM + DESC, avail: int = RAM + AVAIL, used: int = RAM + USED) -> None:
        self.size, self.avail_idx, self.seen, self._free = size, 0, 0, 0
        self.write(Reg.QUEUE_SEL, 0)
        self.write(Reg.QUEUE_NUM, size)
        for register, address in (
            (Reg.QUEUE_DESC_LOW, desc),
            (Reg.QUEUE_DRIVER_LOW, avail),
            (Reg.QUEUE_DEVICE_LOW, used),
        ):
            self.write(register, address & 0xFFFF_FFFF)
            self.write(register + 4, address >> 32)
        self.write(Reg.QUEUE_READY, 1)

    def take_interrupt(self) -> int:
        """What an interrupt handler does; the causes."""
        causes = self.read(Reg.INTERRUPT_STATUS)
        self.write(Reg.INTERRUPT_ACK, causes)
        return causes

    # Rings.

    def buffer(self, content: bytes | int) -> tuple[int, int]:
        """Put a buffer in RAM: its content, or the size of one to be filled."""
        data = bytes(content)
        address = self._next_buffer
        self.memory.store(address, data)
        self._next_buffer += len(data) + 13 & ~7
        return address, len(data)

    def set_descriptor(self, index: int, descriptor: Descriptor, *, table: int = RAM + DESC) -> None:
        self.memory.store(table + 16 * index, descriptor.pack())

    def make_available(self, head: int) -> None:
        self.memory.store(RAM + AVAIL + 4 + 2 * (self.avail_idx % self.size), struct.pack("<H", head))
        self.avail_idx = self.avail_idx + 1 & 0xFFFF
        self.memory.store(RAM + AVAIL + 2, struct.pack("<H", self.avail_idx))

    def add(self, readable: Sequence[bytes], writable: Sequence[int], *, indirect: bool = False) -> Sent:
        """Make a chain of buffers available, without a kick."""
        pieces = [(self.buffer(content), 0) for content in readable]
        filled = [self.buffer(size) for size in writable]
        pieces += [(place, int(Desc.WRITE)) for place in filled]
        descriptors = [
            Descriptor(address, length, flags | (Desc.NEXT if number < len(pieces) else 0), number)
            for number, ((address, length), flags) in enumerate(pieces, start=1)
        ]
        head = self._free % self.size
        if indirect:
            table, size = self.buffer(b"".join(descriptor.pack() for descriptor in descriptors))
            descriptors = [Descriptor(table, size, int(Desc.INDIRECT))]
        for number, descriptor in enumerate(descriptors):
            if not indirect:
                descriptor.next = (head + number + 1) % self.size
            self.set_descriptor((head + number) % self.size, descriptor)
        self._free += len(descriptors)
        self.make_available(head)
        return Sent(head, filled)

    def kick(self, queue: int = 0) -> None:
        self.write(Reg.QUEUE_NOTIFY, queue)

    def used(self) -> list[tuple[int, int]]:
        """The (head, length) of every chain given back since this was last asked."""
        (index,) = struct.unpack("<H", self.memory.read(RAM + USED + 2, 2))
        fresh: list[tuple[int, int]] = []
        while self.seen != index:
            fresh.append(struct.unpack("<II", self.memory.read(RAM + USED + 4 + 8 * (self.seen % self.size), 8)))
            self.seen = self.seen + 1 & 0xFFFF
        return fresh

    def content(self, sent: Sent) -> bytes:
        """What the device put into the writable part of a chain."""
        return b"".join(self.memory.read(address, length) for address, length in sent.writable)
