"""Compressed clusters: one raw deflate stream or one zstd frame each, with up to 511 bytes of something else behind it."""

from __future__ import annotations

import zlib

import zstandard

RAW_DEFLATE = -zlib.MAX_WBITS


class DecompressError(Exception):
    """Raised when a cluster cannot be decompressed; says why."""


def decompress(packed: bytes | bytearray, size: int, compression: str) -> bytes:
    """The `size` bytes of a cluster."""
    data = _inflate(packed, size) if compression == "zlib" else _unzstd(packed, size)
    if len(data) != size:
        raise DecompressError(f"it decompresses to {len(data)} bytes, must be {size}")
    return data


def _inflate(packed: bytes | bytearray, size: int) -> bytes:
    try:
        return zlib.decompressobj(RAW_DEFLATE).decompress(packed, size)
    except zlib.error as exc:
        raise DecompressError(str(exc)) from exc


def _unzstd(packed: bytes | bytearray, size: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as frame:
            return frame.read(size)
    except zstandard.ZstdError as exc:
        raise DecompressError(str(exc)) from exc
