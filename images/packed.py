"""Kernels as distributions ship them, without the code that unpacks them: a guest takes up to half a minute for that.

| kernel | documentation (Linux) | compressed with |
|---|---|---|
| gzip file | | gzip |
| EFI zboot | drivers/firmware/efi/libstub/zboot-header.S | gzip |
| zImage (ARM) | Documentation/arch/arm/booting.rst | xz |
| bzImage (x86) | Documentation/arch/x86/boot.rst | xz, zstd |
"""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import zlib

import zstandard

from emu.errors import EmuError

GZIP_MAGIC, ZSTD_MAGIC, XZ_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"
ZBOOT_MAGIC_AT, ZBOOT_MAGIC = 4, b"zimg"
ZIMAGE_MAGIC_AT, ZIMAGE_MAGIC = 0x24, b"\x18\x28\x6f\x01"
BZIMAGE_MAGIC_AT, BZIMAGE_MAGIC = 0x202, b"HdrS"
SETUP_SECTS, PAYLOAD = 0x1F1, 0x248  # sectors of set-up code; offset behind them, and size
SECTOR = 512


def unpack_kernel(data: bytes) -> bytes:
    """The kernel alone; one that is packed in no known way comes back as it is. EmuError when it is broken."""
    if data[ZIMAGE_MAGIC_AT : ZIMAGE_MAGIC_AT + 4] == ZIMAGE_MAGIC:
        return _from_zimage(data)
    if data[BZIMAGE_MAGIC_AT : BZIMAGE_MAGIC_AT + 4] == BZIMAGE_MAGIC:
        return _from_bzimage(data)
    if data[ZBOOT_MAGIC_AT : ZBOOT_MAGIC_AT + 4] == ZBOOT_MAGIC:
        data = _from_zboot(data)
    try:
        return gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data
    except (OSError, EOFError, zlib.error) as exc:
        raise EmuError(f"kernel: broken gzip data: {exc}") from exc


def _from_zboot(data: bytes) -> bytes:
    offset, size = struct.unpack_from("<II", data, 8)
    method = data[24:56].partition(b"\0")[0].decode(errors="replace")
    if method != "gzip":
        raise EmuError(f"kernel: EFI zboot compressed with {method}, known is gzip")
    return data[offset : offset + size]


def _from_zimage(data: bytes) -> bytes:
    for magic in re.finditer(re.escape(XZ_MAGIC), data):
        payload = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        try:
            image = payload.decompress(data[magic.start() :])
        except lzma.LZMAError:
            continue  # the magic is also in the code that looks for it
        if payload.eof:
            return image
    raise EmuError("kernel: a zImage that is not compressed with xz, known is xz")


def _from_bzimage(data: bytes) -> bytes:
    start, size = struct.unpack_from("<II", data, PAYLOAD)
    start += SECTOR * (1 + (data[SETUP_SECTS] or 4))
    payload = data[start : start + size]  # and the size of what it unpacks to
    try:
        if payload.startswith(XZ_MAGIC):
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
        if payload.startswith(ZSTD_MAGIC):
            return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    except (lzma.LZMAError, zstandard.ZstdError) as exc:
        raise EmuError(f"kernel: broken compressed data: {exc}") from exc
    return data
