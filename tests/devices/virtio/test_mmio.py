"""The MMIO transport: registers, feature negotiation, status, interrupts."""

from __future__ import annotations

import pytest

from devices.virtio.device import RING_FEATURES, VERSION_1, DeviceId, Status, VirtioState
from devices.virtio.mmio import Interrupt, Reg, VirtioMmio, VirtioMmioState
from devices.virtio.rng import VirtioRng, VirtioRngState
from emu.errors import StateError
from migration.vmstate import Wire, dump, parse
from tests.devices.virtio.driver import AVAIL, DESC, EVERYTHING, RAM, USED, Driver, Line, Memory


@pytest.fixture
def driver() -> Driver:
    memory = Memory()
    return Driver(VirtioRng("rng0", memory, lambda _position, size: b"\x5a" * size), memory)


def test_slot_names_itself_and_its_device(driver: Driver) -> None:
    assert driver.read(Reg.MAGIC_VALUE) == int.from_bytes(b"virt", "little")
    assert driver.read(Reg.VERSION) == 2
    assert driver.read(Reg.DEVICE_ID) == DeviceId.ENTROPY
    assert driver.read(Reg.VENDOR_ID) == int.from_bytes(b"EMU ", "little")


def test_empty_slot_has_device_id_0_and_ignores_all_else() -> None:
    line = Line()
    slot = VirtioMmio("empty", None, line.irq)

    slot.write(Reg.STATUS, 4, 1)
    slot.write(Reg.CONFIG, 4, 1)

    assert slot.read(Reg.MAGIC_VALUE, 4) == 0x74726976
    assert slot.read(Reg.VERSION, 4) == 2
    assert [slot.read(offset, 4) for offset in range(8, 0x200, 4) if offset != Reg.VENDOR_ID] == [0] * 125


def test_features_are_read_and_accepted_in_halves(driver: Driver) -> None:
    assert driver.offered() == RING_FEATURES

    driver.accept(RING_FEATURES)

    assert driver.device.save().features == RING_FEATURES


def test_feature_words_beyond_64_bits_are_empty(driver: Driver) -> None:
    driver.write(Reg.DEVICE_FEATURES_SEL, 2)
    driver.write(Reg.DRIVER_FEATURES_SEL, 2)
    driver.write(Reg.DRIVER_FEATURES, 0xFFFF_FFFF)

    assert driver.read(Reg.DEVICE_FEATURES) == 0
    assert driver.device.save().features == 0


@pytest.mark.parametrize("features", [VERSION_1 | 1 << 40, VERSION_1 | 1, 0, RING_FEATURES & ~VERSION_1])
def test_features_ok_is_refused_for_unknown_bits_and_without_version_1(driver: Driver, features: int) -> None:
    driver.accept(features)

    driver.write(Reg.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)

    assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER


def test_driver_ok_without_features_ok_is_refused(driver: Driver) -> None:
    driver.write(Reg.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK)

    assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER


def test_features_are_fixed_after_features_ok(driver: Driver) -> None:
    driver.start(features=VERSION_1)

    driver.accept(RING_FEATURES)

    assert driver.device.save().features == VERSION_1


def test_status_bits_are_cleared_by_reset_alone(driver: Driver) -> None:
    driver.start()

    driver.write(Reg.STATUS, Status.ACKNOWLEDGE)
    kept = driver.status
    driver.write(Reg.STATUS, 0)

    assert kept == Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
    assert driver.status == 0


def test_driver_cannot_set_needs_reset(driver: Driver) -> None:
    driver.write(Reg.STATUS, 0xFF)

    assert not driver.needs_reset


def test_reset_returns_the_device_to_power_on_and_lowers_the_line(driver: Driver) -> None:
    driver.start()
    driver.add([], [8])
    driver.kick()
    high = driver.line.level

    driver.write(Reg.STATUS, 0)

    assert high
    assert not driver.line.level
    assert driver.read(Reg.INTERRUPT_STATUS) == 0
    assert driver.device.save() == VirtioRngState()


def test_interrupt_stays_until_it_is_acknowledged(driver: Driver) -> None:
    driver.start()
    driver.add([], [8])
    driver.kick()

    driver.write(Reg.INTERRUPT_ACK, Interrupt.CONFIG_CHANGE)
    still = driver.line.level
    driver.write(Reg.INTERRUPT_ACK, Interrupt.USED_BUFFER)

    assert still
    assert not driver.line.level


def test_queue_that_does_not_exist_has_size_0_and_takes_nothing(driver: Driver) -> None:
    driver.write(Reg.QUEUE_SEL, 1)
    driver.write(Reg.QUEUE_NUM, 8)
    driver.write(Reg.QUEUE_READY, 1)

    assert driver.read(Reg.QUEUE_NUM_MAX) == 0
    assert driver.read(Reg.QUEUE_READY) == 0


def test_ready_queue_cannot_be_moved(driver: Driver) -> None:
    driver.start()
    before = dump(driver.device.save())

    driver.write(Reg.QUEUE_NUM, 4)
    for register in (Reg.QUEUE_DESC_LOW, Reg.QUEUE_DRIVER_HIGH, Reg.QUEUE_DEVICE_LOW):
        driver.write(register, 0)

    assert dump(driver.device.save()) == before


def test_queue_addresses_are_64_bits_in_halves(driver: Driver) -> None:
    driver.set_queue(8, desc=0x1_2345_6789_0000, avail=0x2_0000_0002, used=0xFFFF_FFFF_0000_0004)

    queue = driver.device.save().queues[0]
    assert (queue.desc, queue.avail, queue.used) == (0x1_2345_6789_0000, 0x2_0000_0002, 0xFFFF_FFFF_0000_0004)


