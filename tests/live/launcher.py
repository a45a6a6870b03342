"""Starts the emu command line with a fault planted at one migration step.

    python -m tests.live.launcher STEP kill -- run …          the process kills itself there (SIGKILL)
    python -m tests.live.launcher STEP tell:SOCKET -- run …   it reports there and waits for an answer before it goes on
    python -m tests.live.launcher STEP full -- run …          from there on nothing more gets onto its disks

The product has no fault switches of its own: it only calls the hook that `main` is given.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys

from emu.cli.main import main
from migration.protocols import Step, StepHook


def kill_at(at: Step) -> StepHook:
    """A hook that ends the process at one step, with no chance to clean up."""

    def hook(step: Step) -> None:
        if step is at:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def tell_at(at: Step, path: str) -> StepHook:
    """A hook that stops at one step until the listener at `path` answers."""

    def hook(step: Step) -> None:
        if step is at:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(path)
                peer.sendall(step.encode() + b"\n")
                peer.recv(1)

    return hook


def full_at(at: Step) -> StepHook:
    """A hook after which the host has no room for what it was to put on its disks."""

    def no_space(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hook(step: Step) -> None:
        if step is at:
            os.fsync = os.fdatasync = no_space

    return hook


def hook_for(step: Step, action: str) -> StepHook:
    """What the command line orders."""
    name, _colon, path = action.partition(":")
    return {"kill": kill_at, "full": full_at}[name](step) if not path else tell_at(step, path)


if __name__ == "__main__":
    name, action, separator, *arguments = sys.argv[1:]
    assert separator == "--", sys.argv
    sys.exit(main(arguments, hook=hook_for(Step(name), action)))
