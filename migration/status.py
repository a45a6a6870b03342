"""What a migration is doing, and which step may follow which. Names and meanings are QEMU's (qapi/migration.json)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum

from emu.errors import MigrationError


class Status(StrEnum):
    """`query-migrate`'s status."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    PRE_SWITCHOVER = "pre-switchover"  # guest stopped, disks still ours, waiting for migrate-continue
    DEVICE = "device"  # disks let go, last state on its way
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILING = "failing"
    FAILED = "failed"


_RUNNING_ENDS = frozenset({Status.CANCELLING, Status.FAILING})

TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.NONE: frozenset({Status.SETUP}),
    Status.SETUP: _RUNNING_ENDS | {Status.ACTIVE},
    Status.ACTIVE: _RUNNING_ENDS | {Status.PRE_SWITCHOVER, Status.DEVICE},
    Status.PRE_SWITCHOVER: _RUNNING_ENDS | {Status.DEVICE},
    Status.DEVICE: _RUNNING_ENDS | {Status.COMPLETED},
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    Status.FAILING: frozenset({Status.FAILED}),
    Status.COMPLETED: frozenset({Status.SETUP}),
    Status.CANCELLED: frozenset({Status.SETUP}),
    Status.FAILED: frozenset({Status.SETUP}),
}

UNDER_WAY = frozenset({Status.SETUP, Status.ACTIVE, Status.PRE_SWITCHOVER, Status.DEVICE, Status.CANCELLING, Status.FAILING})


class StatusMachine:
    """The status of one process's migrations; thread-safe. `listener` hears every change, on the thread that made it."""

    def __init__(self, listener: Callable[[Status], None] = lambda _status: None) -> None:
        self._status = Status.NONE
        self._changed = threading.Condition()
        self._listener = listener

    @property
    def status(self) -> Status:
        """The status now."""
        return self._status

    @property
    def under_way(self) -> bool:
        """Whether a migration has begun and is not over, its clean-up included."""
        return self._status in UNDER_WAY

    def go(self, new: Status) -> None:
        """Make a legal step; an illegal one is a MigrationError naming both ends."""
        with self._changed:
            if new not in TRANSITIONS[self._status]:
                raise MigrationError(f"a migration cannot go from {self._status} to {new}")
            self._status = new
            self._changed.notify_all()
        self._listener(new)

    def wait_over(self, timeout: float | None = None) -> bool:
        """Wait until no migration is under way; False when `timeout` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.under_way, timeout)
