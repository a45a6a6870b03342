"""Guest time. It stands still while the guest is stopped, so that neither a pause, a snapshot nor a migration is a jump."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from migration.vmstate import State, VMState, u64


class Timer:
    """One deadline of one device. The device saves the deadline and arms the timer again after a load."""

    __slots__ = ("_clock", "callback", "deadline")

    def __init__(self, clock: VirtualClock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.callback = callback
        self.deadline: int | None = None

    def arm(self, deadline: int) -> None:
        """Call back once, at `deadline` ns of guest time or as soon after it as the vCPU thread can."""
        self.deadline = deadline
        self._clock.deadline_changed()

    def cancel(self) -> None:
        """Forget the deadline; harmless when none is set."""
        self.deadline = None


class Clock(Protocol):
    """What a device sees of time."""

    def now(self) -> int:
        """Nanoseconds of guest time since power-on."""

    def timer(self, callback: Callable[[], None]) -> Timer:
        """Make a timer that calls back on the vCPU thread."""


@dataclass(slots=True, kw_only=True)
class ClockState(State):
    """Guest time at the moment of the save."""

    VMSTATE: ClassVar[VMState] = VMState("clock", version=1, minimum=1)
    now: int = u64()


class VirtualClock:
    """Guest time driven by the host's monotonic clock, which comes in by the constructor; stopped until `start`.

    `now` may be called from any thread; all else is called on the vCPU thread.
    """

    STATE: ClassVar[type[State]] = ClockState

    def __init__(self, host_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.name = "clock"
        self._host_ns = host_ns
        self._offset = 0  # guest time = host time + offset while running
        self._stopped_at: int | None = 0
        self._timers: list[Timer] = []
        self.on_deadline: Callable[[], None] = lambda: None

    def now(self) -> int:
        """Nanoseconds of guest time since power-on."""
        stopped_at = self._stopped_at
        return self._host_ns() + self._offset if stopped_at is None else stopped_at

    def start(self) -> None:
        """Let guest time pass; harmless when it does."""
        if self._stopped_at is not None:
            self._offset = self._stopped_at - self._host_ns()
            self._stopped_at = None

    def stop(self) -> None:
        """Hold guest time; harmless when it is held."""
        self._stopped_at = self.now()

    def timer(self, callback: Callable[[], None]) -> Timer:
        """Make a timer that calls back on the vCPU thread, from `fire`."""
        timer = Timer(self, callback)
        self._timers.append(timer)
        return timer

    def deadline_changed(self) -> None:
        """A timer was armed: whoever sleeps until `next_deadline` must look again."""
        self.on_deadline()

    def next_deadline(self) -> int | None:
        """The earliest deadline in ns of guest time, None when no timer is armed."""
        return min((timer.deadline for timer in self._timers if timer.deadline is not None), default=None)

    def fire(self) -> None:
        """Call back every timer whose deadline has passed, the earliest first."""
        now = self.now()
        due = [timer for timer in self._timers if timer.deadline is not None and timer.deadline <= now]
        for timer in sorted(due, key=lambda timer: timer.deadline or 0):
            timer.deadline = None
            timer.callback()

    def reset(self) -> None:
        """Keep time as it is: a reboot does not set a guest's clock back."""

    def save(self) -> ClockState:
        """Guest time now."""
        return ClockState(now=self.now())

    def load(self, state: ClockState) -> None:
        """Continue at the saved time, stopped."""
        self._stopped_at = state.now
