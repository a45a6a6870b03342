"""Guest RAM: one private mapping of this process, which the guest's CPU writes without our taking part."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emu.errors import ConfigError, EmuError
from emu.pagemap import PAGE as PAGE
from emu.pagemap import PageIs, Pagemap

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORDS_PER_PAGE = PAGE // 8
MAX_SIZE = 1 << 46  # half of what a 47-bit user address space holds; a typing error, not a guest
MAP_NORESERVE = 0x4000  # Linux; the mmap module names it from Python 3.13 on
MAP_FIXED = 0x10  # the mmap module does not name it


class Ram:
    """A block of guest RAM, all zero at first; a page costs host memory from its first write on.

    `name` is the block's name in a stream, `base` its guest-physical address. `view` and `words` are the content, in place.
    """

    def __init__(self, name: str, base: int, size: int) -> None:
        """ConfigError when `size` is not a positive multiple of the page size, EmuError when the host has no room for it."""
        if size <= 0 or size % PAGE or size > MAX_SIZE:
            raise ConfigError(f"RAM {name} of {size} bytes: the size must be a positive multiple of {PAGE}, at most {MAX_SIZE}")
        self.name = name
        self.base = base
        self.size = size
        # Held as a Python mmap so that a view somebody still has keeps the memory: no dangling pointer, ever.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            self._mapping = mmap.mmap(-1, size, flags)
        except (OSError, OverflowError) as exc:
            raise EmuError(f"no room for {size} bytes of RAM {name}: {exc}") from exc
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self.view = memoryview(self._mapping)
        self.words: NDArray[np.uint64] = np.frombuffer(self._mapping, np.uint64).reshape(-1, WORDS_PER_PAGE)
        self._from_file = False
        self._advise()

    def map_file(self, fd: int, offset: int) -> None:
        """Make the content that of the file `fd` from `offset` on, page by page as it is touched; the file is never written.

        The file must hold `size` bytes there (else EmuError, and the content stays) and must not be changed or cut while it is
        mapped. Dirty logs must be started again.
        """
        if offset < 0 or offset % PAGE:
            raise EmuError(f"RAM {self.name} cannot be mapped from file offset {offset}: not a multiple of {PAGE}")
        length = os.fstat(fd).st_size
        if length < offset + self.size:
            raise EmuError(f"RAM {self.name} needs {self.size} bytes at file offset {offset}, the file ends at {length}")
        self._map_over(mmap.MAP_PRIVATE, fd, offset)
        self._from_file = True

    def discard(self) -> None:
        """Make every page zero and give its host memory back. Dirty logs must be started again."""
        self._map_over(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        self._from_file = False

    def present(self) -> NDArray[np.int64]:
        """Runs [first page, count] that may hold something; every other page is zero."""
        everything = np.array([[0, self.size // PAGE]], np.int64)
        if self._from_file:
            return everything
        pagemap = Pagemap()
        try:
            return pagemap.scan(self.address, self.size, any_of=_held_somewhere(), none_of=PageIs.PFNZERO)
        except OSError:
            return everything  # a kernel before 6.7 cannot tell
        finally:
            pagemap.close()

    def close(self) -> None:
        """Let go of the memory, after the engine that uses it is closed. It goes back to the host with the last view of it."""
        del self.words, self.view, self._mapping

    def _map_over(self, flags: int, fd: int, offset: int) -> None:
        """Put another mapping in the place of this one; the mmap object still unmaps the range when it goes."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
        got = libc.mmap(self.address, self.size, mmap.PROT_READ | mmap.PROT_WRITE, flags | MAP_FIXED, fd, offset)
        if got != self.address:
            raise EmuError(f"cannot map RAM {self.name} anew: {os.strerror(ctypes.get_errno())}")
        self._advise()

    def _advise(self) -> None:
        """A huge page would cost 2 MiB for a touched or dirty byte, and speeds a guest up by 5 % at most."""
        self._mapping.madvise(mmap.MADV_NOHUGEPAGE)


def _held_somewhere() -> PageIs:
    """The categories of a page that has content.

    A dirty log's mark on a page that is not there yet looks like a page swapped out; without swap it can be nothing else.
    """
    has_swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    return PageIs.PRESENT | PageIs.SWAPPED if has_swap else PageIs.PRESENT
