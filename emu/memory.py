"""Guest-physical memory as devices see it: what DMA reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from emu.errors import GuestError

if TYPE_CHECKING:
    from emu.ram import Ram


class GuestMemory:
    """All RAM by guest-physical address. An access must lie inside one block of RAM; any other is a GuestError.

    `view` and `read` may be called from any thread. `write` and `written` belong to the vCPU thread: they tell the CPU that
    code may have changed.
    """

    def __init__(self, rams: Sequence[Ram], on_write: Callable[[int, int], None]) -> None:
        """`on_write(address, size)` is called after each write, on the vCPU thread: the engine's `invalidate_code`."""
        # The largest first: nearly every access is found there.
        self._blocks = [(ram.base, ram.size, ram.view) for ram in sorted(rams, key=lambda ram: ram.size, reverse=True)]
        self._on_write = on_write

    def view(self, address: int, size: int) -> memoryview:
        """The `size` bytes at `address` in place, writable; call `written` after a write. Size 0 is allowed inside RAM."""
        block, offset = self._find(address, size)
        return block[offset : offset + size]

    def read(self, address: int, size: int) -> bytes:
        """A copy of the `size` bytes at `address`."""
        block, offset = self._find(address, size)
        return bytes(block[offset : offset + size])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` at `address`."""
        size = len(data)
        block, offset = self._find(address, size)
        block[offset : offset + size] = data
        self._on_write(address, size)

    def written(self, address: int, size: int) -> None:
        """Say that somebody wrote these bytes through `view`, on the vCPU thread and before the guest is told of it."""
        self._find(address, size)
        self._on_write(address, size)

    def _find(self, address: int, size: int) -> tuple[memoryview, int]:
        """The block that holds all of the access, and the offset in it."""
        for base, length, view in self._blocks:
            offset = address - base
            if 0 <= offset <= length - size and size >= 0:
                return view, offset
        raise GuestError(f"access to {size} bytes at {address:#x}, which is not inside RAM")
