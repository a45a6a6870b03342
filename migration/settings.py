"""Capabilities and parameters: the tables that `migrate_set_capability` and `migrate_set_parameter` are checked against.

Names, units and meanings are QEMU's. One default is not: `max-bandwidth` is 0, no limit, where QEMU has 128 MiB/s. A limit that
nobody asked for makes every move between two terminals slower, and 0 means the same to both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from emu.errors import MigrationError


class DiskMode(StrEnum):
    """What becomes of the disks of a guest that moves."""

    SHARED = "shared"  # both sides see the same images
    FULL = "full"  # all that they hold goes along (migrate -b)
    INCREMENTAL = "incremental"  # what differs from their backing files does, which both sides have (migrate -i)


@dataclass(slots=True)
class Capabilities:
    """What is switched on; a field's name is the capability's with - for _."""

    events: bool = False  # MIGRATION and MIGRATION_PASS events on QMP
    return_path: bool = False  # exec: the command answers on its output
    pause_before_switchover: bool = False
    late_block_activate: bool = False  # the destination lets go of a paused guest's disks until `cont`
    validate_uuid: bool = False  # on either side: a machine with another uuid is refused


# QEMU's other capabilities: known by name, so that asking for one says that it is missing rather than misspelt.
NOT_YET = (
    "auto-converge",
    "background-snapshot",
    "dirty-bitmaps",
    "dirty-limit",
    "mapped-ram",
    "multifd",
    "postcopy-blocktime",
    "postcopy-preempt",
    "postcopy-ram",
    "release-ram",
    "switchover-ack",
    "x-colo",
    "x-ignore-shared",
    "xbzrle",
    "zero-copy-send",
)


@dataclass(slots=True)
class Parameters:
    """Numbers that may change while a migration runs."""

    max_bandwidth: int = 0  # bytes per second, 0 for no limit
    downtime_limit: int = 300  # milliseconds
    avail_switchover_bandwidth: int = 0  # bytes per second to reckon the downtime with, 0 to measure it


LIMITS = {
    "max-bandwidth": (0, 1 << 50),
    "downtime-limit": (0, 2_000_000),  # QEMU's bound: 2000 s
    "avail-switchover-bandwidth": (0, 1 << 50),
}


def names(settings: Capabilities | Parameters) -> list[str]:
    """The wire names of all settings, in order."""
    return [field.name.replace("_", "-") for field in fields(settings)]


def as_dict(settings: Capabilities | Parameters) -> dict[str, int]:
    """Wire name to value."""
    return {name: getattr(settings, name.replace("-", "_")) for name in names(settings)}


def set_capability(capabilities: Capabilities, name: str, value: bool) -> None:
    """Switch one capability; an unknown name lists the known ones."""
    if name in NOT_YET:
        raise MigrationError(f"capability {name!r} is not in this build, which has {', '.join(names(capabilities))}")
    if name not in names(capabilities):
        raise MigrationError(f"capability {name!r} is unknown, must be one of {', '.join(names(capabilities))}")
    setattr(capabilities, name.replace("-", "_"), value)


def set_parameter(parameters: Parameters, name: str, value: int) -> None:
    """Set one parameter; an unknown name lists the known ones, a value out of bounds names the bounds."""
    if name not in LIMITS:
        raise MigrationError(f"parameter {name!r} is unknown, must be one of {', '.join(LIMITS)}")
    low, high = LIMITS[name]
    if not low <= value <= high:
        raise MigrationError(f"parameter {name} is {value}, must be {low}..{high}")
    setattr(parameters, name.replace("-", "_"), value)
