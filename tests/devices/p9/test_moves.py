"""Random messages to two shares, one of which moves to another server every few of them: both answer the same."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.p9 import wire
from devices.p9.fids import Fids
from devices.p9.wire import Reader, Type
from tests.devices.p9.client import MSIZE, Client, fields, qid
from tests.devices.p9.test_garbage import FIDS, MOUNTED, NAMES, OPEN, SESSION, Chaos

MOVES = 5  # messages between two moves
QIDS = (Type.ATTACH, Type.LOPEN, Type.LCREATE, Type.SYMLINK, Type.MKNOD, Type.MKDIR)


class Work(Chaos):
    """Mostly what a guest does: fids come, are opened, used and go; and garbage in between."""

    def message(self) -> tuple[bytes, bytes]:
        """A message and the data behind it."""
        chance = self.chance
        if chance.randrange(4) == 0:
            return super().message()
        fid, name = chance.randrange(FIDS), chance.choice(NAMES[:4])
        offset, size = chance.randrange(40), chance.randrange(40)
        flags = chance.choice((0, 1, 2, 2, 0o1002, 0o2002, 0o200000))  # read, write, both; truncating, appending, a directory
        kind, body = chance.choice(
            (
                (Type.WALK, fields("II", 0, fid) + wire.strings(chance.choice(([], [name], [b"dir", name])))),
                (Type.LOPEN, fields("II", fid, flags)),
                (Type.LCREATE, wire.u32(fid) + wire.string(name) + fields("III", flags, 0o640, 0)),
                (Type.MKDIR, wire.u32(fid) + wire.string(name) + fields("II", 0o755, 0)),
                (Type.READ, fields("IQI", fid, offset, size)),
                (Type.WRITE, fields("IQI", fid, offset, size)),
                (Type.WRITE, fields("IQI", fid, 0, size)),
                (Type.READDIR, fields("IQI", fid, 0, 4096)),
                (Type.XATTRCREATE, wire.u32(fid) + wire.string(b"user.x") + fields("QI", size, 0)),
                (Type.XATTRWALK, fields("II", fid, chance.randrange(FIDS)) + wire.string(b"user.x")),
                (Type.UNLINKAT, wire.u32(0) + wire.string(name) + wire.u32(0)),
                (Type.CLUNK, wire.u32(chance.randrange(1, FIDS))),
            )
        )
        payload = chance.randbytes(size) if kind == Type.WRITE else b""
        return wire.message(kind, chance.getrandbits(16), body, len(payload)), payload


def plain(reply: bytes) -> object:
    """A reply without what is the host's: inode numbers, times, free space."""
    kind, reader = reply[4] - 1, Reader(reply[wire.HEADER.size :])
    if kind in QIDS:
        return kind, qid(reader).type
    if kind == Type.WALK:
        return kind, [qid(reader).type for _ in range(reader.u16())]
    if kind == Type.READDIR:
        return kind, list(entries(reader))
    if kind == Type.STATFS:
        return kind
    if kind == Type.GETATTR:
        valid, found = reader.u64(), qid(reader).type
        return kind, valid, found, [reader.u32() for _ in range(3)], [reader.u64() for _ in range(3)]
    return reply


def entries(reader: Reader) -> Iterator[tuple[int, int, int, bytes]]:
    """Of Rreaddir."""
    left = reader.u32()
    while left > 0:
        found, offset, kind, name = qid(reader).type, reader.u64(), reader.u8(), reader.string()
        left -= 24 + len(name)
        yield found, offset, kind, name


def compare(here: Path, there: Path, seed: int, count: int, *, mapped: bool) -> int:
    """Send `count` messages; returns how often the second share was moved."""
    print(f"seed {seed}")
    limits = {"fids_max": FIDS, "open_max": OPEN}
    stays = Client(here, mapped=mapped, fids=Fids(**limits))
    moves = Client(there, mapped=mapped, fids=Fids(**limits))
    work, moved = Work(seed), 0
    for number in range(count):
        if number % SESSION == 0:
            assert stays.version(MSIZE) == moves.version(MSIZE)
        if number % MOUNTED == 0:
            for client in (stays, moves):
                with contextlib.suppress(OSError):  # it may still be there
                    client.attach(0)
        if number % MOVES == 0 and not moves.obstacles():
            moves.move()
            moved += 1
        message, payload = work.message()
        room = work.chance.choice((0, 10, 200, MSIZE))
        answers = []
        for client in (stays, moves):
            data = memoryview(bytearray(room))
            head, filled = client.server.serve(message, [memoryview(payload)], [data])
            answers.append(plain(head + bytes(data[:filled])))
        assert answers[0] == answers[1], f"message {number}: {message!r:.80}"
    stays.close()
    moves.close()
    return moved


@pytest.fixture
def shares(tmp_path: Path) -> tuple[Path, Path]:
    """Two empty directories."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    return tmp_path / "here", tmp_path / "there"


@pytest.mark.parametrize("mapped", [False, True], ids=["none", "mapped"])
def test_a_moved_session_answers_as_one_that_stayed(shares: tuple[Path, Path], *, mapped: bool) -> None:
    seed = int(os.environ.get("EMU_TEST_SEED", "20260101"))
    assert compare(*shares, seed, 3000, mapped=mapped) > 400


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mapped", [False, True], ids=["none", "mapped"])
def test_a_much_moved_session_answers_as_one_that_stayed(shares: tuple[Path, Path], *, mapped: bool) -> None:
    seed = int(os.environ.get("EMU_TEST_SEED", "20260101"))
    assert compare(*shares, seed, 100_000, mapped=mapped) > 10_000
