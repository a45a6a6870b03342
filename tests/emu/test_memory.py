"""Device DMA reaches RAM by guest-physical address, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import GuestError
from emu.memory import GuestMemory
from emu.ram import Ram

LOW, LOW_SIZE = 0x1000, 0x2000
HIGH, HIGH_SIZE = 0x8000_0000, 0x10000


class Fixture:
    """Two blocks of RAM and a record of what the CPU was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.low = Ram("low", LOW, LOW_SIZE)
        self.high = Ram("high", HIGH, HIGH_SIZE)
        self.memory = GuestMemory([self.low, self.high], lambda address, size: self.told.append((address, size)))


@pytest.fixture
def bus() -> Fixture:
    return Fixture()


def test_both_blocks_are_reached(bus: Fixture) -> None:
    bus.memory.write(LOW + 4, b"low")
    bus.memory.write(HIGH + HIGH_SIZE - 4, b"high")
    assert bytes(bus.low.view[4:7]) == b"low"
    assert bus.memory.read(HIGH + HIGH_SIZE - 4, 4) == b"high"


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (LOW - 1, 1),
        (LOW - 1, 2),
        (LOW + LOW_SIZE, 1),
        (LOW + LOW_SIZE - 1, 2),
        (HIGH + HIGH_SIZE - 7, 8),
        (HIGH, HIGH_SIZE + 1),
        (HIGH, 1 << 70),
        (HIGH, -1),
        (-1, 1),
        (1 << 64, 1),
        (0, 0),
    ],
)
def test_access_not_inside_one_block_is_a_guest_error_that_names_it(bus: Fixture, address: int, size: int) -> None:
    with pytest.raises(GuestError, match=f"{size} bytes at {address:#x}"):
        bus.memory.view(address, size)
    with pytest.raises(GuestError):
        bus.memory.read(address, size)
    with pytest.raises(GuestError):
        bus.memory.written(address, size)


def test_write_over_the_end_changes_and_tells_nothing(bus: Fixture) -> None:
    with pytest.raises(GuestError):
        bus.memory.write(LOW + LOW_SIZE - 2, b"abc")
    assert bytes(bus.low.view) == bytes(LOW_SIZE)
    assert bus.told == []


def test_empty_view_is_allowed_anywhere_in_ram_and_at_its_end(bus: Fixture) -> None:
    assert len(bus.memory.view(LOW, 0)) == 0
    assert len(bus.memory.view(LOW + LOW_SIZE, 0)) == 0


def test_view_is_in_place_and_written_tells_the_cpu(bus: Fixture) -> None:
    bus.memory.view(HIGH + 8, 2)[:] = b"ab"
    assert bus.told == []
    bus.memory.written(HIGH + 8, 2)
    assert bus.memory.read(HIGH + 8, 2) == b"ab"
    assert bus.told == [(HIGH + 8, 2)]


def test_every_write_tells_the_cpu_where(bus: Fixture) -> None:
    bus.memory.write(LOW, b"abc")
    bus.memory.write(LOW + 3, bytes(8))
    assert bus.told == [(LOW, 3), (LOW + 3, 8)]


@given(st.integers(0, HIGH_SIZE - 8), st.binary(max_size=8))
def test_what_is_written_is_read(offset: int, data: bytes) -> None:
    memory = Fixture().memory
    memory.write(HIGH + offset, data)
    assert memory.read(HIGH + offset, len(data)) == data
