"""What all boards share: an engine with RAM, devices at addresses, and virtio devices for drives and entropy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from devices.p9.fids import OPEN_MAX, Fids
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from devices.virtio.blk import VirtioBlk
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio import VirtioMmio
from devices.virtio.p9 import VirtioP9
from devices.virtio.rng import VirtioRng, host_entropy, seeded_stream
from emu.board import BoardDevice, Wiring
from emu.config import ShareConfig
from emu.device import Mmio
from emu.dirty import open_dirty_log
from emu.engine.core import Engine
from emu.engine.selftest import self_test
from emu.errors import ConfigError
from emu.ioerror import IoStatus, OnError
from emu.irq import IrqLine
from emu.memory import GuestMemory
from emu.ram import Ram
from migration.protocols import DirtyLog, RamBlock
from migration.vmstate import Wire

MOUNTED = "Migration is disabled when VirtFS export path '{}' is mounted in the guest using mount_tag '{}'"  # QEMU's words
BLOCK_WORKERS = 2  # threads that serve all drives; preadv and pwritev run without the GIL


class MmioDevice(BoardDevice, Mmio, Protocol):
    """A device with registers in memory."""


class Slots:
    """Register files of `size` bytes one behind the other; smaller than a page, they can only be mapped together."""

    def __init__(self, devices: Sequence[Mmio], size: int) -> None:
        self._devices = devices
        self._size = size

    def read(self, offset: int, size: int) -> int:
        """Load from the device that `offset` is in; 0 behind the last."""
        slot, register = divmod(offset, self._size)
        return self._devices[slot].read(register, size) if slot < len(self._devices) else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to the device that `offset` is in."""
        slot, register = divmod(offset, self._size)
        if slot < len(self._devices):
            self._devices[slot].write(register, size, value)


