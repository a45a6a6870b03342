"""What stands around a device in its tests: time that the test moves, a wire that remembers, a line without a terminal."""

from __future__ import annotations

from emu.chardev import Chardev
from emu.clock import VirtualClock
from emu.irq import IrqLine


class FakeClock(VirtualClock):
    """Guest time that passes when the test says so."""

    def __init__(self) -> None:
        self._host = 0
        super().__init__(lambda: self._host)
        self.start()

    def advance(self, ns: int) -> None:
        """Let time pass, timers included."""
        self._host += ns
        self.fire()


class Wire:
    """The far end of an IrqLine."""

    def __init__(self) -> None:
        self.level = False
        self.changes = 0
        self.irq = IrqLine(self._set)

    def _set(self, level: bool) -> None:
        self.changes += level != self.level
        self.level = level


class MemoryChardev(Chardev):
    """Keeps what the guest says; `feed` is the keyboard."""

    def __init__(self) -> None:
        super().__init__()
        self.output = b""
        self.rooms = 0

    def write(self, data: bytes) -> None:
        self.output += data

    def room_made(self) -> None:
        self.rooms += 1
