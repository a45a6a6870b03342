"""What stands around a device in its tests: time that the test moves, a wire that remembers, a line without a terminal."""

from __future__ import annotations

from emu.chardev import Chardev
from emu.clock import VirtualClock
from emu.irq import IrqLine


class FakeClock(VirtualClock):
    """Guest time that passes when the test says so, and the host's time of day with it."""

    def __init__(self, *, wall: int = 0) -> None:
        self._host = 0
        self._host_wall = wall
        super().__init__(lambda: self._host, lambda: self._host_wall)
        self.start()

    def advance(self, ns: int) -> None:
        """Let time pass, timers included; for a stopped guest it is the host's time alone."""
        self._host += ns
        self.set_host(self._host_wall + ns)

    def set_host(self, wall: int) -> None:
        """Somebody sets the host's clock, and the vCPU thread looks at its timers."""
        self._host_wall = wall
        if self._stopped_at is None:
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
