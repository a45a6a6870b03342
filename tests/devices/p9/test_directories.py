"""Names in a real directory: listed, made, taken away, linked and renamed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from devices.p9.wire import QidType, Valid
from tests.devices.p9.client import Client, refused

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
