"""The 9P device: messages through its rings, sessions that end, and what keeps a guest from moving."""

from __future__ import annotations

import errno
import resource
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devices.p9 import wire
from devices.p9.saved import FidsState, FidState
from devices.p9.wire import Type
from devices.virtio.mmio import Interrupt, Reg
from devices.virtio.p9 import MOUNT_TAG, VirtioP9State
from emu.errors import MigrationError, StateError
from migration.vmstate import dump, parse
from tests.devices.virtio.driver import InlineExecutor
from tests.devices.virtio.share import FILE, MSIZE, REASON, Begin, Share


@pytest.fixture
def share(begin: Begin) -> Share:
    return begin(InlineExecutor())


def test_configuration_space_holds_the_tag(share: Share) -> None:
    assert share.driver.offered() & MOUNT_TAG
    assert share.driver.bus.read(Reg.CONFIG, 2) == 5
    assert bytes(share.driver.bus.read(Reg.CONFIG + 2 + index, 1) for index in range(5)) == b"host0"


def test_data_is_read_into_pieces_of_any_size(share: Share) -> None:
    share.mount()
    share.open_file()
    reply = share.ask(Type.READ, struct.pack("<IQI", 1, 10, 3000), room=(3, 9, 1, 2000, 2000))
    assert reply == wire.message(Type.READ + 1, 1, wire.u32(3000), 3000) + FILE[10:3010]
    assert share.driver.take_interrupt() == Interrupt.USED_BUFFER


def test_data_is_written_from_pieces_of_any_size(share: Share, root: Path) -> None:
    share.mount()
    share.open_file()
    message = wire.message(Type.WRITE, 1, struct.pack("<IQI", 1, 5, 600), 600)
    sent = share.driver.add([message[:9], message[9:] + b"a" * 100, b"b" * 500], [11])
    share.driver.kick()
    share.posts.run()
    assert share.driver.content(sent) == wire.message(Type.WRITE + 1, 1, wire.u32(600))
    assert (root / "file").read_bytes() == FILE[:5] + b"a" * 100 + b"b" * 500 + FILE[605:]


def test_a_read_is_cut_to_its_room(share: Share) -> None:
    share.mount()
    share.open_file()
    assert share.ask(Type.READ, struct.pack("<IQI", 1, 0, 3000), room=(11, 50)).endswith(FILE[:50])
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


def test_a_reset_unmounts(share: Share) -> None:
    share.mount()
    assert share.blockers.reasons() == [REASON]
    share.driver.start()
    assert share.blockers.reasons() == []
    assert share.ask(Type.CLUNK, wire.u32(0)) == wire.error(1, errno.EPROTO)


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


# Shares that move with their guest


@pytest.fixture
def moving(begin: Begin) -> Share:
    """A migratable share, mounted."""
    share = begin(InlineExecutor(), migratable=True)
    share.mount()
    return share


def test_a_mounted_migratable_share_is_no_obstacle_and_its_files_go_on(moving: Share) -> None:
    moving.open_file()
    assert moving.blockers.reasons() == []

    moving.move()

    assert moving.ask(Type.READ, struct.pack("<IQI", 1, 10, 100)).endswith(FILE[10:110])


def test_requests_under_way_are_carried_out_once_and_answered_before_the_state_is_saved(begin: Begin, root: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        share = begin(pool, migratable=True)
        share.mount()
        names = [b"d%d" % number for number in range(20)]
        sent = [
            share.send(Type.MKDIR, wire.u32(0) + wire.string(name) + struct.pack("<II", 0o755, 0), room=(100,))
            for name in names
        ]
        share.driver.kick()

        share.driver.device.drain()
        share.move()
        share.driver.kick()

        assert [head for head, _length in share.driver.used()] == [chain.head for chain in sent]
        assert {share.driver.content(chain)[4] for chain in sent} == {Type.MKDIR + 1}
        assert {path.name.encode() for path in root.iterdir() if path.is_dir()} == set(names)


def test_a_deleted_file_that_is_open_is_told_in_a_sentence(moving: Share, root: Path) -> None:
    moving.open_file()
    (root / "file").unlink()
    told = "Share 'host0' has files open that were deleted or replaced: 'file'; close them in the guest."
    assert moving.blockers.reasons() == [told]
    moving.ask(Type.CLUNK, wire.u32(1))
    assert moving.blockers.reasons() == []


def test_a_device_that_refuses_a_guest_is_as_it_was(moving: Share, root: Path) -> None:
    moving.open_file()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    (root / "file").rename(root / "old")

    with pytest.raises(MigrationError, match=r"^share 'host0' has other files than the guest knows: 'file' \(gone\)$"):
        moving.move()

    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert moving.ask(Type.READ, struct.pack("<IQI", 1, 10, 100)).endswith(FILE[10:110])


def test_a_file_that_is_gone_is_stale_where_that_is_allowed(moving: Share, root: Path) -> None:
    moving.open_file()
    (root / "file").rename(root / "old")
    moving.move(keep_stale=True)
    assert moving.ask(Type.READ, struct.pack("<IQI", 1, 10, 100)) == wire.error(1, errno.ESTALE)


@pytest.mark.parametrize("keep_stale", [False, True])
def test_a_host_that_can_open_no_more_files_loses_none(moving: Share, *, keep_stale: bool) -> None:
    for fid in range(1, 301):
        moving.open_file(fid)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 40, hard))
    try:
        with pytest.raises(MigrationError, match=r"^share 'host0' cannot be looked through: Too many open files$"):
            moving.move(keep_stale=keep_stale)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert moving.ask(Type.READ, struct.pack("<IQI", 1, 10, 100)).endswith(FILE[10:110])


def test_a_mounted_guest_does_not_come_to_a_share_that_cannot_move_on(moving: Share) -> None:
    with pytest.raises(MigrationError, match=r"^share 'host0' is mounted in the guest that comes, it must be migratable$"):
        moving.move(migratable=False)


def test_a_reset_ends_a_session_that_moved(moving: Share) -> None:
    moving.open_file()
    moving.move()
    before = len(list(Path("/proc/self/fd").iterdir()))
    moving.driver.start()
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
    assert moving.ask(Type.CLUNK, wire.u32(0)) == wire.error(1, errno.EPROTO)


def test_fids_without_a_session_are_refused() -> None:
    state = VirtioP9State(msize=MSIZE, session=FidsState(fids=[FidState()]))
    with pytest.raises(StateError, match=r"virtio-9p\.session has 1 fids, must have none with virtio-9p\.msize 0"):
        parse(VirtioP9State, 1, {**dump(state), "msize": 0})


def test_a_message_length_that_no_session_has_is_refused() -> None:
    state = {**dump(VirtioP9State()), "msize": 100}
    with pytest.raises(StateError, match=r"virtio-9p\.msize is 100, must be 0 or at least 4096"):
        parse(VirtioP9State, 1, state)
