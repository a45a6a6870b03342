"""The guests that run on this host, as folders that their processes hold.

    $XDG_RUNTIME_DIR/emu (else /tmp/emu-UID/emu), 0700
        NAME/guest.json    what the guest is, for `emu ls`
        NAME/qmp.sock      its control socket, 0600
        NAME/incoming.sock where `emu pull` lets the guest in

A process locks its folder (flock, BSD) for as long as it lives. The kernel drops the lock however the process ends, so a folder
whose lock is free is left over and is removed; process ids, which come again, decide nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from emu.config import MachineConfig
from emu.errors import EmuError

MAX_SOCKET_PATH = 107  # bytes: sun_path of unix(7) with its closing NUL
MAX_DESCRIPTION = 64 << 10  # bytes; guest.json has a few hundred
_POLL = 0.02  # seconds between looks at a guest that is about to end


class RegistryError(EmuError):
    """Raised when a guest's name is taken or unknown, or the registry's folder cannot be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """guest.json."""

    pid: int
    name: str
    uuid: str
    target: str
    memory: int  # bytes
    started: float  # seconds since the epoch

    @classmethod
    def of(cls, config: MachineConfig, name: str) -> Description:
        """This process and its guest, as of now."""
        return cls(
            pid=os.getpid(), name=name, uuid=config.uuid, target=config.target, memory=config.memory, started=time.time()
        )


@dataclass(frozen=True, slots=True)
class RunningGuest:
    """Another process's guest."""

    folder: Path
    description: Description

    @property
    def socket(self) -> Path:
        """Its control socket."""
        return self.folder / "qmp.sock"


class Entry:
    """This process's own guest, from `Registry.claim` to `close`."""

    def __init__(self, registry: Registry, folder: Path, fd: int, description: Description) -> None:
        self.folder = folder
        self._registry = registry
        self._fd = fd
        self._description = description
        self._describe()

    @property
    def name(self) -> str:
        """The guest's name on this host."""
        return self.folder.name

    @property
    def socket(self) -> Path:
        """The control socket's place."""
        return self.folder / "qmp.sock"

    @property
    def incoming(self) -> Path:
        """Where a pulled guest comes in."""
        return self.folder / "incoming.sock"

    def rename(self, name: str) -> None:
        """Take a name that has become free; does nothing when it has not."""
        with self._registry.locked():
            if not (self._registry.root / name).exists():
                self.folder = self.folder.rename(self._registry.root / name)
                self._describe()

    def close(self) -> None:
        """The guest is gone; harmless when told twice."""
        if self._fd >= 0:
            with self._registry.locked():
                shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1

    def _describe(self) -> None:
        # Written beside and renamed: whoever reads it sees all of it.
        text = json.dumps(asdict(self._description) | {"name": self.name})
        temporary = self.folder / "guest.json.part"
        temporary.write_text(text)
        temporary.rename(self.folder / "guest.json")


class Registry:
    """All guests of one user on this host."""

    def __init__(self, root: Path) -> None:
        """`root` is made when it is missing; RegistryError when others could put something into it."""
        self.root = root
        try:
            root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise RegistryError(f"{exc.filename}: {exc.strerror}") from exc
        _check_private(root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from claiming or removing entries."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def claim(self, config: MachineConfig, base: str) -> Entry:
        """An entry for this process's guest, under its own name if it has one, else `base`, `base`-2, …"""
        with self.locked():
            self._remove_stale()
            if config.name and (self.root / config.name).exists():
                raise RegistryError(f"a guest named {config.name!r} is running already; 'emu ls' lists the names in use")
            names = (base if number == 1 else f"{base}-{number}" for number in count(1))
            name = config.name or next(name for name in names if not (self.root / name).exists())
            folder = self.root / name
            length = len(os.fsencode(folder / "incoming.sock"))
            if length > MAX_SOCKET_PATH:
                raise RegistryError(f"{folder}: its sockets' path has {length} bytes, at most {MAX_SOCKET_PATH} are possible")
            folder.mkdir(mode=0o700)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            return Entry(self, folder, fd, Description.of(config, name))

    def running(self) -> list[RunningGuest]:
        """All guests, by name."""
        with self.locked():
            self._remove_stale()
            folders = sorted(path for path in self.root.iterdir() if path.is_dir())
            described = [(folder, _read_description(folder)) for folder in folders]
        return [RunningGuest(folder, description) for folder, description in described if description is not None]

    def find(self, name: str) -> RunningGuest:
        """The guest called `name`; a RegistryError lists those that run."""
        guests = self.running()
        for guest in guests:
            if guest.description.name == name:
                return guest
        names = ", ".join(guest.description.name for guest in guests) or "none"
        raise RegistryError(f"no guest named {name!r:.80} is running; running: {names}")

    def wait_gone(self, guest: RunningGuest, timeout: float) -> bool:
        """Wait until a guest's process has ended; False when `timeout` seconds passed first."""
        give_up = time.monotonic() + timeout
        while guest.folder.exists() and not _is_stale(guest.folder):
            if time.monotonic() > give_up:
                return False
            time.sleep(_POLL)
        with self.locked():
            self._remove_stale()
        return True

    def _remove_stale(self) -> None:
        for folder in self.root.iterdir():
            if folder.is_dir() and not folder.is_symlink() and _is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)


def open_registry() -> Registry:
    """The registry of the user who runs this process."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Registry((Path(runtime) if runtime else Path(f"/tmp/emu-{os.getuid()}")) / "emu")


def _check_private(root: Path) -> None:
    """Raise RegistryError when another user could put something in `root`, or something else in its place."""
    own = root.lstat()
    if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.getuid() or own.st_mode & 0o077:
        raise RegistryError(
            f"{root} has owner {own.st_uid} and mode {stat.filemode(own.st_mode)}, "
            f"must be a directory of user {os.getuid()} alone (drwx------)"
        )
    parent = root.parent.stat()
    others_write = parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX
    if parent.st_uid not in (0, os.getuid()) or others_write:
        raise RegistryError(
            f"{root.parent} has owner {parent.st_uid} and mode {stat.filemode(parent.st_mode)}: "
            "another user could put a folder of his own in its place"
        )


def _is_stale(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _read_description(folder: Path) -> Description | None:
    try:
        with (folder / "guest.json").open("rb") as file:
            match json.loads(file.read(MAX_DESCRIPTION)):
                case {
                    "pid": int(pid),
                    "name": str(name),
                    "uuid": str(uuid),
                    "target": str(target),
                    "memory": int(memory),
                    "started": float(started),
                }:
                    return Description(pid=pid, name=name, uuid=uuid, target=target, memory=memory, started=started)
                case _:
                    return None
    except (OSError, ValueError):
        return None
