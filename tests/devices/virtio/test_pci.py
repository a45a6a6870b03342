"""Virtio over PCI as a driver meets it: found by configuration space, driven behind the BAR."""

from __future__ import annotations

import struct

import pytest

from devices.pci import ADDRESS, DATA, ENABLE, Config, PciHost
from devices.virtio.device import VERSION_1, DeviceId, Status
from devices.virtio.pci import ACCESS_CAP, BAR_SIZE, COMMON, ISR, NOTIFY, Common, VirtioPci
from devices.virtio.queue import Desc
from devices.virtio.rng import VirtioRng
from tests.devices.virtio.driver import AVAIL, BUFFERS, DESC, RAM, USED, Line, Memory

BASE = 0xC000_0000
SLOT = 2
IRQS = (5, 9, 10, 11)


class Bench:
    """A host bridge with an entropy source in slot 2, as firmware leaves it."""

    def __init__(self) -> None:
        self.lines = [Line() for _ in IRQS]
        self.memory = Memory()
        self.host = PciHost("pci", BASE, [line.irq for line in self.lines])
        self.rng = VirtioRng("rng", self.memory, source=lambda size: b"\xa5" * size)
        self.function = VirtioPci("function", self.rng, self.host.line(SLOT))
        self.host.plug(SLOT, self.function)
        self.host.assign(BASE, IRQS)

    def get(self, offset: int, size: int, device: int = SLOT) -> int:
        self.host.configuration.write(ADDRESS, 4, ENABLE | device << 11 | offset & 0xFC)
        return self.host.configuration.read(DATA + offset % 4, size)

    def set(self, offset: int, size: int, value: int) -> None:
        self.host.configuration.write(ADDRESS, 4, ENABLE | SLOT << 11 | offset & 0xFC)
        self.host.configuration.write(DATA + offset % 4, size, value)

    def read(self, offset: int, size: int) -> int:
        return self.host.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.host.write(offset, size, value)

    def drive(self) -> None:
        """Bring the device up with a queue of 8, and offer it one buffer of 16 bytes."""
        self.write(COMMON + Common.DEVICE_STATUS, 1, Status.ACKNOWLEDGE | Status.DRIVER)
        self.write(COMMON + Common.DRIVER_FEATURE_SELECT, 4, 1)
        self.write(COMMON + Common.DRIVER_FEATURE, 4, VERSION_1 >> 32)
        self.write(COMMON + Common.DEVICE_STATUS, 1, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        self.write(COMMON + Common.QUEUE_SIZE, 2, 8)
        for register, place in ((Common.QUEUE_DESC, DESC), (Common.QUEUE_DRIVER, AVAIL), (Common.QUEUE_DEVICE, USED)):
            self.write(COMMON + register, 4, RAM + place)
        self.write(COMMON + Common.QUEUE_ENABLE, 2, 1)
        live = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
        self.write(COMMON + Common.DEVICE_STATUS, 1, live)
        self.memory.store(RAM + DESC, struct.pack("<QIHH", RAM + BUFFERS, 16, Desc.WRITE, 0))
        self.memory.store(RAM + AVAIL, struct.pack("<HHH", 0, 1, 0))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_bus_has_a_bridge_and_the_device(bench: Bench) -> None:
    found = {device: bench.get(Config.VENDOR, 4, device) for device in range(32)}

    assert {device: ids for device, ids in found.items() if ids != 0xFFFF_FFFF} == {
        0: 0x1237_8086,
        SLOT: (0x1040 + DeviceId.ENTROPY) << 16 | 0x1AF4,
    }


def test_other_buses_and_functions_are_empty(bench: Bench) -> None:
    for elsewhere in (1 << 16, 1 << 8):
        bench.host.configuration.write(ADDRESS, 4, ENABLE | SLOT << 11 | elsewhere)
        assert bench.host.configuration.read(DATA, 4) == 0xFFFF_FFFF


def test_every_kind_of_capability_is_there(bench: Bench) -> None:
    kinds, at = [], bench.get(Config.CAPABILITIES, 1)
    while at:
        assert bench.get(at, 1) == 0x09
        kinds.append(bench.get(at + 3, 1))
        at = bench.get(at + 1, 1)

    assert sorted(kinds) == [1, 2, 3, 4, 5]


def test_the_bar_tells_its_size_and_can_be_moved(bench: Bench) -> None:
    bench.set(Config.BAR0, 4, 0xFFFF_FFFF)
    assert bench.get(Config.BAR0, 4) == 0x1_0000_0000 - BAR_SIZE

    bench.set(Config.BAR0, 4, BASE + 0x10_0000)

    assert bench.read(COMMON + Common.NUM_QUEUES, 2) == 0xFFFF
    assert bench.read(0x10_0000 + COMMON + Common.NUM_QUEUES, 2) == 1


def test_a_function_without_memory_space_is_not_there(bench: Bench) -> None:
    bench.set(Config.COMMAND, 2, 0)

    assert bench.read(COMMON + Common.NUM_QUEUES, 2) == 0xFFFF


def test_a_request_is_served_and_interrupts_until_the_status_is_read(bench: Bench) -> None:
    bench.drive()
    line = bench.lines[(SLOT - 1) % 4]

    bench.write(NOTIFY, 2, 0)

    assert bench.memory.read(RAM + BUFFERS, 16) == b"\xa5" * 16
    assert line.level
    assert bench.read(ISR, 1) == 1
    assert not line.level
    assert bench.read(ISR, 1) == 0


def test_an_interrupt_switched_off_waits(bench: Bench) -> None:
    bench.drive()
    bench.set(Config.COMMAND, 2, 0x0406)
    bench.write(NOTIFY, 2, 0)
    line = bench.lines[(SLOT - 1) % 4]
    assert not line.level

    bench.set(Config.COMMAND, 2, 0x0006)

    assert line.level


def test_a_queue_that_is_enabled_can_no_longer_be_set_up(bench: Bench) -> None:
    bench.drive()

    bench.write(COMMON + Common.QUEUE_DESC, 4, 0)
    bench.write(COMMON + Common.QUEUE_SIZE, 2, 4)

    assert bench.read(COMMON + Common.QUEUE_DESC, 4) == RAM + DESC
    assert bench.read(COMMON + Common.QUEUE_SIZE, 2) == 8


def test_a_queue_is_as_large_as_it_can_be_until_the_driver_chooses(bench: Bench) -> None:
    assert bench.read(COMMON + Common.QUEUE_SIZE, 2) == 64
    bench.write(COMMON + Common.QUEUE_SELECT, 2, 1)
    assert bench.read(COMMON + Common.QUEUE_SIZE, 2) == 0


def test_status_zero_resets(bench: Bench) -> None:
    bench.drive()
    bench.write(NOTIFY, 2, 0)

    bench.write(COMMON + Common.DEVICE_STATUS, 1, 0)

    assert bench.read(COMMON + Common.DEVICE_STATUS, 1) == 0
    assert bench.read(COMMON + Common.QUEUE_ENABLE, 2) == 0
    assert not bench.lines[(SLOT - 1) % 4].level


def test_registers_can_be_reached_by_configuration_space(bench: Bench) -> None:
    bench.set(ACCESS_CAP + 4, 1, 0)
    bench.set(ACCESS_CAP + 8, 4, COMMON + Common.QUEUE_SIZE)
    bench.set(ACCESS_CAP + 12, 4, 2)
    assert bench.get(ACCESS_CAP + 16, 2) == 64

    bench.set(ACCESS_CAP + 16, 2, 16)

    assert bench.read(COMMON + Common.QUEUE_SIZE, 2) == 16


@pytest.mark.parametrize(("bar", "offset", "length"), [(1, 0, 4), (0, BAR_SIZE, 4), (0, 2, 4), (0, 0, 3), (0, 0, 0)])
def test_access_by_configuration_space_to_nothing_reads_zero(bench: Bench, bar: int, offset: int, length: int) -> None:
    bench.set(ACCESS_CAP + 4, 1, bar)
    bench.set(ACCESS_CAP + 8, 4, offset)
    bench.set(ACCESS_CAP + 12, 4, length)

    assert bench.get(ACCESS_CAP + 16, 4) == 0


def test_devices_that_share_a_line_hold_it_together(bench: Bench) -> None:
    other = bench.host.line(SLOT + 4)
    line = bench.lines[(SLOT - 1) % 4]
    other.set(True)
    bench.host.line(SLOT).set(True)

    other.set(False)
    assert line.level
    bench.host.line(SLOT).set(False)

    assert not line.level
