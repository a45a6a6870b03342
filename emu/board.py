"""What a board gets from its machine and gives to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Never, Protocol

from emu.block.image import Image
from emu.chardev import Chardev
from emu.clock import VirtualClock
from emu.config import DriveConfig, MachineConfig
from emu.engine.core import Engine
from emu.ioerror import IoError, IoStatus
from emu.memory import GuestMemory
from emu.ram import Ram
from emu.vcpu import Cpu
from migration.blockers import Blockers
from migration.protocols import DirtyLog, RamBlock, Savable
from migration.vmstate import Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Everything around a board that its devices need. Each device gets the one thing it uses."""

    config: MachineConfig
    clock: VirtualClock
    console: Chardev
    drives: Sequence[tuple[DriveConfig, Image]]
    post: Callable[[Callable[[], None]], None]  # run on the vCPU thread
    power_off: Callable[[int], None]  # the guest switched itself off, with an exit code
    request_reset: Callable[[], None]
    io_error: Callable[[IoError], None]  # the host failed a request; on the vCPU thread
    blockers: Blockers  # for devices that forbid saving and moving for a while


class Board(Protocol):
    """A built board: CPU, RAM, devices."""

    @property
    def engine(self) -> Engine:
        """What the CPU runs on."""

    @property
    def big_endian(self) -> bool:
        """Whether the CPU has the high byte of a number at its lowest address."""

    @property
    def memory(self) -> GuestMemory:
        """All RAM."""

    @property
    def cpu(self) -> BoardCpu:
        """The guest's CPU."""

    @property
    def rams(self) -> Sequence[Ram]:
        """All RAM."""

    @property
    def devices(self) -> Sequence[BoardDevice]:
        """All devices, in stream order."""

    @property
    def regions(self) -> Sequence[tuple[int, int, str]]:
        """The guest-physical address space: base, size, what is there."""

    def configuration(self) -> Mapping[str, Wire]:
        """What the guest could tell apart, for the comparison before a migration."""

    def dirty_log(self, block: RamBlock) -> DirtyLog:
        """A new dirty log for one of `rams`."""

    def busy(self, within: float) -> Sequence[str]:
        """Wait up to `within` seconds for what the host has to do: the devices with requests it is still not done with."""

    def drain(self) -> None:
        """Return when no request is in flight; called on the vCPU thread with the guest stopped."""

    def retry(self) -> None:
        """Carry out again what failed and was kept; called on the vCPU thread when the guest goes on, before it runs."""

    def io_status(self) -> Mapping[str, IoStatus]:
        """The drives with requests that failed and wait for `retry`, by id; any thread."""

    def load_guest(self) -> None:
        """Put kernel, initrd and device tree in RAM, and the CPU where they start; called after a reset."""

    def loaded(self) -> None:
        """RAM was replaced from outside: drop all translated code and cached translations."""

    def close(self) -> None:
        """Give back what the host lent."""


class BoardDevice(Savable, Protocol):
    """A device as the machine sees it."""

    @property
    def UNMIGRATABLE(self) -> str:  # noqa: N802 - a class attribute of emu.device.Device
        """Why the guest can be neither saved nor moved with this device; empty when it has a state."""

    def reset(self) -> None:
        """Back to the state after power-on."""

    def prepared(self, state: Never) -> AbstractContextManager[None]:
        """Hold what of the host a checked state needs, for `load` inside; EmuError when it cannot be had."""


class BoardCpu(Cpu, Savable, Protocol):
    """A CPU as the machine sees it."""

    def reset(self) -> None:
        """Back to the state after power-on."""

    def registers(self) -> Mapping[str, int]:
        """Every register by its name, for people; on the vCPU thread."""
