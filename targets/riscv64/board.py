"""The `virt` board of QEMU, RISC-V 64: one hart, addresses and interrupt numbers in map.py.

    test (power-off, reset), RTC, CLINT, PLIC, UART, eight virtio-mmio slots, RAM from 0x8000_0000

Missing: PCI host, flash, fw_cfg. Drives sit in the first virtio slots in the order they were given, the entropy source behind
them. A guest started without firmware runs in S-mode on our SBI.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from devices.clint import Clint
from devices.goldfish_rtc import GoldfishRtc
from devices.ns16550 import Ns16550
from devices.plic import Plic
from devices.syscon import Syscon
from devices.virtio.blk import VirtioBlk
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio import VirtioMmio
from devices.virtio.rng import VirtioRng
from emu.board import BoardDevice, Wiring
from emu.device import Mmio
from emu.dirty import open_dirty_log
from emu.engine.core import Engine
from emu.engine.selftest import self_test
from emu.errors import ConfigError
from emu.memory import GuestMemory
from emu.ram import Ram
from migration.protocols import DirtyLog, RamBlock
from migration.vmstate import Wire
from targets.riscv64.boot import enter, place
from targets.riscv64.cpu import Irq, RiscvCpu
from targets.riscv64.map import (
    CLINT,
    CLINT_SIZE,
    ISA_STRING,
    PLIC,
    PLIC_SIZE,
    PLIC_SOURCES,
    RAM_BASE,
    RTC,
    RTC_IRQ,
    RTC_SIZE,
    SYSCON,
    SYSCON_SIZE,
    UART,
    UART_CLOCK,
    UART_IRQ,
    UART_SIZE,
    VIRTIO,
    VIRTIO_IRQ,
    VIRTIO_SIZE,
    VIRTIO_SLOTS,
)
from targets.riscv64.sbi import Sbi
from targets.riscv64.tree import device_tree

ISA = "riscv64"
BLOCK_WORKERS = 2  # threads that serve all drives; preadv and pwritev run without the GIL


class VirtBoard:
    """Implements emu.board.Board."""

    def __init__(self, wiring: Wiring) -> None:
        config = wiring.config
        self_test(ISA)
        self._config = config
        self._engine = Engine(ISA)
        self._ram = Ram("ram", RAM_BASE, config.memory)
        self._engine.map_ram(RAM_BASE, self._ram.address, config.memory)
        self.rams = (self._ram,)
        self.memory = GuestMemory(self.rams, self._engine.invalidate_code)
        self.cpu = RiscvCpu(self._engine, wiring.clock)
        self.regions: list[tuple[int, int, str]] = [(RAM_BASE, config.memory, "ram")]
        self._workers = ThreadPoolExecutor(BLOCK_WORKERS, thread_name_prefix="block")
        self._blks: list[VirtioBlk] = []

        cpu = self.cpu
        self._plic = Plic(f"plic@{PLIC:x}", cpu.line(Irq.MEIP), cpu.line(Irq.SEIP), sources=PLIC_SOURCES)
        clint = Clint(f"clint@{CLINT:x}", msip=cpu.line(Irq.MSIP), mtip=cpu.line(Irq.MTIP), clock=wiring.clock)
        uart = Ns16550(f"serial@{UART:x}", self._plic.line(UART_IRQ), wiring.console, wiring.clock, input_clock=UART_CLOCK)
        rtc = GoldfishRtc(f"rtc@{RTC:x}", self._plic.line(RTC_IRQ), wiring.clock, time.time_ns)
        syscon = Syscon(f"test@{SYSCON:x}", on_power_off=wiring.power_off, on_reset=wiring.request_reset)
        self.devices: list[BoardDevice] = [self._plic, clint, uart, rtc, syscon]
        if config.bios is None:
            sbi = Sbi(
                "sbi",
                cpu=cpu,
                clock=wiring.clock,
                memory=self.memory,
                console=wiring.console,
                power_off=wiring.power_off,
                request_reset=wiring.request_reset,
            )
            cpu.on_supervisor_call = sbi.call
            self.devices.append(sbi)
        for base, size, device in (
            (PLIC, PLIC_SIZE, self._plic),
            (CLINT, CLINT_SIZE, clint),
            (UART, UART_SIZE, uart),
            (RTC, RTC_SIZE, rtc),
            (SYSCON, SYSCON_SIZE, syscon),
        ):
            self._map(base, size, device, device.name)
        self._fill_virtio_slots(wiring)

    def _map(self, base: int, size: int, device: Mmio, name: str) -> None:
        page = 4096  # the engine maps whole pages
        self._engine.map_mmio(base, max(size, page), device.read, device.write)
        self.regions.append((base, size, name))

    def _fill_virtio_slots(self, wiring: Wiring) -> None:
        backends: list[VirtioDevice] = []
        for drive, image in wiring.drives:
            blk = VirtioBlk(
                f"virtio-blk:{drive.id}",
                self.memory,
                image,
                executor=self._workers,
                post=wiring.post,
                serial=drive.serial,
            )
            self._blks.append(blk)
            backends.append(blk)
        if wiring.config.rng:
            backends.append(VirtioRng("virtio-rng", self.memory))
        if len(backends) > VIRTIO_SLOTS:
            raise ConfigError(f"{len(backends)} virtio devices are asked for, the board has {VIRTIO_SLOTS} slots")
        for slot in range(VIRTIO_SLOTS):
            base = VIRTIO + slot * VIRTIO_SIZE
            backend = backends[slot] if slot < len(backends) else None
            transport = VirtioMmio(f"virtio-mmio@{base:x}", backend, self._plic.line(VIRTIO_IRQ + slot))
            self.devices.append(transport)
            if backend is not None:
                self.devices.append(backend)
            self._map(base, VIRTIO_SIZE, transport, transport.name)

    def configuration(self) -> Mapping[str, Wire]:
        """What the guest could tell apart."""
        return {
            "board": "virt",
            "cpu": ISA_STRING,
            "firmware": self._config.bios is not None,
            "devices": [device.name for device in self.devices],
        }

    def drain(self) -> None:
        """Return when no request is in flight."""
        for blk in self._blks:
            blk.drain()

    def load_guest(self) -> None:
        """Put kernel, initrd and device tree in RAM, and the hart where they start."""
        config = self._config
        size = len(device_tree(config.memory, config.append, None))
        placement = place(config, self.memory, RAM_BASE, size)
        self.memory.write(placement.tree, device_tree(config.memory, config.append, placement))
        enter(self.cpu, placement)

    def loaded(self) -> None:
        """Drop everything derived from RAM."""
        self._engine.flush_code()
        self._engine.flush_tlb()

    def dirty_log(self, block: RamBlock) -> DirtyLog:
        """A new dirty log for one of `rams`."""
        assert block is self._ram
        return open_dirty_log(self._ram)

    def close(self) -> None:
        """Give back what the host lent."""
        self._workers.shutdown()
        self._engine.close()
        self._ram.close()
