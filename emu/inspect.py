"""A stopped guest's memory as people look at it: by physical address, or as the CPU sees it."""

from __future__ import annotations

from emu.engine.core import Engine
from emu.errors import GuestError
from emu.memory import GuestMemory

GRANULE = 1024  # bytes; the smallest page of any ISA


def read_physical(memory: GuestMemory, address: int, size: int) -> bytes:
    """`size` bytes of RAM from `address` on, or as many of them as there are."""
    data = bytearray()
    while len(data) < size:
        at = address + len(data)
        try:
            data += memory.read(at, min(GRANULE - at % GRANULE, size - len(data)))
        except GuestError:
            break
    return bytes(data)


def read_virtual(engine: Engine, memory: GuestMemory, address: int, size: int) -> bytes:
    """The same by virtual address, through the CPU's own translation; between slices or in a callback."""
    data = bytearray()
    while len(data) < size:
        at = address + len(data)
        wanted = min(GRANULE - at % GRANULE, size - len(data))
        physical = engine.translate(at)
        part = b"" if physical is None else read_physical(memory, physical, wanted)
        data += part
        if len(part) < wanted:
            break
    return bytes(data)
