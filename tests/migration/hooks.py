"""Where a migration in tests is struck, held or cancelled, and how one is run to its end."""

from __future__ import annotations

import threading
from pathlib import Path

from emu.errors import MigrationError
from migration.manager import Migrations
from migration.protocols import Step
from migration.settings import DiskMode

WAIT = 10  # seconds; only a hang takes so long

AFTER_GO = (Step.GO_SENT, Step.RUNNING_HEARD, Step.RUNNING, Step.RUNNING_SENT)
BEFORE_RUNNING = [step for step in Step if step not in AFTER_GO]


class Strike:
    """A hook that fails at one step."""

    def __init__(self, at: Step) -> None:
        self.at = at

    def __call__(self, step: Step) -> None:
        if step is self.at:
            raise MigrationError(f"struck at {step}")


class Gate:
    """A hook that holds the migration at one step until told to go on."""

    def __init__(self, at: Step) -> None:
        self.at = at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, step: Step) -> None:
        if step is self.at:
            self.reached.set()
            assert self.go_on.wait(WAIT)


def uri_of(scheme: str, folder: Path) -> str:
    """Where a destination in this process listens."""
    return {"unix": f"unix:{folder / 'm.sock'}", "tcp": "tcp:127.0.0.1:0", "tcp6": "tcp:[::1]:0"}[scheme]


def move(source: Migrations, destination: Migrations, uri: str, disks: DiskMode = DiskMode.SHARED) -> None:
    """Migrate, to the end of both sides."""
    source.migrate(destination.incoming(uri), disks)
    assert source.wait_over(WAIT)
    assert destination.wait_over(WAIT)


def cancel_at(gate: Gate, source: Migrations, destination: Migrations) -> None:
    """Cancel the migration that comes to `gate`, to the end of both sides."""
    assert gate.reached.wait(WAIT)
    source.cancel()
    gate.go_on.set()
    assert source.wait_over(WAIT)
    assert destination.wait_over(WAIT)
