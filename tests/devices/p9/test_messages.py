"""Every message against a real directory: what it does there, and what the guest is told."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devices.p9 import wire
from devices.p9.fids import Fids
from devices.p9.wire import QidType, Type, Valid
from tests.devices.p9.client import MSIZE, REASON, ROOT, Client, fields
from tests.devices.p9.conftest import NewClient

REPLACE = 2


def refused(code: int, action: Callable[[], object]) -> None:
    with pytest.raises(OSError, match="the server told") as caught:
        action()
    assert caught.value.errno == code, errno.errorcode.get(caught.value.errno or 0)


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


# directories


def test_readdir_in_parts_gives_every_name_once(client: Client, share: Path) -> None:
    expected = sorted([b".", b"..", *(b"name-%03d" % number for number in range(300))])
    for name in expected[2:]:
        (share / os.fsdecode(name)).touch()
    assert client.names() == expected
    assert client.names(count=64) == expected


def test_readdir_tells_types_and_inodes(client: Client, share: Path) -> None:
    (share / "dir").mkdir()
    (share / "link").symlink_to("dir")
    fid = client.open(flags=os.O_DIRECTORY)
    found = {name: (kind, qid.type, qid.path) for name, kind, _offset, qid in client.readdir(fid)}
    assert found[b"dir"] == (4, QidType.DIR, (share / "dir").stat().st_ino)
    assert found[b"link"] == (10, QidType.SYMLINK, (share / "link").lstat().st_ino)


def test_readdir_of_an_entry_without_room_is_refused(client: Client, share: Path) -> None:
    (share / ("n" * 200)).touch()
    fid = client.open(flags=os.O_DIRECTORY)
    refused(errno.EINVAL, lambda: client.readdir(fid, count=10))
    refused(errno.EINVAL, lambda: client.readdir(fid, (1 << 64) - 1))


def test_mkdir_and_unlinkat(client: Client, share: Path) -> None:
    found = client.mkdir(b"dir", 0o2751)
    assert (found.type, found.path) == (QidType.DIR, (share / "dir").stat().st_ino)
    assert stat.S_IMODE((share / "dir").stat().st_mode) == 0o2751
    refused(errno.EEXIST, lambda: client.mkdir(b"dir"))
    refused(errno.EISDIR, lambda: client.unlinkat(b"dir"))
    client.unlinkat(b"dir", 0x200)
    assert not (share / "dir").exists()
    refused(errno.ENOENT, lambda: client.unlinkat(b"dir"))


def test_remove_takes_the_fid_even_when_it_fails(client: Client, share: Path) -> None:
    (share / "dir/sub").mkdir(parents=True)
    fid = client.walk(b"dir")
    refused(errno.ENOTEMPTY, lambda: client.remove(fid))
    refused(errno.EBADF, lambda: client.getattr(fid))
    client.remove(client.walk(b"dir", b"sub"))
    client.remove(client.create(b"file"))
    assert list(share.rglob("*")) == [share / "dir"]


def test_the_share_itself_stays(client: Client, share: Path) -> None:
    refused(errno.EBUSY, lambda: client.rename(client.walk(), b"x"))
    refused(errno.EBUSY, lambda: client.remove(client.walk()))
    assert share.is_dir()


# links and renames


def test_links(client: Client, share: Path) -> None:
    file = client.create(b"file", b"x")
    client.link(file, b"hard")
    assert client.symlink(b"soft", b"some/where").type == QidType.SYMLINK
    assert (share / "hard").stat().st_ino == (share / "file").stat().st_ino
    assert client.readlink(b"soft") == b"some/where"
    refused(errno.EEXIST, lambda: client.link(file, b"hard"))
    refused(errno.EINVAL, lambda: client.readlink(b"file"))


def test_a_symbolic_link_can_be_linked_and_has_times(client: Client, share: Path) -> None:
    client.symlink(b"soft", b"file")
    fid = client.walk(b"soft")
    client.link(fid, b"hard")
    client.setattr(fid, Valid.MTIME | Valid.MTIME_SET, mtime=(5, 0))
    assert (share / "hard").readlink() == Path("file")
    assert (share / "soft").lstat().st_mtime == 5


def test_fids_below_a_renamed_directory_follow(client: Client, share: Path) -> None:
    (share / "a/b").mkdir(parents=True)
    (share / "a/b/file").write_bytes(b"x")
    (share / "ab").mkdir()
    file, beside = client.walk(b"a", b"b", b"file"), client.walk(b"ab")
    client.renameat(b"a", b"z")
    client.rename(client.walk(b"z", b"b"), b"c", client.walk(b"ab"))
    client.lopen(file)
    assert client.read(file) == b"x"
    assert client.getattr(beside).qid.path == (share / "ab").stat().st_ino
    assert (share / "ab/c/file").exists()


def test_rename_replaces_as_on_the_host(client: Client, share: Path) -> None:
    client.create(b"a", b"new")
    client.create(b"b", b"old")
    client.mkdir(b"dir")
    client.renameat(b"a", b"b")
    assert (share / "b").read_bytes() == b"new"
    refused(errno.EISDIR, lambda: client.renameat(b"b", b"dir"))
    refused(errno.EINVAL, lambda: client.renameat(b"dir", b"sub", new_directory=client.walk(b"dir")))


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


# the security models, read-only shares, limits


def test_none_makes_pipes_and_sockets_but_no_devices(client: Client, share: Path) -> None:
    client.mknod(b"pipe", stat.S_IFIFO | 0o640)
    client.mknod(b"socket", stat.S_IFSOCK | 0o600)
    client.mknod(b"file", 0o600)
    assert stat.filemode((share / "pipe").stat().st_mode) == "prw-r-----"
    assert (share / "socket").is_socket()
    assert (share / "file").is_file()
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        refused(errno.EPERM, lambda kind=kind: client.mknod(b"device", kind | 0o666, 1, 3))  # type: ignore[misc]
    refused(errno.EINVAL, lambda: client.mknod(b"dir", stat.S_IFDIR | 0o755))


def test_mapped_keeps_owner_mode_and_devices_in_qemus_attributes(connect: NewClient, share: Path) -> None:
    client = connect(mapped=True)
    client.attach(1, uid=1000)
    client.lcreate(client.walk(fid=1), b"file", mode=0o4755, gid=100)
    client.mknod(b"device", stat.S_IFCHR | 0o666, 1, 3)
    host = (share / "file").stat()
    assert (stat.S_IMODE(host.st_mode), host.st_uid) == (0o600, os.getuid())
    attributes = {name: os.getxattr(share / "file", f"user.virtfs.{name}") for name in ("uid", "gid", "mode")}
    assert attributes == {"uid": fields("I", 1000), "gid": fields("I", 100), "mode": fields("I", stat.S_IFREG | 0o4755)}
    assert os.getxattr(share / "device", "user.virtfs.rdev") == fields("Q", os.makedev(1, 3))
    found = client.stat(b"file")
    assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o4755, 1000, 100)
    assert (client.stat(b"device").mode, client.stat(b"device").rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (share / "device").is_file()
    refused(errno.ENXIO, lambda: client.lopen(client.walk(b"device")))


def test_mapped_changes_and_links_stay_with_the_guest(connect: NewClient, share: Path) -> None:
    client = connect(mapped=True)
    file = client.create(b"file")
    client.setattr(file, Valid.MODE | Valid.UID | Valid.GID, mode=0o751, uid=5, gid=6)
    assert (client.getattr(file).mode, client.getattr(file).uid) == (stat.S_IFREG | 0o751, 5)
    assert stat.S_IMODE((share / "file").stat().st_mode) == 0o600
    assert client.symlink(b"soft", b"/etc/passwd").type == QidType.SYMLINK
    assert (share / "soft").read_bytes() == b"/etc/passwd"
    assert client.readlink(b"soft") == b"/etc/passwd"
    assert client.mkdir(b"dir", 0o1777).type == QidType.DIR
    assert client.stat(b"dir").mode == stat.S_IFDIR | 0o1777
    assert client.getxattr(file, b"") == b""


def test_mapped_shows_what_is_there_already_as_it_is(connect: NewClient, share: Path) -> None:
    (share / "file").touch(0o644)
    (share / "link").symlink_to("file")
    os.setxattr(share / "file", "user.virtfs.uid", b"odd")
    client = connect(mapped=True)
    assert client.stat(b"file").uid == os.getuid()
    assert client.stat(b"link").mode == (share / "link").lstat().st_mode
    assert client.readlink(b"link") == b"file"


def test_a_read_only_share_is_only_read(connect: NewClient, share: Path) -> None:
    (share / "file").write_bytes(b"x")
    client = connect(readonly=True)
    file = client.walk(b"file")
    for action in (
        lambda: client.lopen(file, os.O_RDWR),
        lambda: client.lopen(file, os.O_TRUNC),
        lambda: client.lcreate(client.walk(), b"new"),
        lambda: client.lcreate(client.walk(), b"file", os.O_RDONLY),
        lambda: client.mkdir(b"new"),
        lambda: client.symlink(b"new", b"x"),
        lambda: client.mknod(b"new", 0o600),
        lambda: client.link(file, b"new"),
        lambda: client.renameat(b"file", b"new"),
        lambda: client.rename(file, b"new"),
        lambda: client.unlinkat(b"file"),
        lambda: client.remove(client.walk(b"file")),
        lambda: client.setattr(file, Valid.MODE, mode=0o777),
        lambda: client.setattr(file, Valid.SIZE, size=0),
        lambda: client.setattr(file, Valid.ATIME),
        lambda: client.setxattr(file, b"user.x", b"x"),
    ):
        refused(errno.EROFS, action)
    client.lopen(file)
    assert client.read(file) == b"x"
    refused(errno.EBADF, lambda: client.write(file, 0, b"y"))


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


def test_a_file_whose_owner_cannot_be_is_the_hosts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "as in a user namespace without this user")

    monkeypatch.setattr(os, "chown", refuse)
    client.create(b"file")
    client.symlink(b"soft", b"x")
    assert (client.stat(b"file").uid, client.stat(b"soft").uid) == (os.getuid(), os.getuid())


def test_replies_that_do_not_fit_are_refused(client: Client) -> None:
    refused(errno.EMSGSIZE, lambda: client.ask(Type.GETATTR, fields("IQ", ROOT, 0), room=100))
    assert wire.error(7, errno.EMSGSIZE) == client.send(Type.GETATTR, fields("IQ", ROOT, 0), room=0)
