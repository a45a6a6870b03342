"""The security models against a real directory, whose owners and modes they keep, and a share that is only read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from devices.p9.wire import QidType, Valid
from tests.devices.p9.client import Client, fields, refused
from tests.devices.p9.conftest import NewClient


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


def test_a_file_whose_owner_cannot_be_is_the_hosts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "as in a user namespace without this user")

    monkeypatch.setattr(os, "chown", refuse)
    client.create(b"file")
    client.symlink(b"soft", b"x")
    assert (client.stat(b"file").uid, client.stat(b"soft").uid) == (os.getuid(), os.getuid())
