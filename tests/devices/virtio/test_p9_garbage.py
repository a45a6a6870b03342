"""Random requests in random descriptors: the 9P device answers or wants a reset, and goes on after it. The seed is printed."""

from __future__ import annotations

import gc
import os
import resource
import struct
from pathlib import Path

import pytest

from devices.p9 import wire
from devices.p9.fids import Fids
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from devices.virtio.device import RING_EVENT_IDX, RING_INDIRECT_DESC
from devices.virtio.mmio import Reg
from devices.virtio.p9 import QUEUE_SIZE, VirtioP9
from migration.blockers import Blockers
from tests.devices.p9.client import MSIZE
from tests.devices.p9.test_garbage import FIDS, OPEN, Chaos
from tests.devices.virtio.driver import (
    BUFFERS,
    DESC,
    EVERYTHING,
    RAM,
    RAM_SIZE,
    Descriptor,
    Driver,
    HeldExecutor,
    InlineExecutor,
    Memory,
    Posts,
)

CHAINS = 40  # of a session
MOUNTED = 3  # chains after which the guest mounts again
GROWTH = 16 << 20  # bytes of resident memory
VERSION = wire.message(wire.Type.VERSION, 1, wire.u32(MSIZE) + wire.string(wire.VERSION))
ATTACH = wire.message(wire.Type.ATTACH, 1, struct.pack("<IIHHI", 0, 0xFFFF_FFFF, 0, 0, 0))


class Guest:
    """A driver that lays requests out at random, and one in a few of them wrongly."""

    def __init__(self, share: Path, seed: int) -> None:
        self.chaos = Chaos(seed)
        self.chance = self.chaos.chance
        self.files = HostFs(share, readonly=False, mapped=False)
        self.posts, self.blockers, self.memory = Posts(), Blockers(), Memory()
        self.held = HeldExecutor()
        self.session = Session(self.files, lambda: self.blockers.add("mounted"), fids=Fids(fids_max=FIDS, open_max=OPEN))
        self.requests = self.answers = self.resets = 0
        self.drivers = [self._driver(InlineExecutor()), self._driver(self.held)]

    def _driver(self, executor: InlineExecutor | HeldExecutor) -> Driver:
        device = VirtioP9("p9", self.memory, Server(self.session), tag="host0", executor=executor, post=self.posts)
        return Driver(device, self.memory)

    def start(self) -> Driver:
        """The device anew, with workers that are done at once or, now and then, late."""
        driver = self.drivers[self.chance.randrange(20) == 0]
        without = self.chance.choice((0, RING_EVENT_IDX, RING_INDIRECT_DESC))
        return driver.start(features=EVERYTHING & ~without, size=self.chance.choice((8, 64, QUEUE_SIZE)))

    def address(self) -> int:
        """Mostly in RAM."""
        chance = self.chance
        odd = (0, RAM - 1, RAM + DESC, RAM + RAM_SIZE - 8, RAM + RAM_SIZE, 1 << 63, EVERYTHING, chance.getrandbits(64))
        return chance.choice(odd) if chance.randrange(4) == 0 else RAM + BUFFERS + chance.randrange(RAM_SIZE - BUFFERS)

    def descriptor(self) -> Descriptor:
        """Anything."""
        chance = self.chance
        length = chance.choice((0, 1, 7, 11, 16, 4096, MSIZE, RAM_SIZE, (1 << 32) - 1))
        return Descriptor(
            self.address(), length, chance.choice((0, 1, 2, 3, 4, 5, 7, 0xFFFF)), chance.choice((0, 1, 2, 0xFFFF))
        )

    def pieces(self, message: bytes) -> list[bytes]:
        """A message in up to four pieces."""
        cuts = sorted(self.chance.choices(range(len(message) + 1), k=self.chance.randrange(4)))
        return [message[first:last] for first, last in zip([0, *cuts], [*cuts, len(message)], strict=True)]

    def add(self, driver: Driver, message: bytes) -> None:
        """Make a request available; then perhaps spoil what describes it."""
        chance = self.chance
        room = [chance.choice((0, 3, 11, 200, 4096, MSIZE)) for _ in range(chance.randrange(4))]
        room += [wire.READ_HEADER] if chance.randrange(50) else []
        sent = driver.add(self.pieces(message), room, indirect=chance.randrange(3) == 0)
        fault = chance.randrange(40)
        if fault == 0:
            driver.set_descriptor(sent.head, self.descriptor())
        elif fault == 1:
            driver.set_descriptor((sent.head + chance.randrange(4)) % driver.size, self.descriptor())
        elif fault == 2:  # in an indirect table, or in a message
            place = driver.buffer(0)[0] - 8 * chance.randrange(1, 40)
            self.memory.store(place, chance.randbytes(8))
        elif fault == 3 and chance.randrange(4) == 0:
            driver.make_available(chance.randrange(1 << 16))
        elif fault == 4 and chance.randrange(4) == 0:
            driver.avail_idx = chance.randrange(1 << 16)
            driver.make_available(sent.head)

    def session_on(self, driver: Driver) -> None:
        """Some requests, until the device wants a reset."""
        driver._next_buffer = RAM + BUFFERS
        for number in range(CHAINS):
            message, payload = self.chaos.message()
            if number == 0:
                message, payload = VERSION, b""
            elif number % MOUNTED == 1:
                message, payload = ATTACH, b""
            self.add(driver, message + payload)
            driver.kick()
            self.requests += 1
            if self.chance.randrange(2):
                self.held.run()
            if not self.held.held:
                self.posts.run()
            self.answers += len(driver.used())
            if driver.needs_reset:
                self.resets += 1
                break
        self.held.run()
        if self.chance.randrange(2):
            self.posts.run()
        self.chance.choice((driver.device.reset, lambda: driver.write(Reg.STATUS, 0)))()
        self.posts.run()


def resident() -> int:
    """Bytes, without the machines that are no more: they hold themselves until they are collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def survive(share: Path, seed: int, requests: int) -> None:
    print(f"seed {seed}")
    before = descriptors()
    guest = Guest(share, seed)
    while guest.requests < requests:
        guest.session_on(guest.start())
    guest.files.close()
    assert descriptors() == before
    assert len(guest.session.fids) == 0
    assert guest.blockers.reasons() == []
    print(f"{guest.answers} answers, {guest.resets} resets")
    assert guest.answers > requests // 2
    assert guest.resets > requests // 100


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    return share


SEED = int(os.environ.get("EMU_TEST_SEED", "20260101"))


def test_garbled_requests_leave_the_device_usable(share: Path) -> None:
    survive(share, SEED, 5000)
    assert [path.name for path in share.parent.iterdir()] == ["share"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_garbled_requests_leave_nothing_behind(share: Path) -> None:
    survive(share, SEED, 20_000)  # what is made once and stays
    held = resident()
    for part in range(20):
        survive(share, SEED + 1 + part, 50_000)
    grown = resident() - held
    print(f"{grown >> 10} KiB more")
    assert grown < GROWTH
    assert [path.name for path in share.parent.iterdir()] == ["share"]
