"""Starts the emu command line with a machine that something keeps from moving: python -m tests.live.blocked REASON -- run …

Devices of today's boards block only while a share is mounted. The reason is added where theirs are, in the machine's blockers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from emu import machine
from emu.cli.main import main
from migration.blockers import Blockers

if __name__ == "__main__":
    reason, separator, *arguments = sys.argv[1:]
    assert separator == "--", sys.argv

    class Blocked(Blockers):
        """Blockers that have a reason from the start."""

        def __init__(self, moving: Callable[[], bool]) -> None:  # noqa: ARG002 - the machine is not built yet: it cannot tell
            super().__init__()
            self.add(reason)

    machine.Blockers = Blocked  # type: ignore[misc]  # a machine asks for its blockers by this name
    sys.exit(main(arguments))
