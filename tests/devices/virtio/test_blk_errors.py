"""What the host fails: reported, ignored, or kept until the guest goes on, across a move too, and then done exactly once."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devices.virtio.blk import FailedRequest, FailedState, VirtioBlk, VirtioBlkState
from devices.virtio.blkrequest import HEADER, RANGE, SECTOR, BlkStatus, Type
from devices.virtio.device import Status
from devices.virtio.mmio import Interrupt, Reg
from emu.errors import StateError
from emu.ioerror import Action, IoStatus, Operation
from migration.vmstate import dump, parse
from tests.devices.virtio.disk import CONTENT, WAIT, Disk, slow_disk
from tests.devices.virtio.driver import InlineExecutor, Sent

OLD, NEW = b"old".ljust(SECTOR), b"new".ljust(SECTOR)
KINDS = {Type.IN: "readv", Type.OUT: "writev", Type.FLUSH: "flush", Type.DISCARD: "discard", Type.WRITE_ZEROES: "write_zeroes"}


def device(disk: Disk) -> VirtioBlk:
    found = disk.driver.device
    assert isinstance(found, VirtioBlk)
    return found


def send(disk: Disk, kind: Type = Type.OUT, sector: int = 0, data: bytes = NEW) -> Sent:
    payload = {Type.OUT: [data], Type.IN: [], Type.FLUSH: []}.get(kind, [RANGE.pack(sector, 1, 0)])
    sent = disk.send(kind, sector, payload, room=[SECTOR] if kind is Type.IN else [])
    disk.driver.kick()
    return sent


def status(disk: Disk, sent: Sent) -> int:
    return disk.driver.content(sent)[-1]


def moved(disk: Disk) -> Disk:
    """The guest on the other side: the same memory, rings and file, and a device that was given the state."""
    fresh = disk.new_device(InlineExecutor())
    fresh.load(parse(VirtioBlkState, VirtioBlkState.VMSTATE.version, dump(disk.driver.device.save())))
    disk.driver.bus.device = fresh
    disk.driver.device = fresh
    fresh.interrupts = disk.driver.bus
    return disk


def read_sector(path: Path, sector: int = 0) -> bytes:
    return path.read_bytes()[sector * SECTOR : (sector + 1) * SECTOR]


@pytest.mark.parametrize("kind", [Type.OUT, Type.FLUSH, Type.DISCARD, Type.WRITE_ZEROES])
def test_what_the_host_has_no_room_for_waits_and_is_then_done_once(disk: Disk, kind: Type) -> None:
    disk.image.broken = errno.ENOSPC
    sent = send(disk, kind)
    kept = (disk.driver.used(), device(disk).io_status, disk.driver.take_interrupt())
    disk.image.broken = False

    device(disk).retry()
    device(disk).retry()

    assert kept == ([], IoStatus.NOSPACE, 0)
    assert disk.image.calls == [KINDS[kind]] * 2
    assert disk.driver.used() == [(sent.head, 1)]
    assert status(disk, sent) == BlkStatus.OK
    assert disk.driver.take_interrupt() == Interrupt.USED_BUFFER
    assert device(disk).io_status is IoStatus.OK


@pytest.mark.parametrize(
    ("werror", "rerror", "kind", "code", "action"),
    [
        ("enospc", "report", Type.OUT, errno.ENOSPC, Action.STOP),
        ("enospc", "report", Type.OUT, errno.EDQUOT, Action.STOP),
        ("enospc", "report", Type.OUT, errno.EIO, Action.REPORT),
        ("enospc", "report", Type.FLUSH, errno.EIO, Action.REPORT),
        ("enospc", "report", Type.IN, errno.EIO, Action.REPORT),
        ("enospc", "stop", Type.IN, errno.EIO, Action.STOP),
        ("stop", "report", Type.OUT, errno.EIO, Action.STOP),
        ("stop", "report", Type.FLUSH, errno.EIO, Action.STOP),
        ("stop", "report", Type.IN, errno.ENOSPC, Action.REPORT),
        ("report", "report", Type.OUT, errno.ENOSPC, Action.REPORT),
        ("ignore", "report", Type.OUT, errno.ENOSPC, Action.IGNORE),
        ("enospc", "ignore", Type.IN, errno.EIO, Action.IGNORE),
    ],
)
def test_what_is_done_about_an_error_is_the_drives_options(
    path: Path, werror: str, rerror: str, kind: Type, code: int, action: Action
) -> None:
    disk = Disk(path, werror=werror, rerror=rerror).start()
    disk.image.broken = code

    sent = send(disk, kind)

    [told] = disk.told
    assert (told.action, told.operation) == (action, Operation.READ if kind is Type.IN else Operation.WRITE)
    assert told.error.no_space == (code != errno.EIO)
    data = SECTOR if kind is Type.IN else 0
    answers = {
        Action.STOP: [],
        Action.REPORT: [(sent.head, 1, BlkStatus.IOERR)],
        Action.IGNORE: [(sent.head, data + 1, BlkStatus.OK)],
    }
    assert [(*used, status(disk, sent)) for used in disk.driver.used()] == answers[action]


def test_the_event_says_what_qemus_does(path: Path) -> None:
    events = []
    for werror in ("enospc", "report"):
        disk = Disk(path, werror=werror).start()
        disk.image.broken = errno.ENOSPC
        send(disk, Type.FLUSH)
        events.append(disk.told[0].event())
        disk.image.close()

    assert events[0] == {
        "device": "disk0",
        "node-name": "disk0",
        "operation": "write",
        "action": "stop",
        "nospace": True,
        "reason": f"{path}: flush failed",
    }
    assert "nospace" not in events[1]


def test_requests_are_done_again_from_the_oldest_on(path: Path) -> None:
    disk = Disk(path).start()
    queue, wraps = device(disk).state.queues[0], 0xFFFE
    queue.last_avail = queue.used_idx = disk.driver.avail_idx = wraps
    disk.image.broken = errno.ENOSPC
    for number in range(4):
        send(disk, data=bytes([number]) * SECTOR)
    disk.image.broken = False
    requests = device(disk).state.failed.requests
    positions = [request.position for request in requests]
    requests.reverse()  # as workers may come to be done

    device(disk).retry()

    assert positions == [0xFFFE, 0xFFFF, 0, 1]
    assert read_sector(path) == b"\3" * SECTOR
    assert disk.image.calls == ["writev"] * 8


def test_what_fails_again_waits_again(disk: Disk) -> None:
    disk.image.broken = errno.ENOSPC
    sent = send(disk)

    for _ in range(3):
        device(disk).retry()
    waited = disk.driver.used()
    disk.image.broken = False
    device(disk).retry()

    assert waited == []
    assert len(disk.told) == 4
    assert disk.driver.used() == [(sent.head, 1)]


def test_what_waits_moves_with_the_guest_however_often(disk: Disk, path: Path) -> None:
    disk.image.broken = errno.ENOSPC
    write, again = send(disk, sector=3, data=OLD), send(disk, sector=3)
    disk.image.broken = False

    there = moved(moved(disk))
    nothing_yet = (there.image.calls.copy(), read_sector(path, 3))
    waits = device(there).io_status
    device(there).retry()
    after = dump(moved(there).driver.device.save())

    assert nothing_yet == (["writev"] * 2, CONTENT[3 * SECTOR : 4 * SECTOR])
    assert waits is IoStatus.NOSPACE
    assert there.driver.used() == [(write.head, 1), (again.head, 1)]
    assert read_sector(path, 3) == NEW
    assert there.image.calls == ["writev"] * 4
    assert "subsections" not in after


def test_a_state_without_anything_that_failed_has_no_word_of_it(disk: Disk) -> None:
    send(disk)

    assert "subsections" not in dump(disk.driver.device.save())


def test_what_fails_while_the_device_is_drained_is_kept_and_saved(path: Path, pool: ThreadPoolExecutor) -> None:
    disk, slow = slow_disk(path, pool, rerror="stop")
    sent = send(disk, Type.IN, sector=5)
    assert slow.reading.wait(WAIT)
    slow.fails = True
    slow.go_on.set()

    disk.driver.device.drain()
    kept = disk.driver.used()
    slow.fails = False
    there = moved(disk)
    device(there).retry()
    device(there).drain()

    assert kept == []
    assert there.driver.used() == [(sent.head, SECTOR + 1)]
    assert there.driver.content(sent) == CONTENT[5 * SECTOR : 6 * SECTOR] + bytes([BlkStatus.OK])


@pytest.mark.parametrize("how", ["reset", "queue"])
def test_the_driver_gives_up_on_what_waits(disk: Disk, how: str) -> None:
    disk.image.broken = errno.ENOSPC
    send(disk)
    disk.image.broken = False
    if how == "reset":
        disk.start()
    else:
        disk.driver.write(Reg.QUEUE_READY, 0)
        disk.driver.set_queue(256)

    device(disk).retry()

    assert disk.image.calls == ["writev"]
    assert device(disk).io_status is IoStatus.OK
    assert disk.driver.used() == []
    dump(disk.driver.device.save())


def test_a_broken_device_forgets_what_waits(disk: Disk) -> None:
    disk.image.broken = errno.ENOSPC
    send(disk)
    disk.image.broken = False
    disk.driver.add([HEADER.pack(Type.FLUSH, 0, 0)], [])
    disk.driver.kick()

    device(disk).retry()

    assert disk.driver.needs_reset
    assert disk.image.calls == ["writev"]
    assert device(moved(disk)).io_status is IoStatus.OK


def test_in_order_what_comes_behind_an_error_waits_with_it(path: Path) -> None:
    disk = Disk(path, in_order=True).start()
    disk.image.broken = errno.ENOSPC
    write = disk.send(Type.OUT, 1, [NEW])
    read = disk.send(Type.IN, 1, room=[SECTOR])
    disk.driver.kick()
    disk.driver.kick()
    waited = (disk.image.calls.copy(), disk.driver.used())
    disk.image.broken = False

    device(moved(disk)).retry()

    assert waited == (["writev"], [])
    assert disk.driver.used() == [(write.head, 1), (read.head, SECTOR + 1)]
    assert disk.driver.content(read) == NEW + bytes([BlkStatus.OK])
    assert disk.driver.line.raised == 1


def test_in_order_an_error_that_is_reported_holds_nothing_up(path: Path) -> None:
    disk = Disk(path, in_order=True, werror="report").start()
    disk.image.broken = errno.ENOSPC
    sent = [disk.send(Type.OUT, 1, [NEW]) for _ in range(3)]
    disk.driver.kick()

    assert disk.driver.used() == [(request.head, 1) for request in sent]


def test_a_file_that_lost_its_end_fails_what_reads_there(path: Path) -> None:
    disk = Disk(path, rerror="stop").start()
    with path.open("r+b") as file:
        file.truncate(10 * SECTOR)
    sent = [send(disk, Type.IN, sector) for sector in (9, 10)]
    before = disk.driver.used()
    path.write_bytes(CONTENT)

    device(disk).retry()

    assert before == [(sent[0].head, SECTOR + 1)]
    assert disk.driver.used() == [(sent[1].head, SECTOR + 1)]
    assert disk.driver.content(sent[1])[:-1] == CONTENT[10 * SECTOR : 11 * SECTOR]


def test_what_a_failed_read_left_in_memory_is_told(path: Path) -> None:
    disk = Disk(path, rerror="stop").start()
    disk.image.broken = errno.EIO

    sent = send(disk, Type.IN)

    assert disk.memory.told == sent.writable


def test_a_chain_of_a_stream_that_is_none_asks_for_a_reset(disk: Disk) -> None:
    disk.image.broken = errno.ENOSPC
    send(disk)
    disk.image.broken = False
    device(disk).state.failed.requests[0].head = 0xFFFF

    device(moved(disk)).retry()

    assert disk.driver.needs_reset
    assert disk.image.calls == ["writev"]


def test_a_state_whose_failed_requests_are_not_those_in_flight_is_refused(disk: Disk) -> None:
    state = device(disk).state
    state.failed = FailedState(requests=[FailedRequest()])
    with pytest.raises(StateError, match=r"virtio-blk\.queues\[0\] has 0 chains in flight, must have 1"):
        dump(state)

    state.queues[0].last_avail = 1
    state.status &= ~Status.DRIVER_OK
    with pytest.raises(StateError, match=r"virtio-blk\.failed has 1 requests, of a queue that is not in use"):
        dump(state)
