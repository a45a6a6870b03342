"""A machine without a CPU: real events, migrations and snapshots around the fake guest of the migration tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

from emu.config import DriveConfig, MachineConfig
from emu.events import Events
from emu.ioerror import IoStatus
from emu.runstate import RunState
from migration.blockers import Blockers
from migration.manager import Migrations
from migration.snapshot import SAVE, SaveOptions, SnapshotStore
from migration.status import Status
from tests.migration.fakes import FakeGuest, FakeHandover, pair

T = TypeVar("T")
UUID = "12345678-1234-1234-1234-123456789abc"


@dataclass
class FakeImage:
    path: str
    owner: FakeHandover
    read_only: bool = False
    size: int = 1 << 20
    format: str = "raw"

    @property
    def active(self) -> bool:
        return self.owner.active


@dataclass
class FakeCpu:
    name: str = "cpu0"

    def registers(self) -> Mapping[str, int]:
        return {"pc": 0x8000_0000, "x1/ra": 1, "x2/sp": 2, "x3/gp": 3, "x4/tp": (1 << 64) - 1}


@dataclass
class FakeBoard:
    cpu: FakeCpu = field(default_factory=FakeCpu)
    rams: list[SimpleNamespace] = field(default_factory=lambda: [SimpleNamespace(name="ram")])
    devices: list[SimpleNamespace] = field(default_factory=lambda: [SimpleNamespace(name="serial@10000000")])
    regions: list[tuple[int, int, str]] = field(
        default_factory=lambda: [(0x8000_0000, 0x1000, "ram"), (0x1000_0000, 0x100, "serial@10000000")]
    )


class FakeMachine:
    """Runs as far as a monitor can tell. `calls` notes what was ordered; `fails` is raised by the next order."""

    def __init__(self, folder: Path, guest: FakeGuest | None = None, *drives: DriveConfig) -> None:
        self.guest = pair()[0] if guest is None else guest
        self.calls: list[str] = []
        self.fails: Exception | None = None
        self.io_statuses: dict[str, IoStatus] = {}
        self.events = Events()
        self.blockers = Blockers()
        self.board = FakeBoard()
        self.disks = self.guest.disks
        self.snapshots = SnapshotStore(folder / "snapshots")
        self.migrations = Migrations(self.guest, on_status=self._migration_status)
        self.drives = [(drive, FakeImage(str(drive.path), self.disks, drive.readonly)) for drive in drives]
        self.config = MachineConfig(
            target="riscv64",
            name="guest",
            uuid=UUID,
            kernel=folder / "Image",
            drives=tuple(drives),
            snapshots=Path("snapshots"),
        )

    @property
    def state(self) -> RunState:
        return RunState(self.guest.state)

    @property
    def running(self) -> bool:
        return self.state is RunState.RUNNING

    def _order(self, what: str) -> None:
        self.calls.append(what)
        if self.fails is not None:
            raise self.fails

    def stop(self) -> None:
        self._order("stop")
        self.guest.running, self.guest.state = False, "paused"
        self.events.emit("STOP")

    def cont(self) -> None:
        self._order("cont")
        self.guest.running, self.guest.state = True, "running"
        self.events.emit("RESUME")

    def now(self) -> int:
        return 1_500_000_010

    def stop_at(self, time: int | None) -> None:
        self._order(f"stop_at {time}")

    def reset(self) -> None:
        self._order("reset")
        self.events.emit("RESET", {"guest": False})

    def set_disks_active(self, *, active: bool) -> None:
        self._order(f"set_disks_active {active}")
        change = self.disks.activate if active else self.disks.inactivate
        change()

    def io_status(self, drive: str) -> IoStatus:
        return self.io_statuses.get(drive, IoStatus.OK)

    def power_down(self) -> None:
        self._order("power_down")

    def savevm(self, tag: str, how: SaveOptions = SAVE) -> None:
        self._order(f"savevm {tag}")
        self.snapshots.save(self.guest, tag, how)

    def loadvm(self, tag: str, *, vmstate: str | None = None) -> None:
        self._order(f"loadvm {tag}")
        self.snapshots.load(self.guest, tag, vmstate=vmstate)

    def delvm(self, tag: str) -> None:
        self._order(f"delvm {tag}")
        self.snapshots.delete(tag)

    def call(self, function: Callable[[], T]) -> T:
        return function()

    def _migration_status(self, status: Status) -> None:
        if self.migrations.capabilities.events:
            self.events.emit("MIGRATION", {"status": str(status)})


class LoopThread:
    """An event loop on a thread of its own, as `emu run` has one on its main thread, for tests that block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
