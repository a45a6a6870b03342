"""A PCI host bridge with configuration mechanism 1 and one bus (PCI Local Bus Specification 3.0, 3.2.2.3.2 and 6).

    0xcf8   W 32 bits: enable (31), bus, device, function, register          0xcfc..0xcff   the register

Device 0 is the bridge itself, which has no registers to set. Each further device has one function, at most one 32-bit memory
BAR, and INTA#, which is wired to one of four interrupts as on every PC: (device - 1) mod 4. Where a BAR is, the guest decides;
the window that the bridge forwards asks each function. Missing: bridges, I/O BARs, bus mastering checks, PCI Express.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, u32

ADDRESS, DATA = 0xCF8, 0xCFC
ENABLE = 1 << 31
DEVICES = 32
LINKS = 4
CONFIG_SIZE = 256


class Config(IntEnum):
    """Offsets in a function's configuration space (6.1)."""

    VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS, BAR0 = 0x00, 0x02, 0x04, 0x06, 0x08, 0x0A, 0x10
    SUBSYSTEM_VENDOR, SUBSYSTEM, CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = 0x2C, 0x2E, 0x34, 0x3C, 0x3D


BRIDGE: dict[int, int] = {  # of the 82441FX, which kernels know
    Config.VENDOR: 0x8086,
    Config.DEVICE: 0x1237,
    Config.CLASS: 0x0600,
}


class PciFunction(Protocol):
    """What is in a slot."""

    def read_config(self, offset: int, size: int) -> int:
        """Load from the configuration space."""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Store to the configuration space."""

    @property
    def window(self) -> range:
        """The addresses its BAR takes part in now; empty when it is switched off."""

    @property
    def bar_size(self) -> int:
        """Bytes behind its BAR, a power of two."""

    def read(self, offset: int, size: int) -> int:
        """Load from behind the BAR."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Store behind the BAR."""


@dataclass(slots=True, kw_only=True)
class PciHostState(State):
    """The address register, and which devices assert INTA#."""

    VMSTATE: ClassVar[VMState] = VMState("pci-host", version=1, minimum=1)
    address: int = u32()
    asserted: int = u32()  # bit n: device n


class _Mechanism1:
    """The ports by which configuration space is reached. Implements emu.device.Mmio, called with the port itself."""

    def __init__(self, host: PciHost) -> None:
        self._host = host

    def read(self, port: int, size: int) -> int:
        """A load from 0xcf8..0xcff."""
        if port < DATA:
            return self._host.state.address if (port, size) == (ADDRESS, 4) else _ones(size)
        device, offset = self._selected(port)
        if device is None or offset & size - 1:
            return _ones(size)
        if device == 0:
            data = b"".join(BRIDGE.get(at, 0).to_bytes(2, "little") for at in WORDS)
            return int.from_bytes(data[offset : offset + size], "little")
        function = self._host.functions.get(device)
        return _ones(size) if function is None else function.read_config(offset, size)

    def write(self, port: int, size: int, value: int) -> None:
        """A store to 0xcf8..0xcff."""
        if port < DATA:
            if (port, size) == (ADDRESS, 4):
                self._host.state.address = value & 0x80FF_FFFC
            return
        device, offset = self._selected(port)
        function = self._host.functions.get(device) if device else None
        if function is not None and not offset & size - 1:
            function.write_config(offset, size, value)

    def _selected(self, port: int) -> tuple[int | None, int]:
        """Device and offset the address register points to; None where there is neither bus nor function."""
        address = self._host.state.address
        offset = address & 0xFC | port & 3
        return (address >> 11 & 31 if address & ENABLE and not address & 0xFF_0700 else None), offset


class PciHost(Device[PciHostState]):
    """The bridge. Implements emu.device.Mmio for the memory window from `base` on."""

    STATE = PciHostState

    def __init__(self, name: str, base: int, irqs: Sequence[IrqLine]) -> None:
        """`irqs` are the four interrupts the devices share."""
        self._base = base
        self._irqs = irqs
        self.functions: dict[int, PciFunction] = {}
        self.configuration = _Mechanism1(self)
        super().__init__(name)

    def line(self, device: int) -> IrqLine:
        """INTA# of `device`."""
        return IrqLine(lambda level: self._set(device, level))

    def plug(self, device: int, function: PciFunction) -> None:
        """Put a function in slot `device`, 1 to 31."""
        self.functions[device] = function

    def assign(self, start: int, irqs: Sequence[int]) -> None:
        """Do what firmware does: give each BAR a place from `start` on, enable it, and note which of `irqs` its device has."""
        at = start
        for device, function in sorted(self.functions.items()):
            size = function.bar_size
            at = at + size - 1 & -size
            function.write_config(Config.BAR0, 4, at)
            function.write_config(Config.COMMAND, 2, 0x0006)  # memory space, bus master
            function.write_config(Config.INTERRUPT_LINE, 1, irqs[(device - 1) % LINKS])
            at += size

    def read(self, offset: int, size: int) -> int:
        """A load from the memory window; where nobody is, all ones."""
        address = self._base + offset
        for function in self.functions.values():
            if address in (window := function.window):
                return function.read(address - window.start, size)
        return _ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        """A store to the memory window."""
        address = self._base + offset
        for function in self.functions.values():
            if address in (window := function.window):
                function.write(address - window.start, size, value)
                return

    def _set(self, device: int, level: bool) -> None:
        state, bit = self.state, 1 << device
        state.asserted = state.asserted | bit if level else state.asserted & ~bit
        link = (device - 1) % LINKS
        sharing = sum(1 << other for other in range(1, DEVICES) if (other - 1) % LINKS == link)
        self._irqs[link].set(bool(state.asserted & sharing))


WORDS = range(0, CONFIG_SIZE, 2)


def _ones(size: int) -> int:
    return (1 << 8 * size) - 1
