"""A session that is saved and goes on with another server: what was open is open, and what is not the same is noticed."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.p9 import saved
from devices.p9.fids import Fids
from devices.p9.identity import Identity
from devices.p9.saved import FidsState, OpenState
from emu.errors import MigrationError
from tests.devices.p9.client import Client, refused
from tests.devices.p9.conftest import NewClient

READ_WRITE, TRUNCATE, APPEND, DIRECTORY = 0o2, 0o1000, 0o2000, 0o200000
CREATE, EXCLUSIVE = 0o100, 0o200
CAPABILITY_VERSION, MAY_OPEN_ALL = 0x20080522, 0b110  # linux/capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
FILE, FOLDER = 0o100000, 0o040000


def replace(path: Path, content: str = "another") -> None:
    """As an editor does."""
    new = path.with_name("new")
    new.write_text(content)
    new.rename(path)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# What goes on


@pytest.mark.parametrize("mapped", [False, True], ids=["none", "mapped"])
def test_files_go_on_open_wherever_they_were_renamed_to(connect: NewClient, share: Path, *, mapped: bool) -> None:
    client = connect(mapped=mapped)
    client.mkdir(b"a")
    fid = client.walk(b"a")
    client.lcreate(fid, b"file", mode=0o600)
    client.renameat(b"a", b"b")
    client.write(fid, 0, b"before")

    client.move()

    client.write(fid, 6, b" after")
    assert client.read(fid) == (share / "b/file").read_bytes() == b"before after"
    assert client.getattr(fid).mode == FILE | 0o600


def test_neither_truncation_nor_creation_is_repeated(client: Client, share: Path) -> None:
    (share / "old").write_text("old")
    old, new = client.open(b"old", flags=READ_WRITE | TRUNCATE), client.walk()
    client.lcreate(new, b"new", flags=READ_WRITE | CREATE | EXCLUSIVE | TRUNCATE)
    client.write(old, 0, b"1")
    client.write(new, 0, b"2")

    client.move()

    assert (client.read(old), client.read(new)) == (b"1", b"2")


def test_a_file_goes_on_being_appended_to_and_one_that_is_read_stays_so(client: Client, share: Path) -> None:
    (share / "log").write_text("one ")
    appended, read = client.open(b"log", flags=READ_WRITE | APPEND), client.open(b"log")

    client.move()

    client.write(appended, 0, b"two")
    assert client.read(read) == b"one two"
    refused(errno.EBADF, lambda: client.write(read, 0, b"x"))


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may open everything: be without that right, for this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    before = ctypes.create_string_buffer(24)
    assert libc.capget(header, before) == 0
    effective, *rest = struct.unpack("6I", before.raw)
    without = struct.pack("6I", effective & ~MAY_OPEN_ALL, *rest)
    assert libc.capset(header, without) == 0
    yield
    assert libc.capset(header, before) == 0


@pytest.mark.usefixtures("unprivileged")
def test_a_file_made_read_only_goes_on_being_written_by_who_has_it_open(connect: NewClient, share: Path) -> None:
    client = connect()
    fid = client.create(b"object", b"be", mode=0o444)

    client.move()

    client.write(fid, 2, b"fore")
    assert (share / "object").read_bytes() == b"before"
    assert (share / "object").stat().st_mode == FILE | 0o444


@pytest.mark.usefixtures("unprivileged")
def test_a_read_only_share_opens_nothing_that_it_may_not(connect: NewClient, share: Path) -> None:
    (share / "file").touch()
    client = connect(readonly=True)
    client.open(b"file")
    stream = client.save()
    (share / "file").chmod(0)
    with pytest.raises(MigrationError, match=r"'file' \(Permission denied\)"):
        client.restore(stream)


def test_a_directory_is_read_on_from_where_it_was(client: Client, share: Path) -> None:
    expected = {f"{number}" for number in range(300)}
    for name in expected:
        (share / name).touch()
    fid, offset, found = client.open(flags=DIRECTORY), 0, []
    while entries := client.readdir(fid, offset, 500):
        found += [entry[0].decode() for entry in entries]
        offset = entries[-1][2]
        client.move()
    assert sorted(found) == sorted({*expected, ".", ".."})


def test_attributes_go_on_being_read_and_gathered(client: Client, share: Path) -> None:
    (share / "file").touch()
    os.setxattr(share / "file", "user.old", b"0123456789")
    file, reader, writer = client.walk(b"file"), client.new(), client.walk(b"file")
    client.xattrwalk(file, reader, b"user.old")
    client.xattrcreate(writer, b"user.new", 4)
    client.write(writer, 0, b"ab")

    client.move()

    assert client.read(reader, 5) == b"56789"
    client.write(writer, 2, b"cd")
    client.clunk(writer)
    assert os.getxattr(share / "file", "user.new") == b"abcd"


def test_locks_go_on_being_granted(client: Client) -> None:
    fid = client.create(b"file")
    assert client.lock(fid, 1) == 0
    client.move()
    assert client.lock(fid, 2) == 0


def test_a_fid_that_led_nowhere_leads_to_what_comes_there(client: Client, share: Path) -> None:
    (share / "file").touch()
    fid = client.walk(b"file")
    (share / "file").unlink()

    client.move()

    refused(errno.ENOENT, lambda: client.getattr(fid))
    (share / "file").write_text("new")
    assert client.getattr(fid).size == 3


def test_a_session_without_fids_is_as_after_a_reset(client: Client) -> None:
    client.version()
    assert saved.save(client.files, client.session.fids) == FidsState()


def test_files_stay_open_at_most_once(client: Client) -> None:
    before = descriptors()
    for number in range(20):
        client.create(b"%d" % number)
    client.move()
    assert descriptors() == before + 20


# What is not there any more


def test_a_deleted_file_that_is_open_is_named(client: Client) -> None:
    for name in (b"a", b"b", b"c", b"d", b"e"):
        client.create(name)
        client.unlinkat(name)
    told = ["has files open that were deleted or replaced: 'a', 'b', 'c' and 2 more; close them in the guest"]
    assert client.obstacles(strict=True) == client.obstacles(strict=False) == told


def test_a_deleted_file_that_is_closed_is_nobodys_business(client: Client) -> None:
    fid = client.create(b"file")
    client.walk(b"file")
    client.unlinkat(b"file")
    client.clunk(fid)
    assert client.obstacles() == []


def test_a_replaced_file_that_is_open_is_named_unless_it_may_be_lost(client: Client, share: Path) -> None:
    client.create(b"file")
    replace(share / "file")
    assert client.obstacles(strict=True) == [
        "has files open that were deleted or replaced: 'file'; close them in the guest",
    ]
    assert client.obstacles(strict=False) == []


def test_a_session_too_large_for_a_stream_is_an_obstacle(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "SAVED_MAX", 100)
    assert client.obstacles() == ["has 1 fids that take 448 bytes to save, at most 100 are allowed"]


def test_a_file_replaced_meanwhile_is_refused_by_name(client: Client, share: Path) -> None:
    opened, other = client.create(b"file", b"old"), client.create(b"other")
    stream, before = client.save(), descriptors()
    replace(share / "file")

    with pytest.raises(MigrationError, match=r"^has other files than the guest knows: 'file' \(another file\)$"):
        client.restore(stream)

    assert client.read(opened) == b"old"
    client.write(other, 0, b"goes on")
    assert descriptors() == before


def test_only_the_fids_of_a_replaced_file_are_stale(client: Client, share: Path) -> None:
    opened, known, other = client.create(b"file", b"old"), client.walk(b"file"), client.create(b"other", b"other")
    stream = client.save()
    replace(share / "file")

    client.restore(stream, strict=False)

    for action in (
        lambda: client.read(opened),
        lambda: client.write(opened, 0, b"x"),
        lambda: client.getattr(opened),
        lambda: client.getattr(known),
        lambda: client.lopen(known),
        lambda: client.walk(fid=known),
        lambda: client.link(known, b"hard"),
    ):
        refused(errno.ESTALE, action)
    assert client.read(other) == b"other"
    assert client.getattr(client.walk(b"file")).size == len("another")
    client.clunk(opened)
    refused(errno.EBADF, lambda: client.getattr(opened))


def test_a_stale_fid_stays_stale_on_the_next_move_and_can_be_removed(client: Client, share: Path) -> None:
    fid = client.create(b"file")
    stream = client.save()
    replace(share / "file")
    client.restore(stream, strict=False)

    client.move()

    refused(errno.ESTALE, lambda: client.read(fid))
    refused(errno.ESTALE, lambda: client.remove(fid))
    refused(errno.EBADF, lambda: client.remove(fid))
    assert (share / "file").read_text() == "another"


def test_an_attribute_of_a_replaced_file_is_not_set_on_the_other_one(client: Client, share: Path) -> None:
    (share / "file").touch()
    fid = client.walk(b"file")
    client.xattrcreate(fid, b"user.x", 1)
    client.write(fid, 0, b"1")
    stream = client.save()
    replace(share / "file")

    client.restore(stream, strict=False)

    refused(errno.ESTALE, lambda: client.clunk(fid))
    assert os.listxattr(share / "file") == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.unlink(), r"'file' \(gone\)"),
        (lambda path: (path.unlink(), path.mkdir()), r"'file' \(another file\)"),
        (lambda path: (path.unlink(), path.symlink_to("../secret")), r"'file' \(another file\)"),
        (lambda path: (path.unlink(), path.write_text("x")), r"'file' \(another file\)"),  # often with the same inode number
    ],
    ids=["deleted", "directory", "link", "made-anew"],
)
def test_whatever_takes_a_files_place_is_not_it(client: Client, share: Path, change: Callable[[Path], None], told: str) -> None:
    client.clunk(client.create(b"file"))
    client.open(b"file")
    stream = client.save()
    client.session.start(0)
    change(share / "file")
    with pytest.raises(MigrationError, match=told):
        client.restore(stream)


def test_what_is_no_plain_file_is_not_opened(client: Client, share: Path) -> None:
    os.mkfifo(share / "pipe")
    client.walk(b"pipe")
    state = saved.save(client.files, client.session.fids)
    state.files.append(OpenState(fid=client.last))
    with pytest.raises(MigrationError, match=r"'pipe' \(only plain files and directories are opened\)"):
        saved.restore(client.files, state, Fids(), strict=True)


def test_another_directory_is_refused_even_where_files_may_be_lost(connect: NewClient, tmp_path: Path) -> None:
    stream = connect().save()
    elsewhere = Client(tmp_path / "outside")
    for strict in (True, False):
        with pytest.raises(MigrationError, match=r"is another directory here .* both sides must see the same one"):
            elsewhere.restore(stream, strict=strict)
    elsewhere.close()


def test_as_many_files_as_this_side_allows(connect: NewClient) -> None:
    client = connect(fids=Fids(open_max=3))
    for number in range(3):
        client.create(b"%d" % number)
    client.move()
    stream = client.save()
    client.session.fids.open_max = 2
    with pytest.raises(MigrationError, match=r"^has 3 files open, at most 2 are allowed here$"):
        client.restore(stream)


def test_births_tell_files_apart_that_have_the_same_number() -> None:
    file = Identity(FILE, 5, 1000)
    assert file.same(Identity(FILE, 5, 1000))
    assert not file.same(Identity(FILE, 5, 1001))
    assert not file.same(Identity(FOLDER, 5, 1000))
    assert file.same(Identity(FILE, 5, 0))  # a host that does not tell


def test_a_path_over_a_symbolic_link_leads_nowhere(client: Client, share: Path) -> None:
    (share / "dir").mkdir()
    (share / "dir/secret").write_text("ours")
    client.open(b"dir", b"secret")
    stream = client.save()
    (share / "dir").rename(share / "moved")
    (share / "dir").symlink_to("../outside")
    with pytest.raises(MigrationError, match=r"'dir/secret' \(gone\)"):
        client.restore(stream)