class ByteSwapped:
    """Little-endian registers as a big-endian CPU sees them."""

    def __init__(self, registers: Mmio) -> None:
        self._registers = registers

    def read(self, offset: int, size: int) -> int:
        """Load, bytes swapped."""
        return _swap(self._registers.read(offset, size), size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store, bytes swapped."""
        self._registers.write(offset, size, _swap(value, size))


def _swap(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


class BaseBoard:
    """Implements emu.board.Board but for `cpu` and `load_guest`, which are the target's own.

    Drives take the first virtio slots in the order they were given, then shares, the entropy source the one behind them.
    """

    def __init__(self, wiring: Wiring, *, isa: str, ram: Mapping[str, tuple[int, int]], big_endian: bool = False) -> None:
        """`ram` has base and size of each block, in bytes; `big_endian` is the CPU's byte order."""
        self.config = wiring.config
        self_test(isa)
        self.engine = Engine(isa)
        unit = self.engine.layout.map_unit
        if self.config.memory % unit:
            self.engine.close()
            raise ConfigError(f"memory is {self.config.memory} bytes, must be a multiple of {unit} for {self.config.target}")
        self.rams = tuple(Ram(name, base, size) for name, (base, size) in ram.items())
        self.regions: list[tuple[int, int, str]] = []
        for block in self.rams:
            self.engine.map_ram(block.base, block.address, block.size)
            self.regions.append((block.base, block.size, block.name))
        self.memory = GuestMemory(self.rams, self.engine.invalidate_code)
        self.devices: list[BoardDevice] = []
        self._wiring = wiring
        self.big_endian = big_endian
        # A share has one request at a time with a thread: the drives keep theirs.
        self._workers = ThreadPoolExecutor(BLOCK_WORKERS + len(wiring.config.shares), thread_name_prefix="block")
        self._virtio: list[VirtioDevice] = []
        self._disks: dict[str, VirtioBlk] = {}  # by the drive's id
        self._sessions: list[Session] = []

    def attach(self, base: int, size: int, device: MmioDevice) -> None:
        """Give the board a device with `size` bytes of registers at `base`, wider ones in the CPU's byte order."""
        self.devices.append(device)
        self._map(base, size, device)
        self.regions.append((base, size, device.name))

    def _map(self, base: int, size: int, registers: Mmio) -> None:
        self.engine.map_mmio(base, max(size, self.engine.layout.map_unit), registers.read, registers.write)

    def virtio_devices(self, slots: int) -> list[VirtioDevice]:
        """A virtio device for each drive and share, and the entropy source; ConfigError when there are more than `slots`."""
        wiring, config = self._wiring, self.config
        count = len(wiring.drives) + len(config.shares) + config.rng
        if count > slots:
            raise ConfigError(f"{count} virtio devices are asked for, the board has {slots} slots")
        for drive, image in wiring.drives:
            self._disks[drive.id] = VirtioBlk(
                f"virtio-blk:{drive.id}",
                self.memory,
                image,
                executor=self._workers,
                post=wiring.post,
                on_error=OnError(drive, wiring.io_error),
                serial=drive.serial,
                in_order=config.icount,
            )
        self._virtio += self._disks.values()
        self._virtio += [self._virtio_p9(share) for share in config.shares]
        if config.rng:
            source = seeded_stream(config.uuid) if config.icount else host_entropy
            self._virtio.append(VirtioRng("virtio-rng", self.memory, source))
        return self._virtio

    def _virtio_p9(self, share: ShareConfig) -> VirtioP9:
        wiring, reason = self._wiring, MOUNTED.format(share.path, share.tag)
        files = HostFs(share.path, readonly=share.readonly, mapped=share.security == "mapped")
        fids = Fids(open_max=OPEN_MAX // len(wiring.config.shares))
        session = Session(files, None if share.migratable else lambda: wiring.blockers.add(reason), fids=fids)
        self._sessions.append(session)
        device = VirtioP9(
            f"virtio-9p:{share.tag}",
            self.memory,
            Server(session),
            tag=share.tag,
            executor=self._workers,
            post=wiring.post,
            keep_stale=share.on_mismatch == "stale",
        )
        wiring.blockers.ask(device.obstacles)
        return device

    def attach_virtio_mmio(self, base: int, size: int, lines: Sequence[IrqLine]) -> None:
        """Give the board a virtio-mmio slot of `size` bytes for each of `lines`, the first of them filled."""
        devices = self.virtio_devices(len(lines))
        transports: list[VirtioMmio] = []
        for slot, line in enumerate(lines):
            device = devices[slot] if slot < len(devices) else None
            transport = VirtioMmio(f"virtio-mmio@{base + slot * size:x}", device, line)
            transports.append(transport)
            self.devices += [transport] if device is None else [transport, device]
            self.regions.append((base + slot * size, size, transport.name))
        slots = Slots(transports, size)
        self._map(base, size * len(lines), ByteSwapped(slots) if self.big_endian else slots)

    def configuration(self) -> Mapping[str, Wire]:
        """What the guest could tell apart; a target adds its CPU."""
        return {"firmware": self.config.bios is not None, "devices": [device.name for device in self.devices]}

    def dirty_log(self, block: RamBlock) -> DirtyLog:
        """A new dirty log for one of `rams`."""
        return open_dirty_log(next(ram for ram in self.rams if ram is block))

    def busy(self, within: float) -> Sequence[str]:
        """Wait up to `within` seconds for what the host has to do: the devices with requests it is still not done with."""
        give_up_at = time.monotonic() + within
        return [device.name for device in self._virtio if not device.quiet(max(0.0, give_up_at - time.monotonic()))]

    def drain(self) -> None:
        """Return when no request is in flight."""
        for device in self._virtio:
            device.drain()

    def loaded(self) -> None:
        """Drop everything derived from RAM."""
        self.engine.flush_code()
        self.engine.flush_tlb()

    def retry(self) -> None:
        """Carry out again what failed and was kept."""
        for disk in self._disks.values():
            disk.retry()

    def io_status(self) -> Mapping[str, IoStatus]:
        """The drives with requests that failed and wait for `retry`, by id."""
        return {drive: disk.io_status for drive, disk in self._disks.items() if disk.io_status is not IoStatus.OK}

    def close(self) -> None:
        """Give back what the host lent."""
        self._workers.shutdown()
        for session in self._sessions:
            session.close()
        self.engine.close()
        for ram in self.rams:
            ram.close()
