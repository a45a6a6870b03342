"""The header of a qcow2 image and its extensions (docs/interop/qcow2.txt): parsed, and refused when it cannot be right.

Refused in words: encryption, an external data file, extended L2 entries, and any incompatible feature this build does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

MAGIC = b"QFI\xfb"

# Bits of incompatible_features.
DIRTY = 1 << 0  # refcounts may be wrong: rebuild them before the first write
CORRUPT = 1 << 1
EXTERNAL_DATA = 1 << 2
COMPRESSION_TYPE = 1 << 3
EXTENDED_L2 = 1 << 4

COMPRESSIONS = ("zlib", "zstd")

# Offsets of the fields that change while an image is in use.
AT_L1 = 36  # entries, offset of the table
AT_REFCOUNTS = 48  # offset of the table, clusters
AT_SNAPSHOTS = 60  # number, offset of the table
AT_INCOMPATIBLE = 72
AT_AUTOCLEAR = 88

MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 21
MAX_REFCOUNT_ORDER = 6
MAX_SIZE = 1 << 62  # bytes; offsets stay within what preadv takes
MAX_L1 = 32 << 20  # bytes, as QEMU: an L1 table is read at once
MAX_REFCOUNT_TABLE = 8 << 20  # bytes, as QEMU
MAX_SNAPSHOTS = 65536
MAX_BACKING_NAME = 1023
MAX_EXTENSIONS = 64  # QEMU writes four

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_FEATURE = struct.Struct("BB46s")
_INCOMPATIBLE_FEATURE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the first cluster says, checked. Offsets and sizes are bytes."""

    version: int
    size: int
    cluster_bits: int
    l1_offset: int
    l1_entries: int
    refcount_offset: int
    refcount_clusters: int
    refcount_order: int
    snapshots: int
    snapshots_offset: int
    incompatible: int
    autoclear: int
    compression: str
    backing: str
    backing_format: str  # empty when the image does not say

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return 1 << self.cluster_bits

    @property
    def disk_l1_entries(self) -> int:
        """L1 entries that the disk takes; a machine's state, if there is one, begins behind them."""
        return -(-self.size >> (2 * self.cluster_bits - 3))


def read_header(file: Storage) -> Header:
    """The header of an image; ImageError CORRUPT for one that cannot be used."""
    return _Reader(file).read()


