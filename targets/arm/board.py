"""The `virt` board of QEMU, ARM: one CPU, addresses and interrupt numbers in map.py.

    GICv2, UART (PL011), RTC (PL031), 32 virtio-mmio slots, generic timer, RAM from 0x4000_0000

Missing: PCI host, flash, fw_cfg, GPIO (power-off and reset go by PSCI), firmware at EL3.
For the 32-bit CPU RAM ends at 4 GiB, without LPAE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from devices.generic_timer import GenericTimer
from devices.gicv2 import GicV2
from devices.pl011 import Pl011
from devices.pl031 import Pl031
from emu.board import Wiring
from emu.engine.core import Engine
from emu.errors import ConfigError
from migration.vmstate import Wire
from targets.arm.boot import Placement, enter, place
from targets.arm.cpu import VirtCpu
from targets.arm.cpu32 import Arm32Cpu
from targets.arm.cpu64 import Arm64Cpu
from targets.arm.map import (
    GIC,
    GIC_SIZE,
    PPI,
    RAM_BASE,
    RTC,
    RTC_IRQ,
    RTC_SIZE,
    SPI,
    TIMER_IRQ,
    UART,
    UART_IRQ,
    UART_SIZE,
    VIRTIO,
    VIRTIO_IRQ,
    VIRTIO_SIZE,
    VIRTIO_SLOTS,
    VIRTUAL_TIMER_IRQ,
)
from targets.arm.psci import Psci
from targets.arm.tree import device_tree
from targets.base import BaseBoard


@dataclass(frozen=True, slots=True)
class Model:
    """What the two CPUs differ in, as the board sees it."""

    isa: str
    cpu: Callable[[Engine], VirtCpu]
    machine: str  # e_machine of the ELF files it runs
    compatible: str
    timer_compatible: str
    raw_offset: int = 0  # from a 2 MiB border, of a kernel without a header
    memory_max: int = (1 << 64) - RAM_BASE  # bytes that can be addressed


TEXT_OFFSET = 0x8000  # of a 32-bit raw Image; the first page tables go below it

CORTEX_A57 = Model("arm64", Arm64Cpu, "EM_AARCH64", "arm,cortex-a57", "arm,armv8-timer")
CORTEX_A15 = Model("arm", Arm32Cpu, "EM_ARM", "arm,cortex-a15", "arm,armv7-timer", TEXT_OFFSET, (1 << 32) - RAM_BASE)


class VirtBoard(BaseBoard):
    """Implements emu.board.Board."""

    def __init__(self, wiring: Wiring, model: Model) -> None:
        config = wiring.config
        if config.bios is not None:
            raise ConfigError(f"target {config.target} runs no firmware: --bios is not for it")
        if config.memory > model.memory_max:
            raise ConfigError(
                f"{config.memory >> 20} MiB of RAM are asked for, target {config.target} has {model.memory_max >> 20} at most"
            )
        super().__init__(wiring, isa=model.isa, ram={"ram": (RAM_BASE, config.memory)})
        self._model = model
        self.cpu: VirtCpu = model.cpu(self.engine)
        cpu = self.cpu
        gic = GicV2(f"intc@{GIC:x}", cpu.interrupt)
        timer = GenericTimer(
            "timer", wiring.clock, physical=gic.line(PPI + TIMER_IRQ), virtual=gic.line(PPI + VIRTUAL_TIMER_IRQ)
        )
        cpu.connect_timer(timer)
        cpu.on_call = Psci(cpu, power_off=wiring.power_off, request_reset=wiring.request_reset).call
        self.devices.append(timer)
        self.attach(GIC, GIC_SIZE, gic)
        self.attach(UART, UART_SIZE, Pl011(f"pl011@{UART:x}", gic.line(SPI + UART_IRQ), wiring.console, wiring.clock))
        self.attach(RTC, RTC_SIZE, Pl031(f"pl031@{RTC:x}", gic.line(SPI + RTC_IRQ), wiring.clock))
        self.attach_virtio_mmio(VIRTIO, VIRTIO_SIZE, [gic.line(SPI + VIRTIO_IRQ + slot) for slot in range(VIRTIO_SLOTS)])

    def configuration(self) -> Mapping[str, Wire]:
        """What the guest could tell apart."""
        return {"board": "virt", "cpu": self._model.compatible, **super().configuration()}

    def load_guest(self) -> None:
        """Put kernel, initrd and device tree in RAM, and the CPU where they start."""
        size = len(self._tree(None))
        placement = place(
            self.config, self.memory, RAM_BASE, size, machine=self._model.machine, raw_offset=self._model.raw_offset
        )
        self.memory.write(placement.tree, self._tree(placement))
        enter(self.cpu, placement)

    def _tree(self, placement: Placement | None) -> bytes:
        config, model = self.config, self._model
        return device_tree(config.memory, config.append, model.compatible, model.timer_compatible, placement)


def virt32(wiring: Wiring) -> VirtBoard:
    """The board of target arm."""
    return VirtBoard(wiring, CORTEX_A15)


def virt64(wiring: Wiring) -> VirtBoard:
    """The board of target arm64."""
    return VirtBoard(wiring, CORTEX_A57)
