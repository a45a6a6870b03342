"""The 9P device's requests in flight: who carries them out, in which order, and what a reset does to them."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from devices.p9 import wire
from devices.p9.wire import Type
from tests.devices.virtio.driver import HeldExecutor
from tests.devices.virtio.share import MSIZE, Begin


def test_a_message_is_copied_when_it_comes(begin: Begin) -> None:
    held = HeldExecutor()
    share = begin(held)
    sent = share.send(Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION))
    share.driver.kick()
    share.memory.store(0x8001_0000, bytes(64))
    held.run()
    share.posts.run()
    assert share.driver.content(sent)[:7] == wire.message(Type.VERSION + 1, 1, bytes(14))[:7]


def test_what_needs_no_host_is_answered_without_a_worker(begin: Begin) -> None:
    held = HeldExecutor()
    share = begin(held)
    share.files_of_a_session(held)
    for kind, body in (
        (Type.WALK, struct.pack("<IIH", 0, 5, 0)),  # a copy
        (Type.CLUNK, wire.u32(5)),
        (Type.CLUNK, wire.u32(5)),  # it is no more
    ):
        share.send(kind, body)
        share.driver.kick()
        assert len(share.driver.used()) == 1
    assert held.held == []


def test_what_needs_the_host_or_comes_behind_it_is_the_workers(begin: Begin) -> None:
    held = HeldExecutor()
    share = begin(held)
    share.files_of_a_session(held)
    messages = (
        (Type.CLUNK, wire.u32(1)),  # open
        (Type.WALK, struct.pack("<IIH", 0, 5, 0)),
        (Type.CLUNK, wire.u32(5)),
    )
    sent = [share.send(kind, body) for kind, body in messages]
    share.driver.kick()
    assert share.driver.used() == []

    held.run()
    share.posts.run()

    assert [head for head, _length in share.driver.used()] == [request.head for request in sent]
    assert [share.driver.content(request)[4] for request in sent] == [kind + 1 for kind, _body in messages]


def test_while_somebody_looks_through_the_fids_the_guest_does_not_wait(begin: Begin) -> None:
    held = HeldExecutor()
    share = begin(held)
    share.files_of_a_session(held)
    looking, seen = threading.Event(), threading.Event()

    def look() -> None:
        with share.session.lock:
            looking.set()
            seen.wait()

    looker = threading.Thread(target=look)
    looker.start()
    looking.wait()
    share.send(Type.WALK, struct.pack("<IIH", 0, 5, 0))
    share.driver.kick()
    assert (share.driver.used(), len(held.held)) == ([], 1)
    seen.set()
    looker.join()
    held.run()
    share.posts.run()
    assert len(share.driver.used()) == 1


def test_a_flush_is_answered_after_what_it_flushes(begin: Begin) -> None:
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


def test_requests_are_served_in_order_on_real_threads(begin: Begin, root: Path) -> None:
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


def test_a_request_in_flight_is_lost_with_a_reset(begin: Begin) -> None:
    with ThreadPoolExecutor(1) as pool:
        share = begin(pool)
        share.send(Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION))
        share.driver.kick()
        share.driver.start()
        share.posts.run()
        assert share.driver.used() == []
