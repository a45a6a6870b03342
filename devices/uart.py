"""What UARTs have in common: a receive FIFO that a character line fills as the guest looks for input.

A UART adds its registers, what its interrupts follow from, and what happens to a character for which there is no room.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import ClassVar, TypeVar, cast

from emu.chardev import Chardev
from emu.clock import Clock, Timer
from emu.device import Device
from emu.errors import StateError
from emu.irq import IrqLine
from migration.vmstate import State


class UartState(State):
    """What the state of every UART has; each declares it among its registers, where its wire form has it."""

    __slots__ = ()
    rx: bytes  # the oldest first
    rx_breaks: int  # bit n: rx[n] is a break
    timeout_at: int | None  # ns of guest time
    backlog: bytes  # typed ahead, still on the line

    def check_fifo(self, depth: int) -> None:
        """Raise StateError if there is more in the FIFO than `depth` characters, or a break that is none of them."""
        name = self.VMSTATE.name
        if len(self.rx) > depth:
            raise StateError(f"{name}.rx holds {len(self.rx)} bytes, FIFO depth is {depth}")
        if self.rx_breaks >> len(self.rx):
            raise StateError(f"{name}.rx_breaks is {self.rx_breaks:#x}, rx holds {len(self.rx)} bytes")


UartStateT = TypeVar("UartStateT", bound=UartState)


class Uart(Device[UartStateT], ABC):
    """A UART between a guest and a character line. A subclass sets its attributes before calling `__init__`."""

    STATE: ClassVar[type[State] | None] = UartState

    def __init__(self, name: str, irq: IrqLine, chardev: Chardev, clock: Clock) -> None:
        self._irq = irq
        self._chardev = chardev
        self._clock = clock
        self._timeout = clock.timer(self._timed_out)
        self._polled = False  # while the guest reads whether there is input
        super().__init__(name)
        chardev.connect(self)

    def reset(self) -> None:
        """Power on; what is typed ahead is still on the line."""
        state = cast(type[UartStateT], self.STATE)()
        state.backlog = self._chardev.backlog
        self.load(state)

    def save(self) -> UartStateT:
        """The state, with the input that still waits outside."""
        state = copy(self.state)
        state.backlog = self._chardev.backlog
        return state

    def after_load(self) -> None:
        """Arm the timeout again and put the typed-ahead input on the line."""
        self._arm(self._timeout, self.state.timeout_at, self._timeout_ns())
        self._chardev.restore_backlog(self.state.backlog)

    # emu.chardev.Receiver

    def can_receive(self) -> int:
        """How much the guest looks for that the FIFO does not have; nothing in loopback, which cuts the line off."""
        return 0 if self._loopback() else max(0, self._wanted() - len(self.state.rx))

    def receive(self, data: bytes) -> None:
        """Put input in the FIFO."""
        self.state.rx += data
        self._restart_timeout()
        self._update_irq()

    def receive_break(self) -> None:
        """A break: a null character that is told to be one."""
        if not self._loopback():
            self._shift_in(0, is_break=True)

    # What a UART is, beyond its FIFO.

    @abstractmethod
    def _loopback(self) -> bool:
        """Whether the transmitter feeds the receiver instead of the line."""

    @abstractmethod
    def _wanted(self) -> int:
        """How many characters in the FIFO the guest looks for."""

    @abstractmethod
    def _shift_in(self, value: int, *, is_break: bool = False) -> None:
        """One character comes in, room or not."""

    @abstractmethod
    def _timeout_ns(self) -> int:
        """How long the FIFO lies untouched until the guest is told of it."""

    @abstractmethod
    def _timeout_runs(self) -> bool:
        """Whether there is something to tell after that time."""

    @abstractmethod
    def _timed_out(self) -> None:
        """That time is over."""

    @abstractmethod
    def _update_irq(self) -> None:
        """Set the interrupt line to what follows from the state."""

    # What a UART calls.

    def _poll(self) -> None:
        """The guest reads whether there is input: one character comes, if none is there."""
        self._polled = True
        self._chardev.accept_input()
        self._polled = False

    def _put(self, value: int, *, is_break: bool) -> None:
        """A character for which there is room."""
        self.state.rx_breaks |= is_break << len(self.state.rx)
        self.state.rx += bytes([value])

    def _take(self) -> int:
        """The oldest character, of those there are."""
        value = self.state.rx[0]
        self.state.rx = self.state.rx[1:]
        self.state.rx_breaks >>= 1
        return value

    def _empty(self) -> None:
        """Forget what is in the FIFO."""
        self.state.rx, self.state.rx_breaks = b"", 0

    def _transmit(self, value: int) -> None:
        """A character leaves the moment it is written."""
        if self._loopback():
            self._shift_in(value)
        else:
            self._chardev.write(bytes([value]))

    def _restart_timeout(self) -> None:
        self.state.timeout_at = self._clock.now() + self._timeout_ns() if self._timeout_runs() else None
        self._arm(self._timeout, self.state.timeout_at, self._timeout_ns())

    def _arm(self, timer: Timer, deadline: int | None, most: int) -> None:
        """Have `timer` ring at `deadline`, in `most` ns at the latest: a stream may say anything."""
        if deadline is None:
            timer.cancel()
        else:
            timer.arm(min(deadline, self._clock.now() + most))
