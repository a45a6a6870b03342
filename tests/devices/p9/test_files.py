"""Files and their attributes: what a message does to a real directory's, and what the guest is told."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from devices.p9.wire import QidType, Valid
from tests.devices.p9.client import MSIZE, ROOT, Client, refused

REPLACE = 2


# files


def test_create_write_read(client: Client, share: Path) -> None:
    fid = client.create(b"file", b"hello", mode=0o640)
    assert client.write(fid, 3, b"p me") == 4
    assert (client.read(fid), client.read(fid, 3, 2), client.read(fid, 100)) == (b"help me", b"p ", b"")
    assert (share / "file").read_bytes() == b"help me"
    assert stat.S_IMODE((share / "file").stat().st_mode) == 0o640


def test_open_tells_the_qid_and_how_much_goes_at_once(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"x")
    qid, unit = client.lopen(client.walk(b"file"))
    assert (qid.type, qid.path, unit) == (QidType.FILE, (share / "file").stat().st_ino, MSIZE - 24)


def test_create_exclusively_and_over(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"there")
    refused(errno.EEXIST, lambda: client.lcreate(client.walk(), b"file", os.O_RDWR | os.O_CREAT | os.O_EXCL))
    fid = client.walk()
    client.lcreate(fid, b"file", os.O_RDWR | os.O_CREAT)
    assert client.read(fid) == b"there"


def test_open_truncates(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"there")
    client.open(b"file", flags=os.O_WRONLY | os.O_TRUNC)
    assert (share / "file").read_bytes() == b""


def test_an_unlinked_file_goes_on(client: Client, share: Path) -> None:
    fid = client.create(b"file", b"hello")
    client.unlinkat(b"file")
    client.setattr(fid, Valid.SIZE, size=4)
    assert client.read(fid) == b"hell"
    assert (client.getattr(fid).links, client.getattr(fid).size) == (0, 4)
    assert list(share.iterdir()) == []


def test_fids_that_are_not_open_or_not_there(client: Client, share: Path) -> None:
    (share / "file").touch()
    fid = client.walk(b"file")
    for action in (
        lambda: client.read(fid),
        lambda: client.write(fid, 0, b"x"),
        lambda: client.fsync(fid),
        lambda: client.readdir(fid),
        lambda: client.clunk(999),
    ):
        refused(errno.EBADF, action)
    client.lopen(fid)
    refused(errno.EBUSY, lambda: client.lopen(fid))
    refused(errno.EBADF, lambda: client.write(fid, 0, b"x"))
    refused(errno.ENOTDIR, lambda: client.readdir(fid))


def test_offsets_beyond_the_hosts_are_refused(client: Client) -> None:
    fid = client.create(b"file")
    for offset in (1 << 63, (1 << 64) - 1):
        refused(errno.EINVAL, lambda offset=offset: client.read(fid, offset))  # type: ignore[misc]
        refused(errno.EINVAL, lambda offset=offset: client.write(fid, offset, b"x"))  # type: ignore[misc]
        refused(errno.EINVAL, lambda offset=offset: client.setattr(fid, Valid.SIZE, size=offset))  # type: ignore[misc]


def test_fsync(client: Client) -> None:
    fid = client.create(b"file", b"x")
    client.fsync(fid)
    client.fsync(fid, data_only=1)


def test_locks_are_granted(client: Client) -> None:
    fid = client.create(b"file")
    assert (client.lock(fid, 1), client.getlock(fid, 1)) == (0, 2)
    refused(errno.EBADF, lambda: client.lock(99, 1))


# attributes


def test_getattr_tells_what_the_host_knows(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"12345")
    found, host = client.stat(b"file"), (share / "file").stat()
    assert found.valid == 0x7FF
    assert (found.mode, found.uid, found.gid, found.links) == (host.st_mode, host.st_uid, host.st_gid, 1)
    assert (found.size, found.blocks, found.block_size) == (5, host.st_blocks, host.st_blksize)
    assert found.mtime == divmod(host.st_mtime_ns, 10**9)


def test_qids_are_stable_and_tell_of_changes(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"1")
    before = client.stat(b"file").qid
    client.renameat(b"file", b"other")
    assert client.stat(b"other").qid == before
    (share / "other").write_bytes(b"12")
    after = client.stat(b"other").qid
    assert after.path == before.path
    assert after.version != before.version


def test_setattr_changes_mode_size_and_times(client: Client, share: Path) -> None:
    fid = client.create(b"file", b"12345")
    client.setattr(fid, Valid.MODE, mode=0o4751)
    client.setattr(fid, Valid.SIZE, size=3)
    client.setattr(
        fid, Valid.ATIME | Valid.MTIME | Valid.ATIME_SET | Valid.MTIME_SET, atime=(5, 6), mtime=((1 << 64) - 7, 999_999_999)
    )
    host = (share / "file").stat()
    assert (stat.S_IMODE(host.st_mode), host.st_size) == (0o4751, 3)
    assert (host.st_atime_ns, host.st_mtime_ns) == (5 * 10**9 + 6, -7 * 10**9 + 999_999_999)
    assert client.getattr(fid).mtime == ((1 << 64) - 7, 999_999_999)


def test_setattr_of_one_time_leaves_the_other(client: Client, share: Path) -> None:
    fid = client.create(b"file")
    client.setattr(fid, Valid.MTIME | Valid.MTIME_SET, mtime=(7, 0))
    client.setattr(fid, Valid.ATIME)
    host = (share / "file").stat()
    assert host.st_mtime_ns == 7 * 10**9
    assert abs(host.st_atime - time.time()) < 60
    client.setattr(fid, Valid.ATIME | Valid.MTIME)
    assert abs((share / "file").stat().st_mtime - time.time()) < 60


def test_setattr_refuses_what_makes_no_sense(client: Client) -> None:
    client.mkdir(b"dir")
    directory, file = client.walk(b"dir"), client.create(b"file")
    refused(errno.EINVAL, lambda: client.setattr(directory, Valid.SIZE, size=3))
    refused(errno.EINVAL, lambda: client.setattr(file, Valid.MTIME | Valid.MTIME_SET, mtime=(1, 10**9)))


def test_statfs_tells_the_hosts_space(client: Client, share: Path) -> None:
    kind, size, blocks, *_rest, longest = client.statfs(ROOT)
    host = os.statvfs(share)
    assert (kind, size, blocks, longest) == (0x01021997, host.f_bsize, host.f_blocks, 255)


# extended attributes


def test_extended_attributes(client: Client, share: Path) -> None:
    file = client.create(b"file")
    client.setxattr(file, b"user.one", b"1" * 2000)
    client.setxattr(file, b"user.empty", b"")
    assert os.getxattr(share / "file", "user.one") == b"1" * 2000
    assert client.getxattr(file, b"user.one") == b"1" * 2000
    assert sorted(client.getxattr(file, b"").split(b"\0")) == [b"", b"user.empty", b"user.one"]
    client.setxattr(file, b"user.one", b"", REPLACE)
    refused(errno.ENODATA, lambda: client.getxattr(file, b"user.one"))
    refused(errno.ENODATA, lambda: client.setxattr(file, b"user.none", b"x", REPLACE))


def test_an_attribute_is_written_whole_and_in_order(client: Client) -> None:
    client.create(b"file")
    fid = client.walk(b"file")
    client.xattrcreate(fid, b"user.one", 4)
    refused(errno.EINVAL, lambda: client.write(fid, 1, b"x"))
    refused(errno.EINVAL, lambda: client.write(fid, 0, b"12345"))
    client.write(fid, 0, b"12")
    refused(errno.EINVAL, lambda: client.getattr(fid))
    refused(errno.EINVAL, lambda: client.clunk(fid))
    refused(errno.ENODATA, lambda: client.getxattr(client.walk(b"file"), b"user.one"))


def test_attributes_of_other_namespaces_are_the_hosts(client: Client) -> None:
    file = client.create(b"file")
    for name in (b"trusted.x", b"security.capability", b"system.posix_acl_access", b"user.virtfs.mode", b"x", b"user.a\0b"):
        refused(errno.EOPNOTSUPP, lambda name=name: client.getxattr(file, name))  # type: ignore[misc]
        refused(errno.EOPNOTSUPP, lambda name=name: client.setxattr(file, name, b"x"))  # type: ignore[misc]
    refused(errno.E2BIG, lambda: client.xattrcreate(client.walk(b"file"), b"user.x", (64 << 10) + 1))


@pytest.mark.parametrize("mask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o666, 0o4755, 0o400])
def test_a_new_files_mode_is_the_guests_whatever_the_hosts_mask(client: Client, share: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        client.create(b"file", mode=mode)
        client.mkdir(b"dir", mode=mode)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((share / name).stat().st_mode) for name in ("file", "dir")] == [mode, mode]
