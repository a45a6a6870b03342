"""The snapshot table of an image (docs/interop/qcow2.txt, "Snapshots")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.block.qcow2.header import MAX_L1, Header
from emu.block.storage import Storage
from emu.errors import ImageError, ImageErrorKind

MAX_TABLE = 64 << 20  # bytes, as QEMU
FIRST_READ = 4 << 10  # bytes of a table read at first: some fifty snapshots
MAX_EXTRA = 1024  # bytes, as QEMU
_ENTRY = struct.Struct(">QIHHIIQII")
_EXTRA = struct.Struct(">QQ")
_NO_ICOUNT = struct.pack(">q", -1)  # what QEMU shows for a machine whose instructions were not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is told about a new snapshot."""

    time_ns: int  # since 1970
    disk_size: int  # bytes
    clock_ns: int = 0  # the guest's time
    state_size: int = 0  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One internal snapshot: an L1 table, and what is told about it. Offsets and sizes are bytes."""

    id: str
    name: str
    l1_offset: int
    l1_entries: int
    date: int  # seconds since 1970
    date_ns: int
    vm_clock_ns: int
    vm_state_size: int
    disk_size: int
    raw: bytes  # the entry as it is in the table, with what this build does not know of

    @staticmethod
    def new(number: int, name: str, l1_offset: int, l1_entries: int, about: About) -> Snapshot:
        """A snapshot to be added."""
        identity, label = str(number).encode(), name.encode()
        seconds, ns = divmod(about.time_ns, 1_000_000_000)
        extra = _EXTRA.pack(about.state_size, about.disk_size) + _NO_ICOUNT
        told = (seconds & 0xFFFFFFFF, ns, about.clock_ns, min(about.state_size, 0xFFFFFFFF))
        raw = _ENTRY.pack(l1_offset, l1_entries, len(identity), len(label), *told, len(extra))
        raw += extra + identity + label
        return _parse(raw + bytes(-len(raw) % 8), 0, about.disk_size)[0]


def read_snapshots(file: Storage, header: Header) -> tuple[list[Snapshot], int]:
    """The snapshots of an image, and how many bytes their table has."""
    if header.snapshots == 0:
        return [], 0
    start = header.snapshots_offset
    most, length = min(MAX_TABLE, max(file.size - start, 0)), FIRST_READ
    while True:
        raw = bytearray(min(length, most))
        file.readv(start, [raw])
        at, snapshots = 0, []
        try:
            for _ in range(header.snapshots):
                snapshot, at = _parse(raw, at, header.size)
                snapshots.append(snapshot)
        except (struct.error, ValueError) as exc:
            if length < most:  # nothing tells how long the table is but itself
                length *= 8
                continue
            text = f"has a snapshot table that breaks off at number {len(snapshots)}"
            raise ImageError(ImageErrorKind.CORRUPT, file.path, text) from exc
        for snapshot in snapshots:
            _check_place(file, header, snapshot)
        return snapshots, at


def _check_place(file: Storage, header: Header, snapshot: Snapshot) -> None:
    end = snapshot.l1_offset + snapshot.l1_entries * 8
    if snapshot.l1_offset % header.cluster_size or snapshot.l1_entries > MAX_L1 // 8 or end > file.size:
        text = f"has snapshot {snapshot.id!r} with its L1 table at {snapshot.l1_offset:#x}..{end:#x}, out of the file"
        raise ImageError(ImageErrorKind.CORRUPT, file.path, text)


def _parse(raw: bytes | bytearray, start: int, size: int) -> tuple[Snapshot, int]:
    """The snapshot at `start` of the table, and where the next one is; `size` is the disk's unless the snapshot says."""
    l1_offset, l1_entries, id_length, name_length, date, date_ns, clock, state_size, extra = _ENTRY.unpack_from(raw, start)
    if extra > MAX_EXTRA:
        raise ValueError(extra)
    at = start + _ENTRY.size
    if extra >= _EXTRA.size:
        state_size, size = _EXTRA.unpack_from(raw, at)
    at += extra
    names = raw[at : at + id_length + name_length]
    if len(names) < id_length + name_length:
        raise ValueError(len(names))
    end = start + -(-(at + len(names) - start) // 8) * 8
    snapshot = Snapshot(
        id=names[:id_length].decode(errors="replace"),
        name=names[id_length:].decode(errors="replace"),
        l1_offset=l1_offset,
        l1_entries=l1_entries,
        date=date,
        date_ns=date_ns,
        vm_clock_ns=clock,
        vm_state_size=state_size,
        disk_size=size,
        raw=bytes(raw[start:end]).ljust(end - start, b"\0"),
    )
    return snapshot, end
