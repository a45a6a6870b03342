"""The state of a session as it comes from a stream: read for ever, and refused when no session has it."""

from __future__ import annotations

import pytest

from devices.p9.saved import AttributeState, FidsState, FidState, OpenState
from emu.errors import StateError
from migration.vmstate import Wire, dump, parse

APPEND, READ_WRITE, CREATE = 0o2000, 0o2, 0o100
FILE, FOLDER = 0o100000, 0o040000

VERSION_1: Wire = {
    "root": 2,
    "root_born": 1_600_000_000_000_000_000,
    "fids": [
        {"number": 0, "uid": 0, "path": b"", "kind": FOLDER, "qid": 2, "born": 1_600_000_000_000_000_000, "stale": False},
        {"number": 1, "uid": 1000, "path": b"a/file", "kind": FILE, "qid": 12, "born": 0, "stale": False},
        {"number": 2, "uid": 0, "path": b"gone", "kind": FILE, "qid": 13, "born": 0, "stale": True},
        {"number": 3, "uid": 0, "path": b"a", "kind": 0, "qid": 0, "born": 0, "stale": False},
    ],
    "files": [{"fid": 1, "flags": READ_WRITE | APPEND}],
    "attributes": [{"fid": 3, "name": b"user.x", "value": b"ab", "size": 4, "flags": 1, "written": True}],
}


def test_a_session_of_version_1_is_read_for_ever() -> None:
    state = parse(FidsState, 1, VERSION_1)
    assert state.fids[1] == FidState(number=1, uid=1000, path=b"a/file", kind=FILE, qid=12)
    assert state.files == [OpenState(fid=1, flags=READ_WRITE | APPEND)]
    assert state.attributes == [AttributeState(fid=3, name=b"user.x", value=b"ab", size=4, flags=1, written=True)]
    assert [fid.stale for fid in state.fids] == [False, False, True, False]


def fid(path: bytes = b"file", **values: int) -> FidState:
    return FidState(**{"number": 1, "path": path, "kind": FILE, **values})  # type: ignore[arg-type]  # plain fields


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (FidsState(root=1), "p9-fids.root is 0x1, must be 0 without fids"),
        (FidsState(fids=[fid(), fid()]), "p9-fids.fids has 2 fids with 1 numbers"),
        (FidsState(files=[OpenState(fid=7)]), "have a fid 7 that p9-fids.fids lacks"),
        (FidsState(fids=[fid()], files=[OpenState(fid=1)] * 2), "have 2 fids, 1 different ones"),
        (
            FidsState(fids=[fid()], files=[OpenState(fid=1)], attributes=[AttributeState(fid=1)]),
            "have 2 fids, 1 different ones",
        ),
        (FidsState(fids=[fid(kind=1)]), "p9-fid.kind is 0x1, must be within 0xf000"),
        (FidsState(fids=[fid(kind=0, qid=1)]), "p9-fid.kind is 0, nothing, with qid 0x1"),
        *(
            (FidsState(fids=[fid(path)]), f"p9-fid.path {path[:40]!r} leads out of a share")
            for path in (b"..", b"a/../b", b"/a", b"a//b", b"a/", b".", b"a\0b", b"x" * 256)
        ),
        (FidsState(fids=[fid()], files=[OpenState(fid=1, flags=CREATE)]), "p9-open.flags is 0o100, must be within"),
    ],
)
def test_a_state_that_no_session_has_is_refused(state: FidsState, told: str) -> None:
    with pytest.raises(StateError, match="p9-") as refusal:
        parse(FidsState, 1, unchecked(state))
    assert told in str(refusal.value)


def unchecked(state: FidsState) -> Wire:
    """The wire form of what `dump` would refuse."""
    plain = {name: getattr(state, name) for name in ("root", "root_born")}
    lists = {name: [fields_of(item) for item in getattr(state, name)] for name in ("fids", "files", "attributes")}
    return {**plain, **lists}


def fields_of(state: FidState | OpenState | AttributeState) -> Wire:
    return {name: getattr(state, name) for name in dump(type(state)())}