def test_disabled_queue_is_not_served_and_starts_afresh(driver: Driver) -> None:
    driver.start()
    driver.add([], [8])
    driver.kick()
    driver.used()
    driver.write(Reg.QUEUE_READY, 0)
    driver.add([], [8])
    driver.kick()
    while_disabled = driver.used()
    driver.memory.store(RAM + DESC, bytes(USED + 0x1000 - DESC))
    driver.set_queue(16)
    sent = driver.add([], [8])
    driver.kick()

    assert while_disabled == []
    assert driver.used() == [(sent.head, 8)]


@pytest.mark.parametrize("missing", [Status.DRIVER_OK, Status.FEATURES_OK])
def test_kick_before_driver_ok_is_ignored(driver: Driver, missing: Status) -> None:
    driver.write(Reg.STATUS, 0)
    driver.accept(VERSION_1)
    driver.write(Reg.STATUS, 0xF & ~missing)
    driver.set_queue(8)
    driver.add([], [8])

    driver.kick()

    assert driver.used() == []


def test_kick_of_a_queue_that_does_not_exist_is_ignored(driver: Driver) -> None:
    driver.start()

    driver.kick(1)
    driver.kick(0xFFFF_FFFF)

    assert not driver.needs_reset


@pytest.mark.parametrize("offset", [0x028, 0x03C, 0x040, 0x0C0, 0x0F8, 0x001])
def test_legacy_reserved_and_unaligned_registers_do_not_exist(driver: Driver, offset: int) -> None:
    driver.start()
    before = dump(driver.device.save())

    driver.write(offset, 0xFFFF_FFFF)

    assert driver.read(offset) == 0
    assert dump(driver.device.save()) == before


@pytest.mark.parametrize("size", [1, 2, 8])
def test_control_registers_take_32_bit_accesses_alone(driver: Driver, size: int) -> None:
    driver.bus.write(Reg.STATUS, size, 1)

    assert driver.bus.read(Reg.MAGIC_VALUE, size) == 0
    assert driver.status == 0


def test_write_only_registers_read_as_zero(driver: Driver) -> None:
    driver.start()

    assert [driver.read(r) for r in (Reg.QUEUE_SEL, Reg.QUEUE_NUM, Reg.QUEUE_NOTIFY, Reg.QUEUE_DESC_LOW)] == [0] * 4


def test_shared_memory_regions_are_absent(driver: Driver) -> None:
    driver.write(Reg.SHM_SEL, 0)

    halves = [driver.read(r) for r in (Reg.SHM_LEN_LOW, Reg.SHM_LEN_HIGH, Reg.SHM_BASE_LOW, Reg.SHM_BASE_HIGH)]

    assert halves == [0xFFFF_FFFF] * 4


def test_device_without_configuration_reads_zeroes_there(driver: Driver) -> None:
    driver.bus.write(Reg.CONFIG, 4, 1)

    assert driver.bus.read(Reg.CONFIG, 4) == 0


def test_transport_state_goes_through_a_stream(driver: Driver) -> None:
    driver.start()
    driver.write(Reg.DRIVER_FEATURES_SEL, 7)
    driver.add([], [8])
    driver.kick()
    other = VirtioMmio("other", None, Line().irq)

    other.load(parse(VirtioMmioState, 1, dump(driver.bus.save())))

    assert other.save() == VirtioMmioState(interrupt_status=Interrupt.USED_BUFFER, driver_features_sel=7)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"status": 0x10}, "virtio.status is 0x10, must be within 0xcf"),
        ({"status": 4}, "virtio.status is 0x4, DRIVER_OK needs FEATURES_OK"),
        ({"status": 8}, "virtio.features is 0x0, FEATURES_OK needs VERSION_1 (0x100000000)"),
    ],
)
def test_state_that_no_driver_can_reach_is_refused(fields: dict[str, Wire], text: str) -> None:
    with pytest.raises(StateError) as caught:
        parse(VirtioState, 1, {**dump(VirtioState()), **fields})

    assert str(caught.value) == text


def test_state_with_chains_in_flight_is_refused(driver: Driver) -> None:
    driver.start()
    state = driver.device.save()
    queue: Wire = {**dump(state.queues[0]), "last_avail": 1}

    with pytest.raises(StateError, match=r"virtio-rng.queues\[0\] has 1 chains in flight, must have 0"):
        parse(VirtioRngState, 2, {**dump(state), "queues": [queue]})


def test_features_that_were_refused_are_nothing_to_a_load(driver: Driver) -> None:
    driver.accept(EVERYTHING)
    driver.write(Reg.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)

    driver.device.load(parse(VirtioRngState, 2, dump(driver.device.save())))

    assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER


@pytest.mark.parametrize(
    ("device", "queue"),
    [
        pytest.param({"status": 8, "features": EVERYTHING}, {}, id="features-not-offered"),
        pytest.param({}, {"size": 1024}, id="queue-larger-than-offered"),
        pytest.param({}, {"size": 8, "ready": True, "avail": AVAIL}, id="ring-outside-ram"),
    ],
)
def test_state_of_another_machine_loads_as_a_device_that_needs_a_reset(
    driver: Driver, device: dict[str, Wire], queue: dict[str, Wire]
) -> None:
    fresh = VirtioRngState()
    queues: Wire = [{**dump(fresh.queues[0]), **queue}]

    driver.device.load(parse(VirtioRngState, 2, {**dump(fresh), **device, "queues": queues}))
    broken = driver.needs_reset
    driver.start()
    sent = driver.add([], [4])
    driver.kick()

    assert broken
    assert driver.used() == [(sent.head, 4)]
