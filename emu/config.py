"""What a machine is made of, as the user asked for it."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, field
from pathlib import Path

from emu.errors import ConfigError

MAX_MEMORY = 1 << 40  # bytes; past any host that this runs on
PAGE = 4096

SAVEVM = {
    "refuse": "a writable raw image keeps no snapshots, so savevm is refused",
    "copy": "a copy of the whole disk goes into every snapshot, and loadvm puts it back",
}


LOG_CHANNELS = {  # QEMU's -d
    "in_asm": "each block of guest code, disassembled, when it is first executed",
    "exec": "each block that is executed",
    "int": "exceptions and interrupts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveConfig:
    """One `--drive`."""

    path: Path
    format: str = "raw"
    id: str
    readonly: bool = False
    serial: str = ""
    savevm: str = "refuse"  # a key of SAVEVM


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """One machine. Everything a guest could tell apart is compared before a migration; host paths are not."""

    target: str
    memory: int = 256 << 20  # bytes
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    bios: Path | None = None
    drives: tuple[DriveConfig, ...] = ()
    rng: bool = True
    name: str = ""
    uuid: str = field(default_factory=lambda: str(uuids.uuid4()))
    snapshots: Path = Path("snapshots")

    def __post_init__(self) -> None:
        if not PAGE <= self.memory <= MAX_MEMORY or self.memory % PAGE:
            raise ConfigError(f"memory is {self.memory} bytes, must be a multiple of {PAGE} from {PAGE} to {MAX_MEMORY}")
        ids = [drive.id for drive in self.drives]
        for drive_id in ids:
            if ids.count(drive_id) > 1:
                raise ConfigError(f"drive id {drive_id!r} is given {ids.count(drive_id)} times, must be given once")
