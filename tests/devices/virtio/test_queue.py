"""The split virtqueue as a driver sees it, and as a hostile driver abuses it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.device import RING_INDIRECT_DESC, DeviceId, VirtioDevice
from devices.virtio.mmio import Interrupt, Reg
from devices.virtio.queue import QUEUE_MAX, Desc, QueueState
from devices.virtio.rng import VirtioRngState
from emu.errors import StateError
from migration.vmstate import dump, parse
from tests.devices.virtio.driver import AVAIL, DESC, RAM, RAM_SIZE, USED, Descriptor, Driver, Memory

ALL = (1 << 64) - 1
NEXT, WRITE, INDIRECT = int(Desc.NEXT), int(Desc.WRITE), int(Desc.INDIRECT)


class Echo(VirtioDevice):
    """Copies what it may read to where it may write."""

    STATE = VirtioRngState
    DEVICE_ID = DeviceId.CONSOLE
    QUEUE_SIZES = (QUEUE_MAX,)

    def queue_notified(self, index: int) -> None:
        queue = self.queues[index]
        while (chain := queue.pop()) is not None:
            data = b"".join(chain.readable)
            written = 0
            for piece in chain.writable:
                part = data[written : written + len(piece)]
                piece[: len(part)] = part
                written += len(part)
            queue.push(chain, written)
        queue.enable_notification()
        self.used(index)


def new_driver() -> Driver:
    memory = Memory()
    return Driver(Echo("echo", memory), memory)


@pytest.fixture
def driver() -> Driver:
    return new_driver().start()


@pytest.mark.parametrize("indirect", [False, True])
def test_chain_in_any_layout_is_one_buffer(driver: Driver, indirect: bool) -> None:
    sent = driver.add([b"h", b"ello ", b"world"], [2, 1, 100], indirect=indirect)

    driver.kick()

    assert driver.used() == [(sent.head, 11)]
    assert driver.content(sent)[:11] == b"hello world"


def test_chain_may_end_in_an_indirect_descriptor(driver: Driver) -> None:
    address, length = driver.buffer(b"abc")
    back, room = driver.buffer(8)
    table, size = driver.buffer(Descriptor(address, length, NEXT, 1).pack() + Descriptor(back, room, WRITE).pack())
    driver.set_descriptor(0, Descriptor(address, length, NEXT, 5))
    driver.set_descriptor(5, Descriptor(table, size, INDIRECT | WRITE))  # WRITE means nothing there
    driver.make_available(0)

    driver.kick()

    assert driver.used() == [(0, 6)]
    assert driver.memory.read(back, 6) == b"abcabc"


def test_rings_wrap_around_at_their_size_and_at_65536(driver: Driver) -> None:
    driver.start(size=4)
    address, length = driver.buffer(b"x")
    driver.set_descriptor(3, Descriptor(address, length))
    for _ in range(65536 // 4 + 1):
        for _ in range(4):
            driver.make_available(3)
        driver.kick()

    assert len(driver.used()) == 4
    assert driver.avail_idx == 4
    assert not driver.needs_reset


def test_zero_length_piece_is_no_piece(driver: Driver) -> None:
    address, length = driver.buffer(b"abc")
    driver.set_descriptor(0, Descriptor(0xDEAD_0000_0000, 0, NEXT, 1))
    driver.set_descriptor(1, Descriptor(address, length, NEXT, 2))
    driver.set_descriptor(2, Descriptor(address, length, WRITE))
    driver.make_available(0)

    driver.kick()

    assert driver.used() == [(0, 3)]


def test_descriptor_wholly_at_the_end_of_ram_is_used(driver: Driver) -> None:
    driver.set_descriptor(0, Descriptor(RAM + RAM_SIZE - 4, 4))
    driver.make_available(0)

    driver.kick()

    assert driver.used() == [(0, 0)]


@pytest.mark.parametrize(
    ("descriptors", "why"),
    [
        pytest.param([Descriptor(RAM, 1, NEXT, 0)], "loop to itself", id="loop"),
        pytest.param([Descriptor(RAM, 1, NEXT, 1), Descriptor(RAM, 1, NEXT, 0)], "loop of two", id="loop-of-two"),
        pytest.param([Descriptor(RAM, 0, NEXT, 0)], "loop of nothing", id="loop-of-empty"),
        pytest.param([Descriptor(RAM, 1, NEXT, 64)], "next outside the table", id="next"),
        pytest.param([Descriptor(0, 1)], "below RAM", id="below"),
        pytest.param([Descriptor(RAM + RAM_SIZE - 1, 2)], "across the end", id="across"),
        pytest.param([Descriptor((1 << 64) - 1, 2)], "wraps around", id="wrap"),
        pytest.param([Descriptor(RAM, 0xFFFF_FFFF, WRITE)], "4 GiB", id="huge"),
        pytest.param([Descriptor(RAM, 1, WRITE | NEXT, 1), Descriptor(RAM, 1)], "readable last", id="order"),
        pytest.param([Descriptor(RAM + 0x20000, 0, INDIRECT)], "empty table", id="indirect-empty"),
        pytest.param([Descriptor(RAM + 0x20000, 24, INDIRECT)], "table of 1.5", id="indirect-odd"),
        pytest.param([Descriptor(RAM + 0x20000, 16 * (QUEUE_MAX + 1), INDIRECT)], "huge table", id="indirect-huge"),
        pytest.param([Descriptor(RAM + 0x20000, 0xFFFF_FFF0, INDIRECT)], "4 GiB table", id="indirect-4g"),
        pytest.param([Descriptor(16, 16, INDIRECT)], "table outside RAM", id="indirect-outside"),
        pytest.param([Descriptor(RAM + 0x20000, 16, INDIRECT | NEXT, 0)], "indirect and next", id="indirect-next"),
        pytest.param([Descriptor(RAM + DESC, 16, INDIRECT)], "table in itself", id="indirect-nested"),
    ],
)
def test_broken_chain_asks_for_a_reset(driver: Driver, descriptors: list[Descriptor], why: str) -> None:
    for index, descriptor in enumerate(descriptors):
        driver.set_descriptor(index, descriptor)
    driver.make_available(0)

    driver.kick()

    assert driver.needs_reset, why
    assert driver.used() == []
    assert driver.take_interrupt() == Interrupt.CONFIG_CHANGE


def test_head_outside_the_table_asks_for_a_reset(driver: Driver) -> None:
    driver.make_available(64)

    driver.kick()

    assert driver.needs_reset


def test_index_more_than_a_queue_ahead_asks_for_a_reset(driver: Driver) -> None:
    driver.memory.store(RAM + AVAIL + 2, struct.pack("<H", 65))

    driver.kick()

    assert driver.needs_reset


def test_indirect_descriptor_that_was_not_negotiated_asks_for_a_reset(driver: Driver) -> None:
    driver.start(features=ALL & ~RING_INDIRECT_DESC)
    driver.add([b"x"], [1], indirect=True)

    driver.kick()

    assert driver.needs_reset


def test_chain_longer_than_4_gib_asks_for_a_reset(driver: Driver) -> None:
    driver.start(size=1024)
    for index in range(1023):
        driver.set_descriptor(index, Descriptor(RAM, RAM_SIZE, NEXT, index + 1))
    driver.set_descriptor(1023, Descriptor(RAM, RAM_SIZE))
    driver.make_available(0)

    driver.kick()

    assert driver.needs_reset


def test_chain_as_long_as_the_queue_is_used(driver: Driver) -> None:
    sent = driver.add([b"x"] * 63, [63])

    driver.kick()

    assert driver.used() == [(sent.head, 63)]


def test_chains_before_the_broken_one_are_given_back(driver: Driver) -> None:
    good = driver.add([b"x"], [1])
    driver.make_available(1000)

    driver.kick()

    assert driver.used() == [(good.head, 1)]
    assert driver.needs_reset


def test_broken_device_stands_still_until_it_is_reset(driver: Driver) -> None:
    driver.make_available(1000)
    driver.kick()
    driver.kick()
    before = driver.used()

    driver.start()
    sent = driver.add([b"x"], [1])
    driver.kick()

    assert before == []
    assert driver.used() == [(sent.head, 1)]


def test_driver_that_wants_no_interrupt_gets_none(driver: Driver) -> None:
    driver.memory.store(RAM + AVAIL, struct.pack("<H", 1))
    driver.add([b"x"], [1])

    driver.kick()

    assert len(driver.used()) == 1
    assert driver.take_interrupt() == 0


def test_event_index_interrupts_only_when_passed(driver: Driver) -> None:
    driver.start(features=ALL, size=8)
    raised = []
    driver.memory.store(RAM + AVAIL + 4 + 2 * 8, struct.pack("<H", 3))  # used_event: tell me of chain number 3
    for _ in range(6):
        driver.add([b"x"], [])
        driver.kick()
        raised.append(driver.take_interrupt())

    # The first is always told, for nothing is known of what was told before.
    assert raised == [1, 0, 0, 1, 0, 0]


def test_event_index_names_the_next_chain_for_notification(driver: Driver) -> None:
    driver.start(features=ALL, size=8)
    for _ in range(3):
        driver.add([b"x"], [])
    driver.kick()

    assert struct.unpack("<H", driver.memory.read(RAM + USED + 4 + 8 * 8, 2)) == (3,)


def test_notification_can_be_turned_off_and_on(driver: Driver) -> None:
    queue = driver.device.queues[0]

    queue.disable_notification()
    off = driver.memory.read(RAM + USED, 2)
    driver.add([b"x"], [])
    more = queue.enable_notification()

    assert off == b"\1\0"
    assert driver.memory.read(RAM + USED, 2) == b"\0\0"
    assert more


@pytest.mark.parametrize("size", [0, 3, 65, 2048, 0x8000_0000])
def test_queue_size_that_is_no_power_of_two_in_bounds_is_refused(driver: Driver, size: int) -> None:
    driver.write(Reg.STATUS, 0)

    driver.set_queue(size)

    assert driver.read(Reg.QUEUE_READY) == 0
    assert driver.needs_reset


@pytest.mark.parametrize("part", ["desc", "avail", "used"])
@pytest.mark.parametrize("address", [RAM + 0x1001, 0, RAM + RAM_SIZE - 16, (1 << 64) - 16])
def test_ring_that_is_misaligned_or_not_ram_is_refused(driver: Driver, part: str, address: int) -> None:
    driver.write(Reg.STATUS, 0)

    driver.set_queue(64, **{part: address})

    assert driver.read(Reg.QUEUE_READY) == 0
    assert driver.needs_reset


def descriptors() -> st.SearchStrategy[Descriptor]:
    places = st.sampled_from([RAM, RAM + DESC, RAM + AVAIL, RAM + USED, RAM + 0x20000, RAM + RAM_SIZE - 32, 0, ALL - 7])
    lengths = st.sampled_from([0, 1, 16, 32, 64, 160, 4096, 0xFFFF_FFFF]) | st.integers(0, 0xFFFF_FFFF)
    return st.builds(Descriptor, places, lengths, st.integers(0, 7) | st.integers(0, 0xFFFF), st.integers(0, 9))


@settings(max_examples=150, deadline=None)
@given(st.lists(descriptors(), min_size=8, max_size=8), st.lists(descriptors(), max_size=10), st.lists(st.integers(0, 9)))
def test_no_ring_raises(table: list[Descriptor], indirect: list[Descriptor], heads: list[int]) -> None:
    driver = new_driver().start(size=8)
    driver.memory.store(RAM + 0x20000, b"".join(descriptor.pack() for descriptor in indirect))
    for index, descriptor in enumerate(table):
        driver.set_descriptor(index, descriptor)
    for head in heads:
        driver.make_available(head)

    driver.kick()

    state = driver.device.save()
    assert parse(VirtioRngState, 2, dump(state)) == state
    assert driver.needs_reset or state.queues[0].in_flight == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x110), st.sampled_from([1, 2, 4, 8]), st.integers(0, ALL)), max_size=40))
def test_no_register_access_raises(accesses: list[tuple[int, int, int]]) -> None:
    driver = new_driver().start(size=8)
    for offset, size, value in accesses:
        driver.bus.write(offset, size, value & (1 << 8 * size) - 1)
        driver.bus.read(offset, size)

    assert driver.read(Reg.MAGIC_VALUE) == 0x74726976
    assert dump(driver.bus.save())
    assert dump(driver.device.save())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"size": 3}, "virtqueue.size is 3, must be 0 or a power of two"),
        ({"ready": True}, "virtqueue.ready is set with virtqueue.size 0, must be at least 1"),
        ({"size": 8, "ready": True, "desc": 8}, "virtqueue.desc is 0x8, must be a multiple of 16"),
        ({"size": 8, "ready": True, "used": 2}, "virtqueue.used is 0x2, must be a multiple of 4"),
        ({"size": 8, "last_avail": 9}, "virtqueue.last_avail is 9 ahead of used_idx, virtqueue.size is 8"),
        ({"size": 8, "last_avail": 65535}, "virtqueue.last_avail is 65535 ahead of used_idx, virtqueue.size is 8"),
        (
            {"size": 8, "signalled": 1, "signalled_valid": True},
            "virtqueue.signalled is 1, more than a queue behind used_idx 0",
        ),
    ],
)
def test_state_that_does_not_fit_together_is_refused(fields: dict[str, int], text: str) -> None:
    wire = {**dump(QueueState()), **fields}

    with pytest.raises(StateError) as caught:
        parse(QueueState, 1, wire)

    assert str(caught.value) == text
