"""Asks the kernel which pages of this process are what: the PAGEMAP_SCAN ioctl of /proc/self/pagemap, Linux 6.7 and later.

Source: Documentation/admin-guide/mm/pagemap.rst and include/uapi/linux/fs.h.
"""

from __future__ import annotations

import os
import struct
from enum import IntFlag
from fcntl import ioctl

import numpy as np
from numpy.typing import NDArray

PAGE = 4096
PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
SCAN_ARG = struct.Struct("<12Q")  # struct pm_scan_arg
WALK_END = struct.Struct("<Q")
WALK_END_OFFSET = 32
RUNS_PER_CALL = 8192  # struct page_region is 24 bytes: 192 KiB, enough for most guests in one call


class ScanFlag(IntFlag):
    """pm_scan_arg.flags."""

    NONE = 0
    WP_MATCHING = 1  # write-protect what is reported, in the same step
    CHECK_WPASYNC = 2  # EPERM unless the range is registered for asynchronous write protection


class PageIs(IntFlag):
    """Page categories."""

    NOTHING = 0
    WRITTEN = 1 << 1
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    PFNZERO = 1 << 5


class Pagemap:
    """Scans ranges of this process's memory. One thread at a time."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._regions = np.empty((RUNS_PER_CALL, 3), np.uint64)  # struct page_region: start, end, categories

    def close(self) -> None:
        """Give the file back; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def scan(
        self,
        address: int,
        size: int,
        *,
        all_of: PageIs = PageIs.NOTHING,
        any_of: PageIs = PageIs.NOTHING,
        none_of: PageIs = PageIs.NOTHING,
        flags: ScanFlag = ScanFlag.NONE,
    ) -> NDArray[np.int64]:
        """Runs [first page from `address`, count] of the pages in all, any and none of the categories; OSError if it cannot."""
        runs: list[NDArray[np.int64]] = []
        position, end = address, address + size
        while position < end:
            arg = bytearray(
                SCAN_ARG.pack(
                    SCAN_ARG.size,
                    flags,
                    position,
                    end,
                    0,
                    self._regions.ctypes.data,
                    RUNS_PER_CALL,
                    0,
                    none_of,
                    all_of | none_of,
                    any_of,
                    all_of | any_of | none_of,
                )
            )
            count = ioctl(self._fd, PAGEMAP_SCAN, arg)
            (position,) = WALK_END.unpack_from(arg, WALK_END_OFFSET)
            bounds = (self._regions[:count, :2] - np.uint64(address)) // np.uint64(PAGE)
            bounds[:, 1] -= bounds[:, 0]
            runs.append(bounds.astype(np.int64))
        return np.concatenate(runs)
