"""Commands that start, stop, reset and end the machine, and tell its run state."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from emu.monitor.command import CommandError, Context
from emu.runstate import RunState
from migration.vmstate import Wire

QMP_VERSION = (10, 0, 0)  # the QEMU whose commands, names and answers these are
EXIT_MOVED = 3  # the process ends with this when its guest lives elsewhere


def package() -> str:
    """The program's name and version."""
    try:
        return f"emu {version('emu')}"
    except PackageNotFoundError:
        return "emu (not installed)"


def qmp_capabilities(_ctx: Context, *, enable: list[object] | None = None) -> Wire:
    """End QMP's negotiation. No capability can be enabled: no client's command blocks another's, so none need overtake."""
    for name in enable or []:
        raise CommandError(f"Capability '{name!s:.60}' not available")
    return {}


def query_version(_ctx: Context) -> Wire:
    """The version of QMP that is spoken, and whose program this is."""
    major, minor, micro = QMP_VERSION
    return {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": package()}


def query_status(ctx: Context) -> Wire:
    """The run state."""
    state = ctx.machine.state
    return {"status": str(state), "running": state is RunState.RUNNING}


def query_name(ctx: Context) -> Wire:
    """The guest's name; empty when it has none."""
    name = ctx.machine.config.name
    return {"name": name} if name else {}


def query_uuid(ctx: Context) -> Wire:
    """The guest's UUID."""
    return {"UUID": ctx.machine.config.uuid}


def query_process(ctx: Context) -> Wire:
    """Which process this is and since when, in seconds since the epoch."""
    return {"pid": os.getpid(), "started-at": int(ctx.started_at)}


def stop(ctx: Context) -> Wire:
    """Pause the guest."""
    ctx.machine.stop()
    return {}


def cont(ctx: Context) -> Wire:
    """Run the guest."""
    ctx.machine.cont()
    return {}


def stop_at(ctx: Context, *, time: int | None = None) -> Wire:
    """Pause the guest when its time is `time` ns; without one, not after all."""
    ctx.machine.stop_at(time)
    return {}


def query_clock(ctx: Context) -> Wire:
    """Guest time in ns."""
    return {"guest-time": ctx.machine.now()}


def system_reset(ctx: Context) -> Wire:
    """Press the reset button."""
    ctx.machine.reset()
    return {}


def system_powerdown(ctx: Context) -> Wire:
    """Pull the plug: the boards have no power button that a guest could answer, so it ends at once, its disks flushed."""
    ctx.machine.events.emit("POWERDOWN")
    ctx.machine.power_down()
    ctx.machine.events.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-system-powerdown"})
    return {}


def quit_process(ctx: Context) -> Wire:
    """End the process; where the guest has moved away, with the exit code that says so."""
    moved = ctx.machine.state is RunState.POSTMIGRATE
    ctx.machine.events.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    ctx.quit(EXIT_MOVED if moved else 0)
    return {}
