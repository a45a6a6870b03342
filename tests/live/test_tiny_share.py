"""The tiny guest's own 9p client on every target: what it sees and does of a directory, and the share's part in moving it."""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.monitor.client import QmpCallError
from images import TINY
from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for
from tests.live.test_share import blocked

Begin = Callable[..., EmuProcess]

LINES = 150_000  # of the file that is read while its reader moves: more than the sockets on the way hold
pytestmark = pytest.mark.parametrize(
    "guest", [pytest.param(f"{name}-tiny", marks=() if name == "riscv64" else pytest.mark.every_target) for name in TINY]
)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    return share


@pytest.fixture
def begin(guest: str, tmp_path: Path, share: Path) -> Iterator[Begin]:
    """Starts the guest with the share in `emu run`: begin(name, *options, share_options="")."""
    machines: list[EmuProcess] = []

    def run(name: str, *options: str, share_options: str = "") -> EmuProcess:
        machine = EmuProcess(tmp_path, name, guest, "--memory", "16M", "--share", f"{share}{share_options}", *options)
        machines.append(machine)
        return machine

    yield run
    for machine in machines:
        machine.close()


def ask(machine: EmuProcess, line: str) -> list[str]:
    """The lines that a command prints."""
    machine.console.send_line(line)
    machine.console.expect(rf"{re.escape(line)}\r?\n", WAIT)
    return str(machine.console.expect(rf"(?s)\A(.*?){PROMPT}", WAIT)[1]).replace("\r", "").splitlines()


def booted(machine: EmuProcess) -> EmuProcess:
    machine.console.expect(PROMPT, WAIT)
    return machine


def test_its_client_works(begin: Begin, share: Path) -> None:
    content = b"one\ntwo\x07\xff" * 1000
    (share / "dir").mkdir()
    (share / "dir/file").write_bytes(content)
    (share / "dir/file").chmod(0o4640)
    (share / "link").symlink_to("/etc/passwd")
    for number in range(100):
        (share / "dir" / f"name{number}").touch()
    guest = booted(begin("one"))

    assert sorted(ask(guest, "9p ls")) == ["d dir", "l link"]
    assert sorted(ask(guest, "9p ls dir/")) == sorted(["- file", *(f"- name{number}" for number in range(100))])
    *shown, told = ask(guest, "9p cat dir/file")
    assert "\n".join(shown) == content.decode("latin-1").replace("\x07", "?").replace("\xff", "?")
    assert told == f"9p cat {len(content)} bytes crc32 {zlib.crc32(content):08x}"
    found = (share / "dir/file").stat()
    owner = f"uid {found.st_uid} gid {found.st_gid}"
    assert ask(guest, "9p stat /dir/file") == [
        f"9p - mode 4640 {owner} links 1 size {len(content)} mtime {int(found.st_mtime)}"
    ]
    assert ask(guest, "9p put dir/new hello") == ["9p put 5 bytes"]
    assert ask(guest, "9p put dir/new bye") == ["9p put 3 bytes"]
    assert ((share / "dir/new").read_bytes(), stat.S_IMODE((share / "dir/new").stat().st_mode)) == (b"bye", 0o644)
    assert ask(guest, "9p rm dir/new") == ["9p removed"]
    assert not (share / "dir/new").exists()

    for line, error in (
        ("9p cat none", "no such file or directory"),
        ("9p cat link", "symbolic link"),
        ("9p cat dir/file/none", "no such file or directory"),
        ("9p ls dir/file", "not a directory"),
        ("9p rm dir", "directory not empty"),
        ("9p put .. x", "invalid argument"),
        ("9p put / x", "no name"),
        ("9p cat " + "a/" * 17, "path has more than 16 names"),
    ):
        assert ask(guest, line) == [f"error: 9p: {error}"]
    assert ask(guest, "9p put only") == ["? help"]
    assert sorted(path.name for path in share.iterdir()) == ["dir", "link"]
    guest.console.send_line("off")
    assert guest.wait_exit() == 0


def test_an_attached_share_forbids_moving_until_it_is_given_back(begin: Begin, share: Path, tmp_path: Path) -> None:
    (share / "file").write_text("here\n")
    here = booted(begin("here"))
    assert here.migration == {}
    ask(here, "9p ls")

    with pytest.raises(QmpCallError) as refusal:
        here.qmp("migrate", uri=f"file:{tmp_path / 'stream'}")
    assert str(refusal.value) == f"the guest cannot be migrated: {blocked(share)}"
    assert blocked(share) in here.monitor("savevm one")
    assert here.migration == {"blocked-reasons": [blocked(share)]}

    assert ask(here, "9p umount") == []
    assert here.migrate(f"file:{tmp_path / 'stream'}")["status"] == "completed"
    here.close()
    there = begin("there", "--incoming", f"file:{tmp_path / 'stream'}")
    there.console.send_line("")
    assert ask(booted(there), "9p cat file") == ["here", f"9p cat 5 bytes crc32 {zlib.crc32(b'here' + bytes([10])):08x}"]


def test_a_migratable_share_moves_with_the_file_that_is_read(begin: Begin, share: Path, tmp_path: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(LINES))
    (share / "file").write_bytes(content)
    here = booted(begin("m0", share_options=",migratable"))
    here.console.send_line("9p cat file")
    for move in (1, 2):
        here.console.expect(r"line \d+\r", WAIT)
        there = begin(f"m{move}", "--incoming", f"unix:{tmp_path / f'{move}.in'}", share_options=",migratable")
        wait_for((tmp_path / f"{move}.in").exists, "the destination listens")
        assert here.migrate(f"unix:{tmp_path / f'{move}.in'}")["status"] == "completed"
        here.close()
        here = there
    here.console.expect(r"line \d+\r", WAIT)
    here.console.send("\x03")
    read, checksum = here.console.expect(r"9p cat (\d+) bytes crc32 (\w+)\r", WAIT).groups()
    assert checksum == f"{zlib.crc32(content[: int(read)]):08x}"
    assert ask(booted(here), "9p put file short") == ["9p put 5 bytes"]
    assert (share / "file").read_bytes() == b"short"


def test_a_reset_gives_the_share_back(begin: Begin) -> None:
    guest = booted(begin("one"))
    ask(guest, "9p ls")

    guest.console.send_line("reboot")

    booted(guest)
    assert guest.migration == {}
    assert ask(guest, "9p ls") == []
