"""A character line between a device of the guest and whatever stands outside: a terminal, a socket, a file.

    guest -> device -> write() -> back-end                    back-end -> feed() -> backlog -> receive() -> device -> guest
                                                              back-end <- room_made()         <- accept_input()

Everything here runs on the vCPU thread; a back-end posts to it. Input is never dropped: the device takes what its FIFO holds,
the rest waits in a bounded backlog, and what does not fit there stays with the back-end until `room_made`. The backlog is
typed, not yet seen by the guest, and goes where the guest goes: the device saves it with its own state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

BACKLOG_MAX = 4096  # bytes, as many as a Linux terminal keeps; back-ends hold more by not reading


class Receiver(Protocol):
    """The device's end of the line."""

    def can_receive(self) -> int:
        """How many bytes the device can take now, 0 while it is full."""

    def receive(self, data: bytes) -> None:
        """Take input, at most `can_receive` bytes."""

    def receive_break(self) -> None:
        """The other side holds the line low for longer than a character."""


class Chardev(ABC):
    """Base of the back-ends. One that takes output overrides `write`, one that gives input calls `feed`."""

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
        self._backlog = bytearray()

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Take the guest's output, all of it, without blocking the vCPU thread."""

    def room_made(self) -> None:  # noqa: B027 - a back-end that gives no input has nothing to do
        """`feed` takes bytes again after it refused some; a back-end that gives input overrides this."""

    def connect(self, receiver: Receiver) -> None:
        """Give the line to a device; called once, when the device is built."""
        if self._receiver is not None:
            raise ValueError("a character line has one device, this one is connected already")
        self._receiver = receiver

    def feed(self, data: bytes) -> int:
        """Input for the guest. Returns how many bytes were taken; the rest is offered again after `room_made`."""
        taken = 0
        while taken < len(data) and (room := BACKLOG_MAX - len(self._backlog)):
            part = data[taken : taken + room]
            self._backlog += part
            taken += len(part)
            self._hand_over()
        return taken

    def feed_break(self) -> None:
        """Send a break, which overtakes what waits in the backlog."""
        if self._receiver is not None:
            self._receiver.receive_break()

    def accept_input(self) -> None:
        """The device can take bytes again."""
        if not self._backlog:
            return
        was_full = len(self._backlog) == BACKLOG_MAX
        self._hand_over()
        if was_full and len(self._backlog) < BACKLOG_MAX:
            self.room_made()

    @property
    def backlog(self) -> bytes:
        """Input that the device has not taken, at most BACKLOG_MAX bytes."""
        return bytes(self._backlog)

    def restore_backlog(self, backlog: bytes) -> None:
        """Have `backlog` wait in the place of what waits now. Nothing is handed over before the device asks."""
        was_full = len(self._backlog) == BACKLOG_MAX
        self._backlog[:] = backlog
        if was_full and len(backlog) < BACKLOG_MAX:
            self.room_made()

    def _hand_over(self) -> None:
        if self._receiver is None:
            return
        count = min(self._receiver.can_receive(), len(self._backlog))
        if count:
            data = bytes(self._backlog[:count])
            del self._backlog[:count]  # first: the device may ask for more from within `receive`
            self._receiver.receive(data)
