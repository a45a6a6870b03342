"""What the machine is doing, and what may follow. Names are QEMU's (qapi/run-state.json)."""

from __future__ import annotations

from enum import StrEnum

from emu.errors import EmuError


class RunState(StrEnum):
    """`query-status`'s status."""

    PRELAUNCH = "prelaunch"  # built, waiting for the first `cont`
    INMIGRATE = "inmigrate"  # waiting for a guest to come in
    RUNNING = "running"
    PAUSED = "paused"
    IO_ERROR = "io-error"  # requests that the host failed wait for `cont`, which carries them out again
    FINISH_MIGRATE = "finish-migrate"
    POSTMIGRATE = "postmigrate"  # the guest lives elsewhere
    SAVE_VM = "save-vm"
    RESTORE_VM = "restore-vm"
    SHUTDOWN = "shutdown"  # the guest switched itself off
    INTERNAL_ERROR = "internal-error"  # our bug, or a CPU state that cannot go on


_HOLDS = frozenset({RunState.FINISH_MIGRATE, RunState.SAVE_VM, RunState.RESTORE_VM})
_STILL = frozenset({RunState.PRELAUNCH, RunState.PAUSED, RunState.IO_ERROR})
NEED_DISKS = _HOLDS | {RunState.RUNNING}  # states in which the disks must stay this process's

TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.PRELAUNCH: _HOLDS | {RunState.RUNNING, RunState.INMIGRATE, RunState.PAUSED, RunState.INTERNAL_ERROR},
    RunState.INMIGRATE: frozenset({RunState.RUNNING, RunState.PAUSED, RunState.IO_ERROR, RunState.INTERNAL_ERROR}),
    RunState.RUNNING: _HOLDS | {RunState.PAUSED, RunState.IO_ERROR, RunState.SHUTDOWN, RunState.INTERNAL_ERROR},
    RunState.PAUSED: _HOLDS | {RunState.RUNNING, RunState.SHUTDOWN, RunState.INTERNAL_ERROR},
    RunState.IO_ERROR: _HOLDS | {RunState.RUNNING, RunState.PAUSED, RunState.INTERNAL_ERROR},
    RunState.FINISH_MIGRATE: _STILL | {RunState.RUNNING, RunState.POSTMIGRATE, RunState.SHUTDOWN, RunState.INTERNAL_ERROR},
    RunState.POSTMIGRATE: frozenset({RunState.RUNNING, RunState.FINISH_MIGRATE, RunState.INTERNAL_ERROR}),
    RunState.SAVE_VM: _STILL | {RunState.RUNNING, RunState.SHUTDOWN, RunState.INTERNAL_ERROR},
    RunState.RESTORE_VM: _STILL | {RunState.RUNNING, RunState.SHUTDOWN, RunState.INTERNAL_ERROR},
    RunState.SHUTDOWN: _HOLDS | {RunState.PAUSED, RunState.RUNNING, RunState.INTERNAL_ERROR},
    RunState.INTERNAL_ERROR: _HOLDS | {RunState.PAUSED, RunState.RUNNING, RunState.POSTMIGRATE},
}


class RunStateError(EmuError):
    """Raised when a command asks for a step the machine cannot make from where it is."""


def check_transition(old: RunState, new: RunState) -> None:
    """Raise RunStateError, naming both ends, unless `new` may follow `old`."""
    if new not in TRANSITIONS[old]:
        raise RunStateError(f"the machine is {old}, it cannot go to {new} from there")