class _Reader:
    def __init__(self, file: Storage) -> None:
        self._file = file
        self._raw = _read(file, min(file.size, 1 << MIN_CLUSTER_BITS))

    def _refuse(self, text: str) -> NoReturn:
        raise ImageError(ImageErrorKind.CORRUPT, self._file.path, text)

    def read(self) -> Header:
        raw = self._raw
        if len(raw) < _V2.size or not raw.startswith(MAGIC):
            self._refuse("is no qcow2 image")
        (_, version, backing_at, backing_length, bits, size, crypt, l1_entries, l1_offset, *rest) = _V2.unpack_from(raw)
        refcount_offset, refcount_clusters, snapshots, snapshots_offset = rest
        if version not in (2, 3):
            self._refuse(f"is qcow version {version}, this build knows 2 and 3")
        if not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
            self._refuse(f"has clusters of 2^{bits} bytes, must be 2^{MIN_CLUSTER_BITS}..2^{MAX_CLUSTER_BITS}")
        raw = self._raw = _read(self._file, min(self._file.size, 1 << bits))
        incompatible = autoclear = compression = 0
        order, length = 4, _V2.size
        if version == 3:
            if len(raw) < _V2.size + _V3.size:
                self._refuse(f"ends within its header, at {len(raw)} bytes")
            incompatible, _compatible, autoclear, order, length = _V3.unpack_from(raw, _V2.size)
            if not _V2.size + _V3.size <= length <= 1 << bits:
                self._refuse(f"has a header of {length} bytes, must be {_V2.size + _V3.size}..{1 << bits}")
            if length > _V2.size + _V3.size and len(raw) > length:
                compression = raw[_V2.size + _V3.size]
        if order > MAX_REFCOUNT_ORDER:
            self._refuse(f"has refcounts of 2^{order} bits, at most 2^{MAX_REFCOUNT_ORDER} are allowed")
        extensions = dict(self._extensions(length, min(backing_at or 1 << bits, 1 << bits)))
        self._check_features(incompatible, extensions.get(_FEATURE_NAMES, b""))
        if crypt:
            self._refuse("is encrypted, which is not supported")
        if compression >= len(COMPRESSIONS) or bool(incompatible & COMPRESSION_TYPE) != bool(compression):
            self._refuse(f"has compression type {compression}, known are {', '.join(COMPRESSIONS)}")
        if size > MAX_SIZE:
            self._refuse(f"has a disk of {size} bytes, at most {MAX_SIZE} are allowed")
        needed = -(-size >> (2 * bits - 3))
        if not needed <= l1_entries <= MAX_L1 // 8:
            self._refuse(f"has {l1_entries} L1 entries, must be {needed}..{MAX_L1 // 8}")
        if not 1 <= refcount_clusters <= MAX_REFCOUNT_TABLE >> bits:
            self._refuse(f"has {refcount_clusters} clusters of refcount table, must be 1..{MAX_REFCOUNT_TABLE >> bits}")
        if snapshots > MAX_SNAPSHOTS:
            self._refuse(f"has {snapshots} snapshots, at most {MAX_SNAPSHOTS} are allowed")
        self._check_table("L1 table", l1_offset, l1_entries * 8, bits)
        self._check_table("refcount table", refcount_offset, refcount_clusters << bits, bits)
        self._check_table("snapshot table", snapshots_offset, snapshots, bits)
        return Header(
            version=version,
            size=size,
            cluster_bits=bits,
            l1_offset=l1_offset,
            l1_entries=l1_entries,
            refcount_offset=refcount_offset,
            refcount_clusters=refcount_clusters,
            refcount_order=order,
            snapshots=snapshots,
            snapshots_offset=snapshots_offset,
            incompatible=incompatible,
            autoclear=autoclear,
            compression=COMPRESSIONS[compression],
            backing=self._backing(backing_at, backing_length, 1 << bits),
            backing_format=self._text(extensions.get(_BACKING_FORMAT, b""), "backing format"),
        )

    def _check_table(self, what: str, offset: int, length: int, bits: int) -> None:
        if length == 0:
            return
        if offset % (1 << bits) or offset == 0 or offset + length > self._file.size:
            text = f"has its {what} at {offset:#x}, {length} bytes, must be clusters within the file's {self._file.size:#x}"
            self._refuse(text)

    def _backing(self, offset: int, length: int, cluster: int) -> str:
        if offset == 0 or length == 0:
            return ""
        if length > MAX_BACKING_NAME or offset + length > min(cluster, len(self._raw)):
            self._refuse(f"has a backing file's name of {length} bytes at {offset:#x}, out of its first cluster")
        return self._text(self._raw[offset : offset + length], "backing file's name")

    def _text(self, raw: bytes, what: str) -> str:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self._refuse(f"has a {what} that is no text: {raw[:40]!r}")
        if not text.isprintable():
            self._refuse(f"has a {what} that is no text: {raw[:40]!r}")
        return text

    def _extensions(self, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
        for _ in range(MAX_EXTENSIONS):
            if offset + _EXTENSION.size > min(end, len(self._raw)):
                return
            kind, length = _EXTENSION.unpack_from(self._raw, offset)
            if kind == 0:
                return
            offset += _EXTENSION.size
            if offset + length > min(end, len(self._raw)):
                self._refuse(f"has a header extension {kind:#010x} of {length} bytes at {offset:#x}, past its place")
            yield kind, self._raw[offset : offset + length]
            offset += -(-length // 8) * 8
        self._refuse(f"has more than {MAX_EXTENSIONS} header extensions")

    def _check_features(self, incompatible: int, names: bytes) -> None:
        if incompatible & EXTERNAL_DATA:
            self._refuse("keeps its data in an external file, which is not supported")
        if incompatible & EXTENDED_L2:
            self._refuse("has extended L2 entries (subclusters), which are not supported")
        unknown = incompatible & ~(DIRTY | CORRUPT | COMPRESSION_TYPE)
        if unknown:
            known = {
                bit: name.rstrip(b"\0").decode(errors="replace")
                for kind, bit, name in _FEATURE.iter_unpack(names[: len(names) // _FEATURE.size * _FEATURE.size])
                if kind == _INCOMPATIBLE_FEATURE
            }
            bits = [bit for bit in range(64) if unknown >> bit & 1]
            text = ", ".join(repr(known[bit]) if bit in known else f"bit {bit}" for bit in bits)
            self._refuse(f"needs features that this build does not know: {text}")


def _read(file: Storage, length: int) -> bytes:
    raw = bytearray(length)
    file.readv(0, [raw])
    return bytes(raw)
