"""Kernels are freed of what unpacks them, and left alone where nothing known does."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
import zstandard

from emu.errors import EmuError
from images.packed import unpack_kernel


def test_kernel_in_gzip_is_unpacked() -> None:
    assert unpack_kernel(gzip.compress(b"MZ kernel")) == b"MZ kernel"


def test_kernel_in_efi_zboot_is_unpacked() -> None:
    payload = gzip.compress(b"MZ kernel")
    zboot = b"MZ\0\0zimg" + struct.pack("<II8s", 64, len(payload), b"") + b"gzip".ljust(40, b"\0") + payload + b"PE padding"

    assert unpack_kernel(zboot) == b"MZ kernel"


def zimage(*payload: bytes) -> bytes:
    return bytes(0x24) + b"\x18\x28\x6f\x01" + b"".join(payload)


def test_kernel_in_a_zimage_is_unpacked() -> None:
    kernel = zimage(b"code that looks for \xfd7zXZ\0 and", lzma.compress(b"raw Image"), b"its size, a device tree")

    assert unpack_kernel(kernel) == b"raw Image"


@pytest.mark.parametrize("payload", [gzip.compress(b"raw Image"), lzma.compress(b"raw Image")[:-4]], ids=["gzip", "cut off"])
def test_kernel_in_a_zimage_that_cannot_be_unpacked_is_refused(payload: bytes) -> None:
    with pytest.raises(EmuError, match="zImage that is not compressed with xz"):
        unpack_kernel(zimage(payload))


def test_kernel_in_efi_zboot_of_another_compression_is_refused() -> None:
    with pytest.raises(EmuError, match="compressed with zstd, known is gzip"):
        unpack_kernel(b"MZ\0\0zimg" + bytes(16) + b"zstd".ljust(40, b"\0"))


def test_kernel_in_gzip_cut_short_is_refused() -> None:
    with pytest.raises(EmuError, match="kernel: broken gzip data"):
        unpack_kernel(gzip.compress(bytes(1000))[:20])


def test_kernel_that_is_not_compressed_is_left_alone() -> None:
    assert unpack_kernel(b"MZo\x10 plain Image") == b"MZo\x10 plain Image"


def bzimage(payload: bytes, sectors: int) -> bytes:
    """A boot sector, `sectors` of set-up code, four bytes of code, the payload with its unpacked size behind it."""
    image = bytearray(512 * (1 + (sectors or 4)) + 4)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 4, len(payload) + 4)
    return bytes(image) + payload + bytes(4) + b"code"


@pytest.mark.parametrize("sectors", [0, 39])
@pytest.mark.parametrize("compress", [lzma.compress, zstandard.compress], ids=["xz", "zstd"])
def test_kernel_in_a_bzimage_is_unpacked(compress: Callable[[bytes], bytes], sectors: int) -> None:
    assert unpack_kernel(bzimage(compress(b"\x7fELF kernel"), sectors)) == b"\x7fELF kernel"


@pytest.mark.parametrize("compress", [lzma.compress, zstandard.compress], ids=["xz", "zstd"])
def test_kernel_in_a_broken_bzimage_is_refused(compress: Callable[[bytes], bytes]) -> None:
    payload = bytearray(compress(bytes(1000)))
    payload[len(payload) // 2] ^= 0xFF

    with pytest.raises(EmuError, match="kernel: broken compressed data"):
        unpack_kernel(bzimage(bytes(payload), 4))


def test_kernel_in_a_bzimage_that_unpacks_itself_in_another_way_is_left_alone() -> None:
    image = bzimage(gzip.compress(b"kernel"), 4)

    assert unpack_kernel(image) == image
