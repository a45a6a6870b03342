"""The two times a device sees.

Guest time stands still while the guest is stopped, so that neither a pause, a snapshot nor a migration is a jump. Wall time is
the time of day for real-time clocks: the host's, which passes all the while. A machine that is to be deterministic has no such
time: its wall time is guest time from a fixed start on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar, Protocol

from migration.vmstate import State, VMState, u64

DETERMINISTIC_START = 1_577_836_800_000_000_000  # ns: 2020-01-01T00:00Z
LOOK_AT_WALL = 1_000_000_000  # ns between two looks whether a wall timer is due: the host's clock may be set at any time


class Timer:
    """One deadline of one device. The device saves the deadline and arms the timer again after a load."""

    __slots__ = ("_clock", "callback", "deadline")

    def __init__(self, clock: VirtualClock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.callback = callback
        self.deadline: int | None = None

    def arm(self, deadline: int) -> None:
        """Call back once, at `deadline` ns of the timer's time or as soon after it as the vCPU thread can."""
        self.deadline = deadline
        self._clock.deadline_changed()

    def cancel(self) -> None:
        """Forget the deadline; harmless when none is set."""
        if self.deadline is not None:
            self.deadline = None
            self._clock.deadline_changed()


class Clock(Protocol):
    """What a device sees of time."""

    def now(self) -> int:
        """Nanoseconds of guest time since power-on."""

    def timer(self, callback: Callable[[], None]) -> Timer:
        """Make a timer of guest time that calls back on the vCPU thread."""

    def wall(self) -> int:
        """Nanoseconds since 1970-01-01T00:00Z; goes on while the guest is stopped, and where the host's clock is set to."""

    def wall_timer(self, callback: Callable[[], None]) -> Timer:
        """Make a timer of wall time that calls back on the vCPU thread while the guest runs."""


@dataclass(slots=True, kw_only=True)
class ClockState(State):
    """Guest time at the moment of the save."""

    VMSTATE: ClassVar[VMState] = VMState("clock", version=1, minimum=1)
    now: int = u64()


class VirtualClock:
    """Guest time driven by the host's monotonic clock, which comes in by the constructor; stopped until `start`.

    `now` and `wall` may be called from any thread; all else is called on the vCPU thread.
    """

    STATE: ClassVar[type[State]] = ClockState

    def __init__(
        self, host_ns: Callable[[], int] = time.monotonic_ns, wall_ns: Callable[[], int] | None = time.time_ns
    ) -> None:
        """`wall_ns` is the host's time of day; None makes wall time follow guest time, from DETERMINISTIC_START on."""
        self.name = "clock"
        self._host_ns = host_ns
        self._wall_ns = wall_ns
        self._offset = 0  # guest time = host time + offset while running
        self._stopped_at: int | None = 0
        self._timers: list[Timer] = []
        self._wall_timers: list[Timer] = []
        self.on_deadline: Callable[[], None] = lambda: None

    def now(self) -> int:
        """Nanoseconds of guest time since power-on."""
        stopped_at = self._stopped_at
        return self._host_ns() + self._offset if stopped_at is None else stopped_at

    def wall(self) -> int:
        """Nanoseconds since 1970-01-01T00:00Z."""
        return DETERMINISTIC_START + self.now() if self._wall_ns is None else self._wall_ns()

    def start(self) -> None:
        """Let guest time pass; harmless when it does."""
        if self._stopped_at is not None:
            self._offset = self._stopped_at - self._host_ns()
            self._stopped_at = None

    def stop(self) -> None:
        """Hold guest time; harmless when it is held."""
        self._stopped_at = self.now()

    def timer(self, callback: Callable[[], None]) -> Timer:
        """Make a timer of guest time that calls back on the vCPU thread, from `fire`."""
        timer = Timer(self, callback)
        self._timers.append(timer)
        return timer

    def wall_timer(self, callback: Callable[[], None]) -> Timer:
        """Make a timer of wall time that calls back on the vCPU thread, from `fire`."""
        timer = Timer(self, callback)
        self._wall_timers.append(timer)
        return timer

    def deadline_changed(self) -> None:
        """A timer was armed or cancelled: whoever sleeps or runs until `next_deadline` must look again."""
        self.on_deadline()

    def next_deadline(self) -> int | None:
        """When to call `fire` next, in ns of guest time; None when no timer is armed."""
        return min((deadline for deadline, _timer in self._armed(self.now())), default=None)

    def fire(self) -> None:
        """Call back every timer whose deadline has passed, the earliest first."""
        now = self.now()
        due = [(deadline, timer) for deadline, timer in self._armed(now) if deadline <= now]
        for _deadline, timer in sorted(due, key=itemgetter(0)):
            timer.deadline = None
            timer.callback()

    def _armed(self, now: int) -> list[tuple[int, Timer]]:
        """The armed timers and their deadlines in guest time; of a wall timer's, at least when to look again."""
        armed = [(deadline, timer) for timer in self._timers if (deadline := timer.deadline) is not None]
        for timer in self._wall_timers:
            if (deadline := timer.deadline) is not None:
                left = deadline - self.wall()
                armed.append((now + (left if self._wall_ns is None else min(left, LOOK_AT_WALL)), timer))
        return armed

    def reset(self) -> None:
        """Keep time as it is: a reboot does not set a guest's clock back."""

    def save(self) -> ClockState:
        """Guest time now."""
        return ClockState(now=self.now())

    def load(self, state: ClockState) -> None:
        """Continue at the saved time, stopped."""
        self._stopped_at = state.now
