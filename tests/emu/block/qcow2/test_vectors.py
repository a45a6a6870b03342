"""Buffers taken in pieces: each byte once, in order, whatever the pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emu.block.qcow2.vectors import Vectors


@given(st.lists(st.binary(max_size=5), max_size=6), st.lists(st.integers(0, 9), max_size=8))
def test_pieces_are_the_buffers_bytes_in_order(buffers: list[bytes], lengths: list[int]) -> None:
    vectors, expected = Vectors(buffers), b"".join(buffers)
    for wanted in (*lengths, 0, len(expected), 0):
        length = min(wanted, vectors.left)
        assert b"".join(vectors.take(length)) == expected[:length]
        expected = expected[length:]
        assert vectors.left == len(expected)
