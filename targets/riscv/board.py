"""The `virt` board of QEMU, RISC-V of 32 and 64 bits: one hart, addresses and interrupt numbers in map.py.

    test (power-off, reset), RTC, CLINT, PLIC, UART, eight virtio-mmio slots, RAM from 0x8000_0000

Missing: PCI host, flash, fw_cfg. A guest started without firmware runs in S-mode on our SBI.
"""

from __future__ import annotations

from collections.abc import Mapping

from devices.clint import Clint
from devices.goldfish_rtc import GoldfishRtc
from devices.ns16550 import Ns16550
from devices.plic import Plic
from devices.syscon import Syscon
from emu.board import Wiring
from emu.errors import ConfigError
from migration.vmstate import Wire
from targets.base import BaseBoard
from targets.riscv.boot import enter, place
from targets.riscv.cpu import RiscvCpu
from targets.riscv.map import (
    CLINT,
    CLINT_SIZE,
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
from targets.riscv.sbi import Sbi
from targets.riscv.state import Irq
from targets.riscv.tree import device_tree

MAX_RAM32 = 2047 << 20  # bytes; RAM and its end have addresses of 32 bits


class VirtBoard(BaseBoard):
    """Implements emu.board.Board."""

    def __init__(self, wiring: Wiring) -> None:
        config = wiring.config
        isa = config.target
        if isa == "riscv32" and config.memory > MAX_RAM32:
            raise ConfigError(f"target riscv32 addresses {MAX_RAM32 >> 20} MiB of RAM, {config.memory >> 20} MiB are asked for")
        super().__init__(wiring, isa=isa, ram={"ram": (RAM_BASE, config.memory)})
        self.cpu = cpu = RiscvCpu(self.engine, wiring.clock)
        plic = Plic(f"plic@{PLIC:x}", cpu.line(Irq.MEIP), cpu.line(Irq.SEIP), sources=PLIC_SOURCES)
        clint = Clint(f"clint@{CLINT:x}", msip=cpu.line(Irq.MSIP), mtip=cpu.line(Irq.MTIP), clock=wiring.clock)
        uart = Ns16550(f"serial@{UART:x}", plic.line(UART_IRQ), wiring.console, wiring.clock, input_clock=UART_CLOCK)
        self.attach(PLIC, PLIC_SIZE, plic)
        self.attach(CLINT, CLINT_SIZE, clint)
        self.attach(UART, UART_SIZE, uart)
        self.attach(RTC, RTC_SIZE, GoldfishRtc(f"rtc@{RTC:x}", plic.line(RTC_IRQ), wiring.clock))
        self.attach(
            SYSCON, SYSCON_SIZE, Syscon(f"test@{SYSCON:x}", on_power_off=wiring.power_off, on_reset=wiring.request_reset)
        )
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
        else:
            # Firmware may set mtime. Under our SBI, whose timer counts guest time, nobody has the right to: a guest that does
            # it all the same changes what it reads there, not the time CSR.
            cpu.show_time(clint.mtime)
        self.attach_virtio_mmio(VIRTIO, VIRTIO_SIZE, [plic.line(VIRTIO_IRQ + slot) for slot in range(VIRTIO_SLOTS)])

    def configuration(self) -> Mapping[str, Wire]:
        """What the guest could tell apart."""
        return {"board": "virt", "cpu": self.cpu.width.isa_string, **super().configuration()}

    def load_guest(self) -> None:
        """Put kernel, initrd and device tree in RAM, and the hart where they start."""
        config, width = self.config, self.cpu.width
        size = len(device_tree(config.memory, config.append, width, None))
        placement = place(config, self.memory, RAM_BASE, size, width)
        self.memory.write(placement.tree, device_tree(config.memory, config.append, width, placement))
        enter(self.cpu, placement)
