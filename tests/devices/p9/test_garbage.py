"""Random and mutated messages: every one is answered, nothing crashes, hangs or grows. The seed is printed."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import struct
import tracemalloc
from pathlib import Path

import pytest

from devices.p9 import wire
from devices.p9.fids import Fids
from devices.p9.wire import Type
from tests.devices.p9.client import MSIZE, Client

FIDS = 12
OPEN = 6
SESSION, MOUNTED = 200, 3  # messages after which the share is mounted again
GROWTH = 4 << 20  # bytes of Python objects that may stay
NAMES = (b"a", b"b", b"c", b"dir", b"..", b".", b"", b"a/b", b"\0", b"user.x", b"x" * 255, b"/etc/passwd", b"user.virtfs.mode")
LAYOUTS: dict[int, str] = {
    Type.STATFS: "f",
    Type.LOPEN: "fi",
    Type.LCREATE: "fsiii",
    Type.SYMLINK: "fssi",
    Type.MKNOD: "fsiiii",
    Type.RENAME: "ffs",
    Type.READLINK: "f",
    Type.GETATTR: "fq",
    Type.SETATTR: "fiiiiqqqqq",
    Type.XATTRWALK: "ffs",
    Type.XATTRCREATE: "fsqi",
    Type.READDIR: "fqi",
    Type.FSYNC: "fi",
    Type.LOCK: "fbiqqis",
    Type.GETLOCK: "fbqqis",
    Type.LINK: "ffs",
    Type.MKDIR: "fsii",
    Type.RENAMEAT: "fsfs",
    Type.UNLINKAT: "fsi",
    Type.ATTACH: "ffssi",
    Type.FLUSH: "h",
    Type.WALK: "ffn",
    Type.READ: "fqi",
    Type.WRITE: "fqi",
    Type.CLUNK: "f",
    Type.REMOVE: "f",
}
FORMATS = {"b": "<B", "h": "<H", "i": "<I", "q": "<Q"}


class Chaos:
    """Messages that are mostly well-formed, with odd values, and sometimes not even that."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def number(self, bits: int) -> int:
        chance = self.chance
        odd = (
            0,
            1,
            2,
            0o102,
            0o644,
            0o40755,
            0o100644,
            4096,
            1 << bits - 1,
            (1 << bits) - 1,
            chance.getrandbits(bits),
            24,
            300,
        )
        return chance.choice(odd) & (1 << bits) - 1

    def field(self, kind: str) -> bytes:
        chance = self.chance
        if kind == "f":
            return struct.pack("<I", chance.choice((*[0] * FIDS, *range(FIDS))))
        if kind == "s":
            return wire.string(chance.choice(NAMES + 3 * NAMES[:4]))
        if kind == "n":
            return wire.strings([chance.choice(NAMES + 3 * NAMES[:4]) for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 16)))])
        return struct.pack(FORMATS[kind], self.number(8 * struct.calcsize(FORMATS[kind])))

    def message(self) -> tuple[bytes, bytes]:
        """A message and the data behind it."""
        chance = self.chance
        kind = chance.choice(tuple(LAYOUTS))
        body = bytearray(b"".join(map(self.field, LAYOUTS[kind])))
        payload = chance.randbytes(chance.choice((0, 1, 100, 5000))) if kind == Type.WRITE else b""
        fault = chance.randrange(10)
        if fault == 0 and body:
            body[chance.randrange(len(body))] = chance.randrange(256)
        elif fault == 1:
            del body[chance.randrange(len(body) + 1) :]
        elif fault == 2:
            body += chance.randbytes(chance.randrange(64))
        elif fault == 3:
            body, kind = bytearray(chance.randbytes(chance.randrange(64))), chance.randrange(256)
        message = bytearray(wire.message(kind, chance.getrandbits(16), bytes(body), len(payload)))
        if chance.randrange(50) == 0:
            message[:4] = chance.randbytes(4)
        return bytes(message), payload


def survive(share: Path, seed: int, count: int, *, mapped: bool) -> None:
    print(f"seed {seed}")
    chaos = Chaos(seed)
    client = Client(share, mapped=mapped, fids=Fids(fids_max=FIDS, open_max=OPEN))
    room = memoryview(bytearray(MSIZE))
    before = len(list(Path("/proc/self/fd").iterdir()))
    answers: dict[bool, int] = {True: 0, False: 0}
    for number in range(count):
        if number % SESSION == 0:
            client.version(MSIZE)
        if number % MOUNTED == 0:
            with contextlib.suppress(OSError):  # it may still be there
                client.attach(0)
        message, payload = chaos.message()
        data = room[: chaos.chance.choice((0, 10, 200, MSIZE))]
        head, filled = client.server.serve(message, [memoryview(payload)], [data])
        size, kind, tag = wire.HEADER.unpack_from(head)
        assert size == len(head) + filled <= wire.READ_HEADER + len(data)
        assert tag == struct.unpack_from("<H", message, 5)[0]
        assert kind in (Type.RLERROR, message[4] + 1)
        answers[kind == Type.RLERROR] += 1
    client.session.start(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(client.session.fids) == client.session.fids._open == client.session.fids._path_bytes == 0
    client.files.close()
    assert min(answers.values()) > count // 12, answers


@pytest.mark.parametrize("mapped", [False, True], ids=["none", "mapped"])
def test_garbage_is_answered(share: Path, *, mapped: bool) -> None:
    seed = int(os.environ.get("EMU_TEST_SEED", "20260101"))
    survive(share, seed, 10_000, mapped=mapped)
    assert_nothing_outside(share)


def assert_nothing_outside(share: Path) -> None:
    assert sorted(path.name for path in share.parent.rglob("*") if share not in (path, *path.parents)) == [
        "outside",
        "secret",
        "secret",
    ]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mapped", [False, True], ids=["none", "mapped"])
def test_a_million_garbled_messages_leave_nothing_behind(share: Path, *, mapped: bool) -> None:
    seed = int(os.environ.get("EMU_TEST_SEED", "20260101"))
    survive(share, seed, 20_000, mapped=mapped)  # what is made once and stays
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    for part in range(10):
        survive(share, seed + 1 + part, 50_000, mapped=mapped)
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    print(f"{grown >> 10} KiB more, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB at most")
    assert grown < GROWTH
    assert_nothing_outside(share)
