"""Ways out of the share: none may lead anywhere, by either way of finding files, and nothing outside may change."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.p9 import beneath
from devices.p9.beneath import Resolve, best, by_names
from devices.p9.hostfs import HostFs
from devices.p9.wire import Type, Valid
from emu.errors import ConfigError
from tests.devices.p9.client import ROOT, Client, fields, refused
from tests.devices.p9.conftest import NewClient, witness

EVERY_TIME = Valid.ATIME | Valid.MTIME | Valid.ATIME_SET | Valid.MTIME_SET

Try = Callable[[Client], object]


@pytest.fixture
def client(connect: NewClient, share: Path, resolve: Resolve) -> Iterator[Client]:
    """A client of a share full of traps; afterwards, what is around it is as it was."""
    outside = share.parent / "outside"
    (share / "dir").mkdir()
    (share / "file").write_bytes(b"file")
    for name, target in (
        ("absolute", outside / "secret"),
        ("relative", Path("../outside/secret")),
        ("up", Path("..")),
        ("folder", outside),
        ("missing", outside / "new"),
        ("chain", Path("absolute")),
        ("root", Path("/")),
        ("magic", Path("/proc/self/root")),
        ("cwd", Path("/proc/self/cwd")),
    ):
        (share / name).symlink_to(target)
    (share / "dir/up").symlink_to("../../outside")
    before = witness(share.parent, share)
    yield connect(resolve=resolve)
    assert witness(share.parent, share) == before


def take(client: Client, *names: bytes) -> bytes:
    """Open and read."""
    return client.read(client.open(*names))


# A name that is no plain name, in each field that takes one.

NAMES = {
    "dotdot": b"..",
    "dot": b".",
    "empty": b"",
    "slash": b"/",
    "beside": b"../outside/secret",
    "down-and-up": b"dir/../../outside/secret",
    "inside": b"dir/x",
    "absolute": b"/etc/passwd",
    "nul": b"\0",
    "cut-by-nul": b"..\0x",
    "nul-behind": b"file\0",
    "too-long": b"x" * 256,
    "very-long": b"x" * 60000,
}

FIELDS: dict[str, Callable[[Client, bytes], object]] = {
    "lcreate": lambda client, name: client.lcreate(client.walk(), name),
    "mkdir": lambda client, name: client.mkdir(name),
    "symlink": lambda client, name: client.symlink(name, b"x"),
    "mknod": lambda client, name: client.mknod(name, stat.S_IFREG | 0o600),
    "link": lambda client, name: client.link(client.walk(b"file"), name),
    "rename": lambda client, name: client.rename(client.walk(b"file"), name),
    "renameat-old": lambda client, name: client.renameat(name, b"new"),
    "renameat-new": lambda client, name: client.renameat(b"file", name),
    "unlinkat": lambda client, name: client.unlinkat(name),
    "unlinkat-dir": lambda client, name: client.unlinkat(name, 0x200),
    "xattrcreate": lambda client, name: client.xattrcreate(client.walk(b"file"), name, 1),
    "xattrcreate-user": lambda client, name: client.setxattr(client.walk(b"file"), b"user." + name + b"\0", b"1"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_only_plain_names_are_taken(client: Client, share: Path, field: Callable[[Client, bytes], object], name: bytes) -> None:
    inside = sorted(share.rglob("*"))
    with pytest.raises(OSError, match="server told") as caught:
        field(client, name)
    assert caught.value.errno in (errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG, errno.EOPNOTSUPP)  # the last of attributes
    assert sorted(share.rglob("*")) == inside


@pytest.mark.parametrize(
    "name", [name for name in NAMES.values() if name != b".."], ids=[key for key in NAMES if key != "dotdot"]
)
def test_a_walk_takes_only_plain_names(client: Client, name: bytes) -> None:
    for names in ([name], [name, b"secret"]):
        with pytest.raises(OSError, match="server told"):
            client.try_walk(ROOT, 50, *names)


@pytest.mark.parametrize("name", [name for name in NAMES.values() if name], ids=[key for key in NAMES if key != "empty"])
def test_an_attribute_that_is_read_is_a_users_own(client: Client, name: bytes) -> None:
    refused(errno.EOPNOTSUPP, lambda: client.getxattr(client.walk(b"file"), name))


# Tries that must fail.

FAIL: dict[str, Try] = {
    "open-absolute-link": lambda client: take(client, b"absolute"),
    "open-relative-link": lambda client: take(client, b"relative"),
    "open-chain-of-links": lambda client: take(client, b"chain"),
    "open-link-to-dir": lambda client: client.open(b"folder", flags=os.O_DIRECTORY),
    "open-magic-link": lambda client: client.open(b"magic"),
    "open-new-link-to-passwd": lambda client: (client.symlink(b"new", b"/etc/passwd"), take(client, b"new")),
    "open-link-of-a-link": lambda client: (client.link(client.walk(b"absolute"), b"hard"), take(client, b"hard")),
    "walk-through-link": lambda client: client.walk(b"folder", b"secret"),
    "walk-through-deep-link": lambda client: client.walk(b"dir", b"up", b"secret"),
    "walk-through-up": lambda client: client.walk(b"up", b"outside", b"secret"),
    "walk-through-root": lambda client: client.walk(b"root", b"etc", b"passwd"),
    "walk-through-magic-link": lambda client: client.walk(b"magic", b"etc"),
    "walk-through-magic-cwd": lambda client: client.walk(b"cwd", b"pyproject.toml"),
    "walk-up-then-out": lambda client: client.walk(b"..", b"..", b"outside"),
    "walk-on-from-link-fid": lambda client: client.walk(b"secret", fid=client.walk(b"folder")),
    "walk-on-from-file": lambda client: client.walk(b"x", fid=client.walk(b"file")),
    "create-over-link": lambda client: client.lcreate(client.walk(), b"absolute", os.O_RDWR | os.O_TRUNC),
    "create-at-dangling-link": lambda client: client.lcreate(client.walk(), b"missing", os.O_RDWR),
    "create-in-link": lambda client: client.lcreate(client.walk(b"folder"), b"new"),
    "create-in-file": lambda client: client.lcreate(client.walk(b"file"), b"new"),
    "mkdir-at-dangling-link": lambda client: client.mkdir(b"missing"),
    "mkdir-in-link": lambda client: client.mkdir(b"new", fid=client.walk(b"folder")),
    "symlink-in-link": lambda client: client.symlink(b"new", b"x", client.walk(b"folder")),
    "mknod-in-link": lambda client: client.mknod(b"new", 0o600, fid=client.walk(b"folder")),
    "mknod-null": lambda client: client.mknod(b"null", stat.S_IFCHR | 0o666, 1, 3),
    "mknod-mem": lambda client: client.mknod(b"mem", stat.S_IFCHR | 0o666, 1, 1),
    "mknod-disk": lambda client: client.mknod(b"disk", stat.S_IFBLK | 0o666, 254, 0),
    "mknod-beyond-numbers": lambda client: client.mknod(b"odd", stat.S_IFCHR, 1 << 31, 1 << 31),
    "mknod-link": lambda client: client.mknod(b"odd", stat.S_IFLNK | 0o777),
    "link-into-link": lambda client: client.link(client.walk(b"file"), b"new", client.walk(b"folder")),
    "link-a-directory": lambda client: client.link(client.walk(b"dir"), b"new"),
    "rename-into-link": lambda client: client.renameat(b"file", b"new", new_directory=client.walk(b"folder")),
    "rename-out-of-link": lambda client: client.renameat(b"secret", b"new", client.walk(b"folder")),
    "rename-fid-into-link": lambda client: client.rename(client.walk(b"file"), b"new", client.walk(b"folder")),
    "unlink-in-link": lambda client: client.unlinkat(b"secret", fid=client.walk(b"folder")),
    "rmdir-link": lambda client: client.unlinkat(b"folder", 0x200),
    "truncate-link": lambda client: client.setattr(client.walk(b"absolute"), Valid.SIZE),
    "chmod-link": lambda client: client.setattr(client.walk(b"absolute"), Valid.MODE, mode=0o777),
    "xattr-of-link": lambda client: client.setxattr(client.walk(b"absolute"), b"user.x", b"1"),
    "trusted-xattr": lambda client: client.setxattr(client.walk(b"file"), b"trusted.overlay.redirect", b"/"),
    "trusted-xattr-read": lambda client: client.getxattr(client.walk(b"file"), b"trusted.overlay.redirect"),
    "acl-xattr-read": lambda client: client.getxattr(client.walk(b"dir"), b"system.posix_acl_default"),
    "capability-xattr": lambda client: client.setxattr(client.walk(b"file"), b"security.capability", b"1"),
    "forged-mapping": lambda client: client.setxattr(client.walk(b"file"), b"user.virtfs.mode", b"\0\x21\0\0"),
    "readdir-of-link": lambda client: client.readdir(client.walk(b"folder")),
    "fid-used-again": lambda client: (client.clunk(fid := client.open(b"file")), client.read(fid)),
    "fid-after-remove": lambda client: (client.remove(fid := client.create(b"gone")), client.read(fid)),
    "fid-given-twice": lambda client: client.try_walk(ROOT, client.walk(b"file"), b"dir"),
    "fid-of-attribute-walked": lambda client: (client.xattrwalk(client.walk(b"file"), 60, b""), client.walk(fid=60)),
    "fid-of-attribute-opened": lambda client: (client.xattrwalk(client.walk(b"file"), 60, b""), client.lopen(60)),
    "open-fid-walked-away": lambda client: client.try_walk(fid := client.open(b"file"), fid, b".."),
    "tmpfile-flag": lambda client: client.write(client.open(b"dir", flags=0o20200002), 0, b"x"),
    "msize-of-nothing": lambda client: client.version(0),
    "msize-too-small": lambda client: client.version(4095),
    "message-longer-than-msize": lambda client: (client.version(4096), client.ask(Type.WALK, bytes(5000))),
    "write-longer-than-its-data": lambda client: client.ask(Type.WRITE, fields("IQI", client.create(b"new"), 0, 100), b"x"),
    "getattr-without-room": lambda client: client.ask(Type.GETATTR, fields("IQ", ROOT, 0x7FF), room=11),
    "readlink-without-room": lambda client: client.ask(Type.READLINK, fields("I", client.walk(b"absolute")), room=11),
    "statfs-without-room": lambda client: client.ask(Type.STATFS, fields("I", ROOT), room=20),
    "readdir-without-room": lambda client: client.ask(
        Type.READDIR, fields("IQI", client.open(flags=os.O_DIRECTORY), 0, 4096), room=15
    ),
    "readdir-from-nowhere": lambda client: client.readdir(client.open(flags=os.O_DIRECTORY), 1 << 63),
    "read-from-nowhere": lambda client: client.read(client.open(b"file"), 1 << 63),
    "write-to-nowhere": lambda client: client.write(client.create(b"new"), (1 << 64) - 1, b"x"),
    "fid-of-no-session": lambda client: (fid := client.open(b"file"), client.version(), client.read(fid)),
    "fid-cloned-while-open": lambda client: client.lopen(client.walk(fid=client.open(b"file")), os.O_DIRECTORY),
    "walk-count-lies": lambda client: client.ask(Type.WALK, fields("IIH", ROOT, 50, 3) + b"\x01\0a"),
    "string-length-lies": lambda client: client.ask(Type.MKDIR, fields("IH", ROOT, 65535) + b"abc"),
}


@pytest.mark.parametrize("attempt", FAIL.values(), ids=FAIL)
def test_the_way_is_barred(client: Client, attempt: Try) -> None:
    with pytest.raises(OSError, match="server told"):
        attempt(client)


# Tries that are answered, but lead nowhere outside.


def test_dotdot_from_the_root_stays_there(client: Client, share: Path) -> None:
    found = client.try_walk(ROOT, 50, *[b".."] * 16)
    assert {qid.path for qid in found} == {share.stat().st_ino}


def test_attach_to_another_tree_gives_the_share(client: Client, share: Path) -> None:
    body = fields("IIHH", 50, 0xFFFF_FFFF, 0, 8) + b"/../../." + fields("I", 0)
    client.ask(Type.ATTACH, body)
    assert client.getattr(50).qid.path == share.stat().st_ino


def test_what_is_above_the_share_has_no_number(client: Client, share: Path) -> None:
    fid = client.open(flags=os.O_DIRECTORY)
    above = [qid.path for name, _kind, _offset, qid in client.readdir(fid) if name == b".."]
    assert above == [share.stat().st_ino]


def test_removing_and_replacing_a_link_leaves_what_it_points_to(client: Client, share: Path) -> None:
    client.remove(client.walk(b"absolute"))
    client.renameat(b"file", b"relative")
    client.unlinkat(b"folder")
    assert (share / "relative").read_bytes() == b"file"


def test_times_and_owner_of_a_link_are_its_own(client: Client, share: Path) -> None:
    fid = client.walk(b"absolute")
    client.setattr(fid, EVERY_TIME, atime=(5, 0), mtime=(5, 0))
    with contextlib.suppress(OSError):  # EPERM unless we are root
        client.setattr(fid, Valid.UID | Valid.GID, uid=12345, gid=12345)
    assert (share / "absolute").lstat().st_mtime == 5


def test_a_pipe_of_the_host_is_not_opened(client: Client, share: Path) -> None:
    os.mkfifo(share / "pipe")
    refused(errno.ENXIO, lambda: client.open(b"pipe"))
    refused(errno.ENXIO, lambda: client.lcreate(client.walk(), b"pipe"))
    refused(errno.EINVAL, lambda: client.setattr(client.walk(b"pipe"), Valid.SIZE))


def test_a_device_of_the_host_is_not_opened(client: Client, share: Path) -> None:
    try:
        os.mknod(share / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    refused(errno.ENXIO, lambda: client.open(b"zero"))
    refused(errno.ENXIO, lambda: client.open(b"zero", flags=os.O_WRONLY | os.O_TRUNC))


def test_a_directory_moved_out_by_the_host_is_gone(client: Client, share: Path) -> None:
    fid, before = client.walk(b"dir"), (share.parent / "outside").stat()
    (share / "dir").rename(share.parent / "outside/dir")
    refused(errno.ENOENT, lambda: client.mkdir(b"new", fid=fid))
    refused(errno.ENOENT, lambda: client.walk(b"..", b"..", b"dir", fid=fid))
    (share.parent / "outside/dir").rename(share / "dir")
    os.utime(share.parent / "outside", ns=(before.st_atime_ns, before.st_mtime_ns))  # this was the test's own doing


def test_a_directory_that_becomes_a_link_is_not_entered(client: Client, share: Path) -> None:
    (share / "dir2").mkdir()
    directory = client.walk(b"dir2")
    (share / "dir2").rmdir()
    (share / "dir2").symlink_to(share.parent / "outside")
    for attempt in (
        lambda: client.walk(b"secret", fid=directory),
        lambda: client.mkdir(b"new", fid=directory),
        lambda: client.unlinkat(b"secret", fid=directory),
        lambda: client.lopen(directory, os.O_DIRECTORY),
    ):
        with pytest.raises(OSError, match="server told") as caught:
            attempt()
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_a_file_that_becomes_a_link_is_not_opened(client: Client, share: Path) -> None:
    file = client.walk(b"file")
    (share / "file").unlink()
    (share / "file").symlink_to(share.parent / "secret")
    refused(errno.ELOOP, lambda: client.lopen(file))


def test_links_of_a_mapped_share_are_followed_by_nobody(connect: NewClient, share: Path, resolve: Resolve) -> None:
    client = connect(mapped=True, resolve=resolve)
    client.symlink(b"link", os.fsencode(share.parent / "outside"))
    refused(errno.ELOOP, lambda: client.open(b"link"))
    refused(errno.ENOTDIR, lambda: client.mkdir(b"new", fid=client.walk(b"link")))
    assert not (share / "link").is_symlink()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_or_sandbox_without_openat2_has_names_walked(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(_directory: int, _path: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(beneath, "_openat2", refuse)

    assert best.__wrapped__() is by_names


def test_a_share_that_is_no_directory_is_told(share: Path) -> None:
    (share / "file").touch()
    for path, reason in ((share / "file", "Not a directory"), (share / "none", "No such file")):
        with pytest.raises(ConfigError, match=f"share {path}: {reason}"):
            HostFs(path, readonly=False, mapped=False)
