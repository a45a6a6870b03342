"""The 9P device: messages through its rings, requests in flight, sessions that end, and what keeps a guest from moving."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devices.p9 import wire
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from devices.p9.wire import Type
from devices.virtio.mmio import Interrupt, Reg
from devices.virtio.p9 import MOUNT_TAG, VirtioP9, VirtioP9State
from devices.virtio.workers import Executor
from emu.errors import StateError
from migration.blockers import Blockers
from migration.vmstate import dump, parse
from tests.devices.virtio.driver import Driver, HeldExecutor, InlineExecutor, Memory, Posts, Sent

REASON = "The share is mounted."
MSIZE = 64 << 10
CONTENT = bytes(range(256)) * 64


class Share:
    """A share and the driver of a guest that uses it."""

    def __init__(self, root: Path, executor: Executor) -> None:
        self.posts = Posts()
        self.memory = Memory()
        self.blockers = Blockers()
        self.files = HostFs(root, readonly=False, mapped=False)
        self.executor = executor
        self.driver = Driver(self.new_device(), self.memory).start()

    def new_device(self) -> VirtioP9:
        server = Server(Session(self.files, lambda: self.blockers.add(REASON)))
        return VirtioP9("p9", self.memory, server, tag="host0", executor=self.executor, post=self.posts)

    def send(self, kind: int, body: bytes, payload: bytes = b"", room: tuple[int, ...] = (11, 4096), tag: int = 1) -> Sent:
        message = wire.message(kind, tag, body, len(payload))
        return self.driver.add([message, payload] if payload else [message], room, indirect=True)

    def ask(self, kind: int, body: bytes, payload: bytes = b"", room: tuple[int, ...] = (11, 4096)) -> bytes:
        """The whole reply."""
        sent = self.send(kind, body, payload, room)
        self.driver.kick()
        self.posts.run()
        [(head, length)] = self.driver.used()
        reply = self.driver.content(sent)
        assert head == sent.head
        assert struct.unpack_from("<I", reply)[0] == length
        return reply[:length]

    def mount(self) -> None:
        self.ask(Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION))
        reply = self.ask(Type.ATTACH, struct.pack("<IIHHI", 0, 0xFFFF_FFFF, 0, 0, 0))
        assert reply[4] == Type.ATTACH + 1

    def open_file(self, fid: int = 1) -> None:
        self.ask(Type.WALK, struct.pack("<II", 0, fid) + wire.strings([b"file"]))
        reply = self.ask(Type.LOPEN, struct.pack("<II", fid, 2))
        assert reply[4] == Type.LOPEN + 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path


@pytest.fixture
def begin(root: Path) -> Iterator[Callable[[Executor], Share]]:
    shares: list[Share] = []

    def new(executor: Executor) -> Share:
        shares.append(Share(root, executor))
        return shares[-1]

    yield new
    for share in shares:
        share.driver.device.reset()
        share.files.close()


@pytest.fixture
def share(begin: Callable[[Executor], Share]) -> Share:
    return begin(InlineExecutor())


def test_configuration_space_holds_the_tag(share: Share) -> None:
    assert share.driver.offered() & MOUNT_TAG
    assert share.driver.bus.read(Reg.CONFIG, 2) == 5
    assert bytes(share.driver.bus.read(Reg.CONFIG + 2 + index, 1) for index in range(5)) == b"host0"


def test_data_is_read_into_pieces_of_any_size(share: Share) -> None:
    share.mount()
    share.open_file()
    reply = share.ask(Type.READ, struct.pack("<IQI", 1, 10, 3000), room=(3, 9, 1, 2000, 2000))
    assert reply == wire.message(Type.READ + 1, 1, wire.u32(3000), 3000) + CONTENT[10:3010]
    assert share.driver.take_interrupt() == Interrupt.USED_BUFFER


def test_data_is_written_from_pieces_of_any_size(share: Share, root: Path) -> None:
    share.mount()
    share.open_file()
    message = wire.message(Type.WRITE, 1, struct.pack("<IQI", 1, 5, 600), 600)
    sent = share.driver.add([message[:9], message[9:] + b"a" * 100, b"b" * 500], [11])
    share.driver.kick()
    share.posts.run()
    assert share.driver.content(sent) == wire.message(Type.WRITE + 1, 1, wire.u32(600))
    assert (root / "file").read_bytes() == CONTENT[:5] + b"a" * 100 + b"b" * 500 + CONTENT[605:]


def test_a_read_is_cut_to_its_room(share: Share) -> None:
    share.mount()
    share.open_file()
    assert share.ask(Type.READ, struct.pack("<IQI", 1, 0, 3000), room=(11, 50)).endswith(CONTENT[:50])
    assert share.ask(Type.READ, struct.pack("<IQI", 1, 0, 3000), room=(11,)) == wire.message(117, 1, wire.u32(0))


def test_memory_is_told_what_was_written(share: Share) -> None:
    share.mount()
    share.open_file()
    share.memory.told.clear()
    sent = share.send(Type.READ, struct.pack("<IQI", 1, 0, 100))
    share.driver.kick()
    assert share.memory.told == sent.writable


def test_an_error_is_linuxs_number(share: Share) -> None:
    share.mount()
    reply = share.ask(Type.WALK, struct.pack("<II", 0, 1) + wire.strings([b"none"]))
    assert reply == wire.error(1, errno.ENOENT)


@pytest.mark.parametrize(("message", "room"), [(b"", 100), (b"123456", 100), (bytes(7), 10), (bytes(7), 0)])
def test_a_request_that_cannot_be_answered_breaks_the_device(share: Share, message: bytes, room: int) -> None:
    share.driver.add([message] if message else [], [room] if room else [])
    share.driver.kick()
    assert share.driver.needs_reset


@pytest.mark.parametrize("size", [0, 6, 8, 1 << 31, 0xFFFF_FFFF])
def test_a_size_that_lies_is_an_error_of_the_guest(share: Share, size: int) -> None:
    share.mount()
    sent = share.driver.add([struct.pack("<IBH", size, Type.CLUNK, 9) + b"\0"], [11])
    share.driver.kick()
    assert share.driver.content(sent)[4:7] == struct.pack("<BH", Type.RLERROR, 9)


def test_a_message_is_copied_when_it_comes(begin: Callable[[Executor], Share]) -> None:
    held = HeldExecutor()
    share = begin(held)
    sent = share.send(Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION))
    share.driver.kick()
    share.memory.store(0x8001_0000, bytes(64))
    held.run()
    share.posts.run()
    assert share.driver.content(sent)[:7] == wire.message(Type.VERSION + 1, 1, bytes(14))[:7]


def test_a_flush_is_answered_after_what_it_flushes(begin: Callable[[Executor], Share]) -> None:
    held = HeldExecutor()
    share = begin(held)
    old = share.send(Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION), tag=5)
    share.driver.kick()
    flush = share.send(Type.FLUSH, struct.pack("<H", 5), tag=6)
    share.driver.kick()
    held.run()
    share.posts.run()
    assert [head for head, _length in share.driver.used()] == [old.head, flush.head]
    assert share.driver.content(flush)[:7] == wire.message(Type.FLUSH + 1, 6, b"")


def test_requests_are_served_in_order_on_real_threads(begin: Callable[[Executor], Share], root: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        share = begin(pool)
        for kind, body in (
            (Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION)),
            (Type.ATTACH, struct.pack("<IIHHI", 0, 0xFFFF_FFFF, 0, 0, 0)),
            *((Type.MKDIR, wire.u32(0) + wire.string(b"d%d" % n) + struct.pack("<II", 0o755, 0)) for n in range(20)),
        ):
            share.send(kind, body, room=(100,))
            share.driver.kick()
        share.driver.device.drain()
        heads = [head for head, _length in share.driver.used()]
        assert heads == list(range(22))
        assert sorted(path.name for path in root.iterdir() if path.is_dir()) == sorted(f"d{n}" for n in range(20))


def test_a_reset_unmounts(share: Share) -> None:
    share.mount()
    assert share.blockers.reasons() == [REASON]
    share.driver.start()
    assert share.blockers.reasons() == []
    assert share.ask(Type.CLUNK, wire.u32(0)) == wire.error(1, errno.EPROTO)


def test_a_request_in_flight_is_lost_with_a_reset(begin: Callable[[Executor], Share]) -> None:
    with ThreadPoolExecutor(1) as pool:
        share = begin(pool)
        share.send(Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION))
        share.driver.kick()
        share.driver.start()
        share.posts.run()
        assert share.driver.used() == []


def test_an_unmounted_session_is_saved_and_goes_on(share: Share) -> None:
    share.mount()
    share.ask(Type.CLUNK, wire.u32(0))
    fresh = share.new_device()

    fresh.load(parse(VirtioP9State, 1, dump(share.driver.device.save())))
    sent = share.send(Type.ATTACH, struct.pack("<IIHHI", 0, 0xFFFF_FFFF, 0, 0, 0))
    fresh.notify(0)
    share.posts.run()

    assert share.driver.content(sent)[4] == Type.ATTACH + 1
    fresh.reset()


def test_a_message_length_that_no_session_has_is_refused() -> None:
    state = {**dump(VirtioP9State()), "msize": 100}
    with pytest.raises(StateError, match=r"virtio-9p\.msize is 100, must be 0 or at least 4096"):
        parse(VirtioP9State, 1, state)
