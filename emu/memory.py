"""Guest-physical memory as devices see it: what DMA reads and writes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from emu.errors import GuestError

if TYPE_CHECKING:
    from emu.ram import Ram

U16 = struct.Struct("<H")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


class GuestMemory:
    """All RAM by guest-physical address. An access must lie inside one block of RAM; any other is a GuestError.

    `read` and the like may be called from any thread. `write` and the like belong to the vCPU thread, as `written` does: they
    tell the CPU that code may have changed.
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

    def read_u16(self, address: int) -> int:
        """The little-endian 16-bit value at `address`."""
        value: int = U16.unpack_from(*self._find(address, 2))[0]
        return value

    def read_u32(self, address: int) -> int:
        """The little-endian 32-bit value at `address`."""
        value: int = U32.unpack_from(*self._find(address, 4))[0]
        return value

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit value at `address`."""
        value: int = U64.unpack_from(*self._find(address, 8))[0]
        return value

    def write_u16(self, address: int, value: int) -> None:
        """Put a 16-bit value at `address`, little endian."""
        U16.pack_into(*self._find(address, 2), value)
        self._on_write(address, 2)

    def write_u32(self, address: int, value: int) -> None:
        """Put a 32-bit value at `address`, little endian."""
        U32.pack_into(*self._find(address, 4), value)
        self._on_write(address, 4)

    def write_u64(self, address: int, value: int) -> None:
        """Put a 64-bit value at `address`, little endian."""
        U64.pack_into(*self._find(address, 8), value)
        self._on_write(address, 8)

    def _find(self, address: int, size: int) -> tuple[memoryview, int]:
        """The block that holds all of the access, and the offset in it."""
        for base, length, view in self._blocks:
            offset = address - base
            if 0 <= offset <= length - size and size >= 0:
                return view, offset
        raise GuestError(f"access to {size} bytes at {address:#x}, which is not inside RAM")
