"""A session against a real directory: version, attach, flush, walk, and how much one client may hold."""

from __future__ import annotations

import errno
from pathlib import Path

from devices.p9 import wire
from devices.p9.fids import Fids
from devices.p9.wire import QidType, Type
from tests.devices.p9.client import REASON, ROOT, Client, fields, refused
from tests.devices.p9.conftest import NewClient

# version, attach, flush


def test_version_is_agreed_upon(client: Client) -> None:
    assert client.version(8192) == (8192, b"9P2000.L")
    assert client.version(1 << 30) == (1 << 20, b"9P2000.L")
    assert client.version(8192, b"9P2000.u") == (8192, b"unknown")


def test_nothing_works_before_a_version(client: Client) -> None:
    client.version(8192, b"9P1999")
    refused(errno.EPROTO, lambda: client.attach(1))


def test_a_new_version_ends_the_session(client: Client) -> None:
    client.version()
    refused(errno.EBADF, lambda: client.walk())
    assert client.blockers.reasons() == []


def test_attach_gives_the_root(client: Client, share: Path) -> None:
    found = client.attach(5)
    assert (found.type, found.path) == (QidType.DIR, share.stat().st_ino)
    refused(errno.EBADF, lambda: client.attach(5))


def test_flush_is_answered(client: Client) -> None:
    client.flush(3)


def test_a_mounted_share_blocks_until_its_last_fid_goes(client: Client) -> None:
    assert client.blockers.reasons() == [REASON]
    other = client.walk()
    client.clunk(ROOT)
    assert client.blockers.reasons() == [REASON]
    client.clunk(other)
    assert client.blockers.reasons() == []


def test_a_share_cannot_be_mounted_while_the_guest_is_moved(client: Client) -> None:
    client.version()
    client.blockers._moving = lambda: True
    refused(errno.EBUSY, lambda: client.attach(ROOT))
    refused(errno.EBADF, lambda: client.walk())


def test_authentication_is_not_needed(client: Client) -> None:
    body = fields("I", 5) + wire.string(b"root") + wire.string(b"/") + wire.u32(0)
    refused(errno.ENOENT, lambda: client.ask(Type.AUTH, body))


def test_old_messages_are_not_supported(client: Client) -> None:
    for kind in (112, 114, 124, 126, 6, 7, 255):
        refused(errno.EOPNOTSUPP, lambda kind=kind: client.ask(kind, b""))  # type: ignore[misc]


# walk


def test_walk_goes_down_and_up(client: Client, share: Path) -> None:
    (share / "a/b").mkdir(parents=True)
    found = client.try_walk(ROOT, 9, b"a", b"b", b"..", b"..", b"..", b"a")
    inodes = [path.stat().st_ino for path in (share / "a", share / "a/b", share / "a", share, share, share / "a")]
    assert [qid.path for qid in found] == inodes
    assert client.getattr(9).qid.path == inodes[-1]


def test_walk_that_ends_early_makes_no_fid(client: Client, share: Path) -> None:
    (share / "a").mkdir()
    assert len(client.try_walk(ROOT, 9, b"a", b"none", b"x")) == 1
    refused(errno.EBADF, lambda: client.getattr(9))
    refused(errno.ENOENT, lambda: client.try_walk(ROOT, 9, b"none"))


def test_walk_in_place(client: Client, share: Path) -> None:
    (share / "a").mkdir()
    fid = client.walk()
    client.try_walk(fid, fid, b"a")
    assert client.getattr(fid).qid.path == (share / "a").stat().st_ino


def test_walk_of_too_many_names_is_refused(client: Client) -> None:
    refused(errno.EINVAL, lambda: client.try_walk(ROOT, 9, *[b".."] * 17))


def test_very_deep_paths_can_be_reached(client: Client) -> None:
    fid, name = ROOT, b"d" * 200
    for _depth in range(40):  # twice what one system call takes
        client.mkdir(name, fid=fid)
        fid = client.walk(name, fid=fid)
    client.lcreate(fid, b"file")
    client.write(fid, 0, b"deep")
    assert client.read(fid) == b"deep"


def test_too_deep_paths_are_refused(client: Client) -> None:
    def down() -> None:
        fid = ROOT
        for _depth in range(200):
            client.mkdir(b"d" * 255, fid=fid)
            fid = client.walk(b"d" * 255, fid=fid)

    refused(errno.ENAMETOOLONG, down)


# limits


def test_fids_are_limited(connect: NewClient) -> None:
    client = connect(fids=Fids(fids_max=10))
    last = [client.walk() for _ in range(9)][-1]
    refused(errno.ENFILE, client.walk)
    client.clunk(last)
    client.walk()


def test_open_files_and_attributes_are_limited(connect: NewClient) -> None:
    client = connect(fids=Fids(open_max=3))
    file = client.create(b"file")
    client.open(b"file")
    client.xattrwalk(file, 50, b"")
    refused(errno.ENFILE, lambda: client.open(b"file"))
    refused(errno.ENFILE, lambda: client.lcreate(client.walk(), b"other"))
    refused(errno.ENFILE, lambda: client.xattrwalk(file, 51, b""))
    refused(errno.ENFILE, lambda: client.xattrcreate(client.walk(b"file"), b"user.x", 1))
    client.clunk(50)
    client.open(b"file")


def test_no_descriptor_is_left(client: Client, share: Path) -> None:
    (share / "dir").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    client.clunk(client.create(b"file"))
    client.names(b"dir")
    client.stat(b"dir")
    refused(errno.ENOENT, lambda: client.walk(b"none"))
    client.open(b"file")
    client.version()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_replies_that_do_not_fit_are_refused(client: Client) -> None:
    refused(errno.EMSGSIZE, lambda: client.ask(Type.GETATTR, fields("IQ", ROOT, 0), room=100))
    assert wire.error(7, errno.EMSGSIZE) == client.send(Type.GETATTR, fields("IQ", ROOT, 0), room=0)
