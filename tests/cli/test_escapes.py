"""Ctrl-A in the terminal: what is typed goes to the guest unchanged, orders are found wherever reads are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli.terminal import EscapeParser, Key


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"\x01x", [Key.QUIT]),
        (b"\x01X", [Key.QUIT]),
        (b"\x01c", [Key.SWITCH]),
        (b"\x01h", [Key.HELP]),
        (b"\x01?", [Key.HELP]),
        (b"\x01\x01", [b"\x01"]),
        (b"\x01\x01x", [b"\x01", b"x"]),
        (b"a\x01cb", [b"a", Key.SWITCH, b"b"]),
        (b"\x01qb", [b"b"]),
        (b"\x01", []),
        (b"\x03\x1a", [b"\x03\x1a"]),
    ],
)
def test_what_is_typed(typed: bytes, found: list[bytes | Key]) -> None:
    assert EscapeParser().feed(typed) == found


@given(st.lists(st.sampled_from([b"a", b"\x01", b"x", b"c", b"\xff", b"\r"]), max_size=12).map(b"".join), st.integers(0, 12))
def test_a_cut_between_two_reads_changes_nothing(typed: bytes, cut: int) -> None:
    parser = EscapeParser()

    in_two = joined([*parser.feed(typed[:cut]), *parser.feed(typed[cut:])])

    assert in_two == joined(EscapeParser().feed(typed))


def joined(items: list[bytes | Key]) -> list[bytes | Key]:
    """Adjacent bytes as single ones."""
    return [item if isinstance(item, Key) else item[at : at + 1] for item in items for at in range(width(item))]


def width(item: bytes | Key) -> int:
    return 1 if isinstance(item, Key) else len(item)
