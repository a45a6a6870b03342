"""What a machine is made of, as the user asked for it."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, field, replace
from pathlib import Path

from emu.block.nbd.address import is_address
from emu.errors import ConfigError

MAX_MEMORY = 1 << 40  # bytes; past any host that this runs on
PAGE = 4096

SAVEVM = {
    "inside": "snapshots are kept in the image; a writable raw image cannot, so savevm is refused",
    "copy": "a copy of the whole disk goes into every snapshot, and loadvm puts it back",
}
WERROR = {
    "enospc": "a write that the host has no room for stops the guest until `cont`, any other error is reported to it",
    "stop": "the guest is stopped, and `cont` carries the request out again",
    "report": "the guest gets an I/O error",
    "ignore": "the guest is told that it went well",
}
RERROR = {name: what for name, what in WERROR.items() if name != "enospc"}


SECURITY = {
    "mapped": "owners, modes, device nodes and links of the guest are kept in extended attributes (QEMU's mapped-xattr)",
    "none": "files are the host's own as far as the user may make them; device nodes are refused",
}
ON_MISMATCH = {
    "abort": "a guest that has files open which are not the same here is refused, and runs on where it was",
    "stale": "the guest comes, and what it asks of these files is answered with ESTALE",
}
TAG_MAX = 31  # bytes of a share's tag, as in QEMU
LOG_CHANNELS = {  # QEMU's -d
    "in_asm": "each block of guest code, disassembled, when it is first executed",
    "exec": "each block that is executed",
    "int": "exceptions and interrupts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveConfig:
    """One `--drive`."""

    path: str  # a file's name, or an NBD export (emu/block/nbd/address.py)
    format: str = ""  # a key of FORMATS (emu/block/image.py); empty to go by the file's magic
    id: str
    readonly: bool = False
    locking: bool = True  # else nothing keeps other processes away from the image
    serial: str = ""
    savevm: str = "inside"  # a key of SAVEVM
    werror: str = "enospc"  # a key of WERROR
    rerror: str = "report"  # a key of RERROR

    @property
    def stops_on_error(self) -> bool:
        """Whether there are errors that stop the guest."""
        return self.rerror == "stop" or self.werror in ("stop", "enospc")

    def absolute(self) -> DriveConfig:
        """The same drive for a process in another working directory."""
        return self if is_address(self.path) else replace(self, path=str(Path(self.path).absolute()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareConfig:
    """One `--share`."""

    path: Path
    tag: str  # what the guest mounts it by
    readonly: bool = False
    security: str = "none"  # a key of SECURITY
    migratable: bool = False  # the guest may be saved and moved with the share mounted
    on_mismatch: str = "abort"  # a key of ON_MISMATCH


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
    shares: tuple[ShareConfig, ...] = ()
    rng: bool = True
    icount: bool = False  # guest time is instructions executed (emu/icount.py)
    name: str = ""
    uuid: str = field(default_factory=lambda: str(uuids.uuid4()))
    snapshots: Path = Path("snapshots")

    def __post_init__(self) -> None:
        if not PAGE <= self.memory <= MAX_MEMORY or self.memory % PAGE:
            raise ConfigError(f"memory is {self.memory} bytes, must be a multiple of {PAGE} from {PAGE} to {MAX_MEMORY}")
        _check_unique("drive id", [drive.id for drive in self.drives])
        _check_unique("share tag", [share.tag for share in self.shares])


def _check_unique(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{what} {name!r} is given {names.count(name)} times, must be given once")
