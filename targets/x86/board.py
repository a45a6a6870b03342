"""A PC without ACPI: ports and interrupt numbers in map.py.

    PICs, PIT, RTC, UART at 0x3f8, power and reset ports, PCI with a virtio function for each drive and the entropy source

RAM lies from 0 on, up to 3 GiB; what is neither RAM nor a device reads as all ones, as on a PC's bus. A guest that halts with
interrupts off has ended, for nothing here could wake it: the machine switches off (a kernel without ACPI does so at power-off).
Missing: ACPI tables, APICs, a BIOS, keyboard and display.
"""

from __future__ import annotations

from collections.abc import Mapping

from devices.cmos import DATA, INDEX, Cmos
from devices.i8254 import CONTROL, COUNTERS, SYSTEM, Pit
from devices.i8259 import ELCR, MASTER, SLAVE, PicPair
from devices.ns16550 import Ns16550
from devices.pci import ADDRESS, PciHost
from devices.pcpower import PcPower, Port
from devices.virtio.pci import VirtioPci
from emu.board import Wiring
from emu.device import Mmio
from emu.errors import ConfigError
from migration.vmstate import Wire
from targets.base import BaseBoard
from targets.x86.boot import load
from targets.x86.cpu import X86Cpu
from targets.x86.map import (
    CMOS_IRQ,
    MIB,
    PCI_IRQS,
    PCI_SLOTS,
    PCI_WINDOW,
    PCI_WINDOW_END,
    TIMER_IRQ,
    UART,
    UART_CLOCK,
    UART_IRQ,
)

PHYSICAL_END = 1 << 40  # the CPU's addresses have 40 bits


class _Nothing:
    """Where nobody answers."""

    def read(self, _offset: int, size: int) -> int:
        """All ones."""
        return (1 << 8 * size) - 1

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """Lost."""


class _FromBase:
    """Registers whose first is at port `base`."""

    def __init__(self, registers: Mmio, base: int) -> None:
        self._registers = registers
        self._base = base

    def read(self, port: int, size: int) -> int:
        """Load from a port."""
        return self._registers.read(port - self._base, size)

    def write(self, port: int, size: int, value: int) -> None:
        """Store to a port."""
        self._registers.write(port - self._base, size, value)


class PcBoard(BaseBoard):
    """Implements emu.board.Board."""

    def __init__(self, wiring: Wiring) -> None:
        config = wiring.config
        isa = config.target
        if config.bios is not None:
            raise ConfigError(f"target {config.target} runs no firmware: --bios is not for it")
        if not 2 * MIB <= config.memory <= PCI_WINDOW:
            raise ConfigError(f"target {config.target} has 2 MiB to 3 GiB of RAM, {config.memory >> 20} MiB are asked for")
        super().__init__(wiring, isa=isa, ram={"ram": (0, config.memory)})
        self._isa = isa
        self.cpu = cpu = X86Cpu(
            self.engine,
            wiring.clock,
            acknowledge=lambda: self._pics.acknowledge(),
            on_triple_fault=wiring.request_reset,
            on_end=lambda: wiring.power_off(0),
        )
        self._pics = PicPair("pic", cpu.interrupt)
        self._host = PciHost("pci", config.memory, [self._pics.line(irq) for irq in PCI_IRQS])
        self._ports: dict[int, Mmio] = {}
        power = PcPower("power", on_power_off=wiring.power_off, on_reset=wiring.request_reset)
        uart = Ns16550(f"serial@{UART:x}", self._pics.line(UART_IRQ), wiring.console, wiring.clock, input_clock=UART_CLOCK)
        pit = Pit("pit", self._pics.line(TIMER_IRQ), wiring.clock)
        cmos = Cmos("rtc", self._pics.line(CMOS_IRQ), wiring.clock)
        self.devices += [self._pics, pit, cmos, uart, power, self._host]
        self._attach_ports(self._pics, MASTER, MASTER + 1, SLAVE, SLAVE + 1, ELCR, ELCR + 1)
        self._attach_ports(pit, *range(COUNTERS, CONTROL + 1), SYSTEM)
        self._attach_ports(cmos, INDEX, DATA)
        self._attach_ports(_FromBase(uart, UART), *range(UART, UART + 8))
        self._attach_ports(self._host.configuration, *range(ADDRESS, ADDRESS + 8))
        self._attach_ports(power, *Port)
        self.cpu.hooks.map_ports(self._read_port, self._write_port)
        self._map(config.memory, PCI_WINDOW_END - config.memory, self._host)
        self._map(PCI_WINDOW_END, PHYSICAL_END - PCI_WINDOW_END, NOTHING)
        self._attach_virtio_pci()

    def _attach_ports(self, device: Mmio, *ports: int) -> None:
        self._ports |= dict.fromkeys(ports, device)

    def _attach_virtio_pci(self) -> None:
        for slot, device in enumerate(self.virtio_devices(PCI_SLOTS), start=1):
            transport = VirtioPci(f"virtio-pci@{slot:x}", device, self._host.line(slot))
            self._host.plug(slot, transport)
            self.devices += [transport, device]

    def _read_port(self, port: int, size: int) -> int:
        return self._ports.get(port, NOTHING).read(port, size)

    def _write_port(self, port: int, size: int, value: int) -> None:
        self._ports.get(port, NOTHING).write(port, size, value)

    def configuration(self) -> Mapping[str, Wire]:
        """What the guest could tell apart."""
        return {"board": "pc", "cpu": self._isa, **super().configuration()}

    def load_guest(self) -> None:
        """Put kernel, initrd and boot parameters in RAM, the CPU at the entry; and do what a BIOS does with the devices."""
        for irq in PCI_IRQS:
            self._pics.make_level_triggered(irq)
        self._host.assign(PCI_WINDOW, PCI_IRQS)
        load(self.config, self.memory, self.cpu)


NOTHING = _Nothing()
