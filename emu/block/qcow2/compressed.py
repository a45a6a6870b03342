"""Compressed clusters: one raw deflate stream or one zstd frame each, with up to 511 bytes of something else behind it."""

from __future__ import annotations

import ctypes
import zlib
from functools import cache

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


@cache
def _libzstd() -> ctypes.CDLL:
    """zstd's library (zstd.h), which Python has no module for before 3.14."""
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as exc:
        raise DecompressError("it is compressed with zstd, and libzstd.so.1 is not installed") from exc
    library.ZSTD_findFrameCompressedSize.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    library.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    library.ZSTD_isError.restype = ctypes.c_uint
    return library


def _unzstd(packed: bytes | bytearray, size: int) -> bytes:
    library, source = _libzstd(), bytes(packed)
    length = library.ZSTD_findFrameCompressedSize(source, len(source))
    if library.ZSTD_isError(length):
        raise DecompressError("it is no whole zstd frame")
    target = ctypes.create_string_buffer(size)
    done = library.ZSTD_decompress(target, size, source, length)
    if library.ZSTD_isError(done):
        raise DecompressError("its zstd frame is broken")
    return target.raw[:done]
