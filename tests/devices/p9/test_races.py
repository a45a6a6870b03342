"""Somebody on the host swaps files and links under the guest's hands, as fast as the kernel does it: nothing gets out."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest

from devices.p9.beneath import Resolve
from devices.p9.wire import Valid
from tests.devices.p9.client import ROOT, Client
from tests.devices.p9.conftest import SECRET, NewClient, witness

TRIES = 5_000  # with each of the two ways of finding files
MANY_TRIES = 100_000

Try = Callable[[Client, int], object]  # with a fid of what is at a name at the moment, a link or not

# renameat2(…, RENAME_EXCHANGE) of two pairs of names, until its standard input ends.
SWAPPER = """
import ctypes, select, sys
renameat2 = ctypes.CDLL(None).renameat2
here, names = -100, [name.encode() for name in sys.argv[1:]]
print(flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(1000):
        renameat2(here, names[0], here, names[1], 2)
        renameat2(here, names[2], here, names[3], 2)
"""


@pytest.fixture
def client(connect: NewClient, share: Path, resolve: Resolve) -> Iterator[Client]:
    """A client of a share where `dir` and `file` are what they say or links to what is outside; that stays as it is."""
    outside = share.parent / "outside"
    (share / "dir").mkdir()
    for file in (share / "dir/secret", share / "file"):
        file.write_bytes(b"inside")
    (share / "link-dir").symlink_to("../outside")
    (share / "link-file").symlink_to(outside / "secret")
    before = witness(share.parent, share)
    pairs = [str(share / name) for name in ("dir", "link-dir", "file", "link-file")]
    command = [sys.executable, "-c", SWAPPER, *pairs]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        yield connect(resolve=resolve)
        assert swapper.poll() is None
        swapper.communicate()
    assert witness(share.parent, share) == before


def read(client: Client, fid: int) -> None:
    client.lopen(fid)
    assert client.read(fid) == b"inside" != SECRET


def write(client: Client, fid: int) -> None:
    client.lopen(fid, os.O_RDWR)
    client.write(fid, 0, b"inside")


def listed(client: Client, fid: int) -> None:
    client.lopen(fid, os.O_DIRECTORY)
    client.readdir(fid)


IN_DIR: dict[str, Try] = {
    "walk": lambda client, fid: client.clunk(client.walk(b"secret", fid=fid)),
    "list": listed,
    "mkdir": lambda client, fid: client.mkdir(b"new", fid=fid),
    "rmdir": lambda client, fid: client.unlinkat(b"new", 0x200, fid=fid),
    "symlink": lambda client, fid: client.symlink(b"link", b"x", fid=fid),
    "create-over-symlink": lambda client, fid: client.lcreate(client.walk(fid=fid), b"link", os.O_RDWR | os.O_TRUNC),
    "unlink-symlink": lambda client, fid: client.unlinkat(b"link", fid=fid),
    "mknod": lambda client, fid: client.mknod(b"pipe", 0o010600, fid=fid),
    "unlink": lambda client, fid: client.unlinkat(b"pipe", fid=fid),
    "create": lambda client, fid: client.lcreate(fid, b"secret", os.O_RDWR | os.O_TRUNC),
    "link": lambda client, fid: client.link(client.walk(b"file"), b"hard", fid),
    "unlink-link": lambda client, fid: client.unlinkat(b"hard", fid=fid),
    "rename-out": lambda client, fid: client.renameat(b"secret", b"moved", fid, fid),
    "rename-back": lambda client, fid: client.renameat(b"moved", b"secret", fid, fid),
    "mode": lambda client, fid: client.setattr(fid, Valid.MODE, mode=0o711),
    "label": lambda client, fid: client.setxattr(fid, b"user.x", b"1"),
}
ON_FILE: dict[str, Try] = {
    "read": read,
    "write": write,
    "truncate": lambda client, fid: client.setattr(fid, Valid.SIZE, size=6),
    "mode": lambda client, fid: client.setattr(fid, Valid.MODE, mode=0o640),
    "label": lambda client, fid: client.setxattr(fid, b"user.x", b"1"),
    "labels": lambda client, fid: client.getxattr(fid, b"user.x"),
    "status": lambda client, fid: client.getattr(fid),
    "create-over": lambda client, _fid: client.clunk(client.create(b"file", b"inside")),
}
ATTEMPTS: dict[str, tuple[bytes, Try]] = {f"dir-{name}": (b"dir", work) for name, work in IN_DIR.items()} | {
    f"file-{name}": (b"file", work) for name, work in ON_FILE.items()
}
LED_NOWHERE = (  # what the server told because there was a link just then, or what another try had made or taken away
    *(errno.ELOOP, errno.ENOTDIR, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL),
    *(errno.EEXIST, errno.ENOENT, errno.ENODATA, errno.ENXIO),
)


def race(client: Client, tries: int) -> None:
    """Each try in turn; all of them must have been lucky at times."""
    lucky = dict.fromkeys(ATTEMPTS, 0)
    for number, (name, (target, work)) in enumerate(islice(cycle(ATTEMPTS.items()), tries)):
        if number % 1000 == 0:  # fids that tries left
            client.version()
            client.attach(ROOT)
        try:
            fid = client.walk(target)
            work(client, fid)
            lucky[name] += 1
        except OSError as exc:
            assert exc.errno in LED_NOWHERE, name
        with contextlib.suppress(OSError):
            client.clunk(fid)
    print(lucky)
    assert all(count for name, count in lucky.items() if name != "dir-create-over-symlink"), lucky
    assert sum(lucky.values()) < tries, "there was no race"


def test_swapped_links_lead_nowhere(client: Client) -> None:
    race(client, TRIES)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_links_swapped_a_hundred_thousand_times_lead_nowhere(client: Client) -> None:
    race(client, MANY_TRIES)
