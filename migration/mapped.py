"""Content that lies page-aligned in the stream's file, so that it can be mapped instead of read.

A MAP frame says what comes; from the next page boundary of the file on lie `size` bytes, sparse where they are zero; frames go
on behind them. Restoring 1 GiB so costs a mmap, and only pages that the guest touches are ever read. Its price: the hash of a
MAP frame does not cover the region; damage on the host's disk is the host's file system's to find.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from emu.errors import MigrationError, StreamError
from migration.channel import Channel
from migration.protocols import PAGE, DiskCopy, RamBlock
from migration.stream import Kind, StreamWriter
from migration.vmstate import Wire

GAP = 8  # pages; zero runs shorter than this are written, which is cheaper than another system call
SCAN = 4096  # pages looked at for zeros at a time


@dataclass(frozen=True, slots=True)
class MappedRegion:
    """`size` bytes of the file behind `fd`, from `offset` on."""

    fd: int
    offset: int
    size: int


def map_ram(regions: Iterable[tuple[RamBlock, MappedRegion]]) -> None:
    """Put RAM that lies in a file in place."""
    for block, region in regions:
        block.map_file(region.fd, region.offset)


def load_disks(regions: Iterable[tuple[DiskCopy, MappedRegion]]) -> None:
    """Give disks the content that lies in a file."""
    for disk, region in regions:
        disk.load(region.fd, region.offset)


def _file(channel: Channel) -> int:
    fd = channel.file
    if fd is None:
        raise MigrationError(f"{channel.label}: mapped RAM needs a regular file")
    return fd


def _next_page(fd: int) -> int:
    return -(-os.lseek(fd, 0, os.SEEK_CUR) // PAGE) * PAGE


def find_region(channel: Channel, size: Wire, expected: int, name: str) -> MappedRegion:
    """The region behind a MAP frame that was just read; moves the channel behind it."""
    fd = _file(channel)
    if size != expected:
        raise StreamError(f"MAP frame: {name} has {size!r:.40} bytes in the stream, must have {expected}")
    offset = _next_page(fd)
    held = os.fstat(fd).st_size
    if offset + expected > held:
        raise StreamError(f"MAP frame: {name} needs the file to have {offset + expected} bytes, it has {held}")
    os.lseek(fd, offset + expected, os.SEEK_SET)
    return MappedRegion(fd, offset, expected)


def write_ram(writer: StreamWriter, channel: Channel, block: RamBlock) -> None:
    """Write a MAP frame and one block of RAM behind it, skipping zero pages."""
    writer.frame(Kind.MAP, {"block": block.name, "size": block.size})
    fd = _file(channel)
    offset = _next_page(fd)
    data = block.words.reshape(-1).data.cast("B")
    with _past_the_cache(fd, data[:PAGE], offset) as direct:
        for first, last in _filled_runs(block):
            view = data[first * PAGE : last * PAGE]
            at = offset + first * PAGE
            while view:
                count = os.pwrite(direct, view, at)
                view, at = view[count:], at + count
                writer.bytes_written += count
    os.lseek(fd, offset + block.size, os.SEEK_SET)


@contextlib.contextmanager
def _past_the_cache(fd: int, page: memoryview, offset: int) -> Iterator[int]:
    """A descriptor of the same file whose page-aligned writes go straight to the disk, or `fd` where there is no such thing.

    RAM would be copied into as much memory again, which the host has to find first, while the guest stands still. That the
    file system, the disk and the memory at hand allow it shows when `page` is written to `offset`.
    """
    with contextlib.ExitStack() as stack:
        try:
            direct = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            stack.callback(os.close, direct)
            os.pwrite(direct, page, offset)
        except OSError:
            direct = fd
        yield direct


def write_disk(writer: StreamWriter, channel: Channel, disk: DiskCopy) -> None:
    """Write a MAP frame and a disk's content behind it."""
    writer.frame(Kind.MAP, {"disk": disk.name, "size": disk.size})
    fd = _file(channel)
    offset = _next_page(fd)
    writer.bytes_written += disk.save(fd, offset)
    end = offset + disk.size
    os.ftruncate(fd, max(os.fstat(fd).st_size, end))
    os.lseek(fd, end, os.SEEK_SET)


def _filled_runs(block: RamBlock) -> list[tuple[int, int]]:
    """Page runs [first, last) that hold something, merged over gaps shorter than GAP."""
    pages = []
    for first, count in block.present().tolist():
        for start in range(first, first + count, SCAN):
            words = block.words[start : min(start + SCAN, first + count)]
            pages.append(np.flatnonzero(np.bitwise_or.reduce(words, axis=1)) + start)
    filled = np.concatenate(pages) if pages else np.empty(0, np.int64)
    if not len(filled):
        return []
    breaks = np.flatnonzero(np.diff(filled) > GAP)
    firsts = filled[np.concatenate([[0], breaks + 1])]
    lasts = filled[np.concatenate([breaks, [len(filled) - 1]])] + 1
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
