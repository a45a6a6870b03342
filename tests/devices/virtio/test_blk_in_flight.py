"""The block device's requests in flight: batches, drains, resets and moves while some are not done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devices.virtio.blk import VirtioBlkState
from devices.virtio.blkrequest import HEADER, MAX_READ_AT_ONCE, SECTOR, BlkStatus, Type
from devices.virtio.device import VERSION_1, Status
from devices.virtio.mmio import Interrupt, Reg
from emu.errors import StateError
from migration.vmstate import dump, parse
from tests.devices.virtio.disk import CONTENT, SECTORS, WAIT, WRITEBACK, Disk, slow_disk
from tests.devices.virtio.driver import HeldExecutor, InlineExecutor


def test_completions_of_one_batch_share_one_interrupt(path: Path) -> None:
    held = HeldExecutor()
    disk = Disk(path, executor=held).start(features=VERSION_1)
    for sector in range(20):
        disk.driver.add([HEADER.pack(Type.IN, 0, sector)], [SECTOR, 1])
    disk.driver.kick()
    held.run()
    posted = len(disk.posts.waiting)

    disk.posts.run()

    assert posted == 1
    assert len(disk.driver.used()) == 20
    assert disk.driver.line.raised == 1


def test_256_requests_in_flight_all_come_back_right(path: Path, pool: ThreadPoolExecutor) -> None:
    disk = Disk(path, executor=pool).start()
    sent = [disk.send(Type.IN, sector, room=[SECTOR]) for sector in range(SECTORS)]

    disk.driver.kick()
    disk.driver.device.drain()

    assert sorted(disk.driver.used()) == sorted((request.head, SECTOR + 1) for request in sent)
    assert b"".join(disk.driver.content(request)[:-1] for request in sent) == CONTENT
    assert {disk.driver.content(request)[-1] for request in sent} == {BlkStatus.OK}


def test_same_chain_again_and_again_is_bounded_by_the_queue(path: Path) -> None:
    disk = Disk(path, executor=HeldExecutor()).start(features=VERSION_1, size=4)
    sent = disk.driver.add([HEADER.pack(Type.IN, 0, 0)], [SECTOR, 1])
    disk.driver.kick()
    for _ in range(4):
        disk.driver.make_available(sent.head)
        disk.driver.kick()

    assert disk.driver.needs_reset


def test_flush_waits_for_no_write_but_covers_completed_ones(path: Path, pool: ThreadPoolExecutor) -> None:
    disk = Disk(path, executor=pool).start()
    for sector in range(64):
        disk.send(Type.OUT, sector, [bytes([sector]) * SECTOR])
    disk.driver.kick()
    disk.driver.device.drain()
    disk.send(Type.FLUSH)
    disk.driver.kick()
    disk.driver.device.drain()

    assert disk.image.calls == ["writev"] * 64 + ["flush"]
    assert path.read_bytes()[: 64 * SECTOR] == b"".join(bytes([sector]) * SECTOR for sector in range(64))


def test_a_small_read_from_the_hosts_cache_needs_no_worker(path: Path) -> None:
    disk = Disk(path, executor=HeldExecutor()).start()
    disk.image.cached = True

    status, data = disk.ask(Type.IN, 3, room=[4096])

    assert (status, data) == (BlkStatus.OK, CONTENT[3 * SECTOR : 3 * SECTOR + 4096])


def test_a_large_read_is_always_a_workers(path: Path) -> None:
    executor = HeldExecutor()
    disk = Disk(path, executor=executor).start()
    disk.image.cached = True
    disk.send(Type.IN, 0, room=[MAX_READ_AT_ONCE + SECTOR])

    disk.driver.kick()

    assert disk.driver.used() == []
    executor.run()
    disk.posts.run()
    assert len(disk.driver.used()) == 1


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_drain_returns_only_when_the_rings_show_the_completion(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    sent = disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    thread = in_background(disk.driver.device.drain)
    assert slow.reading.wait(WAIT)
    early = disk.driver.used()

    slow.go_on.set()
    thread.join(WAIT)

    assert early == []
    assert disk.driver.used() == [(sent.head, SECTOR + 1)]


def test_requests_that_are_done_in_a_moment_need_no_post(disk: Disk) -> None:
    for sector in range(20):
        disk.send(Type.IN, sector, room=[SECTOR])

    disk.driver.kick()

    assert disk.posts.waiting == []
    assert len(disk.driver.used()) == 20
    assert disk.driver.line.raised == 1


def test_post_that_comes_after_drain_changes_nothing(path: Path) -> None:
    held = HeldExecutor()
    disk = Disk(path, executor=held).start()
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    held.run()
    disk.driver.device.drain()
    state = dump(disk.driver.device.save())
    disk.driver.take_interrupt()

    disk.posts.run()

    assert dump(disk.driver.device.save()) == state
    assert disk.driver.take_interrupt() == 0


def test_other_requests_go_on_while_one_is_slow(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    assert slow.reading.wait(WAIT)
    second = disk.send(Type.FLUSH)
    disk.driver.kick()
    if not (first_back := disk.driver.used()):  # else it was done while the vCPU waited
        assert disk.posts.came.wait(WAIT)
        disk.posts.run()
        first_back = disk.driver.used()
    slow.go_on.set()
    disk.driver.device.drain()

    assert [head for head, _ in first_back] == [second.head]
    assert len(disk.driver.used()) == 1


def test_reset_lets_no_old_request_touch_the_new_rings(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    assert slow.reading.wait(WAIT)

    slow.go_on.set()
    disk.start()
    disk.posts.run()

    assert disk.driver.used() == []
    assert disk.driver.device.save().queues[0].used_idx == 0
    assert not disk.driver.line.level


def test_disabling_a_queue_waits_for_its_requests(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool)
    sent = disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()
    assert slow.reading.wait(WAIT)
    slow.go_on.set()

    disk.driver.write(Reg.QUEUE_READY, 0)

    assert disk.driver.read(Reg.QUEUE_READY) == 0
    assert disk.driver.used() == [(sent.head, SECTOR + 1)]


def test_state_with_a_request_in_flight_is_refused(path: Path) -> None:
    disk = Disk(path, executor=HeldExecutor()).start()
    disk.send(Type.FLUSH)
    disk.driver.kick()

    with pytest.raises(StateError, match=r"virtio-blk\.queues\[0\] has 1 chains in flight, must have 0"):
        dump(disk.driver.device.save())


def test_fresh_device_goes_on_where_the_saved_one_was(disk: Disk) -> None:
    disk.driver.bus.write(Reg.CONFIG + WRITEBACK, 1, 0)
    disk.ask(Type.OUT, 7, [b"before the move".ljust(SECTOR)])
    old, transport = disk.driver.device, disk.driver.bus
    fresh = disk.new_device(InlineExecutor())
    fresh.load(parse(VirtioBlkState, 1, dump(old.save())))
    transport.device = fresh
    fresh.interrupts = transport
    disk.driver.take_interrupt()

    answer = disk.ask(Type.IN, 7, room=[SECTOR])

    assert answer == (BlkStatus.OK, b"before the move".ljust(SECTOR))
    assert disk.driver.take_interrupt() == Interrupt.USED_BUFFER
    assert disk.config("<B", WRITEBACK) == 0
    assert disk.driver.status & Status.DRIVER_OK


def test_bug_in_a_worker_stops_the_machine_not_the_drain(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.image, "readv", lambda *_: 1 / 0, raising=False)
    disk.send(Type.IN, 0, room=[SECTOR])
    disk.driver.kick()

    disk.driver.device.drain()

    with pytest.raises(ZeroDivisionError):
        disk.posts.run()
