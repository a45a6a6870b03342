"""The entropy device."""

from __future__ import annotations

import pytest

from devices.virtio.mmio import Interrupt
from devices.virtio.rng import REQUEST_MAX, VirtioRng, VirtioRngState, seeded_stream
from migration.vmstate import dump, parse
from tests.devices.virtio.driver import Driver, Memory


def counting(position: int, size: int) -> bytes:
    return bytes(position + index & 0xFF for index in range(size))


@pytest.fixture
def driver() -> Driver:
    memory = Memory()
    return Driver(VirtioRng("rng0", memory, counting), memory).start()


def test_request_in_pieces_is_filled(driver: Driver) -> None:
    sent = driver.add([], [3, 1, 12])

    driver.kick()

    assert driver.used() == [(sent.head, 16)]
    assert driver.content(sent) == counting(0, 16)
    assert driver.memory.told == sent.writable
    assert driver.take_interrupt() == Interrupt.USED_BUFFER


def test_huge_request_is_filled_in_part(driver: Driver) -> None:
    sent = driver.add([], [REQUEST_MAX - 1, 1 << 20])

    driver.kick()

    assert driver.used() == [(sent.head, REQUEST_MAX)]
    assert driver.content(sent)[:REQUEST_MAX] == counting(0, REQUEST_MAX)
    assert driver.content(sent)[REQUEST_MAX:] == bytes((1 << 20) - 1)


def test_all_requests_of_one_kick_are_served_with_one_interrupt(driver: Driver) -> None:
    for _ in range(10):
        driver.add([], [8])

    driver.kick()

    assert len(driver.used()) == 10
    assert driver.line.raised == 1


def test_request_without_room_asks_for_a_reset(driver: Driver) -> None:
    driver.add([b"entropy for you"], [])

    driver.kick()

    assert driver.needs_reset


def test_saved_and_loaded_device_goes_on(driver: Driver) -> None:
    driver.add([], [8])
    driver.kick()
    fresh = VirtioRng("rng0", driver.memory, counting)

    fresh.load(parse(VirtioRngState, 2, dump(driver.device.save())))
    driver.used()
    sent = driver.add([], [2])
    fresh.notify(0)

    assert driver.used() == [(sent.head, 2)]
    assert driver.content(sent) == counting(8, 2)


def test_seeded_stream_is_the_same_for_the_same_reads() -> None:
    one, two, other = seeded_stream("a"), seeded_stream("a"), seeded_stream("b")

    assert one(0, 64) == two(0, 64)
    assert len({one(0, 64), one(64, 64), other(0, 64)}) == 3
