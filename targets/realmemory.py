"""RAM as a CPU reaches it whose traps are entered, or whose instructions are read, on this side of the engine."""

from __future__ import annotations

from typing import Protocol

from emu.errors import GuestError


class RealMemory(Protocol):
    """RAM by physical address, as devices see it; GuestError where there is none."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes."""

    def write(self, address: int, data: bytes) -> None:
        """Change bytes."""


class Nothing:
    """No memory at all."""

    def read(self, address: int, size: int) -> bytes:
        """GuestError."""
        raise GuestError(f"{size} bytes at {address:#x} are not in memory")

    def write(self, address: int, data: bytes) -> None:
        """GuestError."""
        self.read(address, len(data))
