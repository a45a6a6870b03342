"""The small board of the ISAs that have no board of their own here: goldfish interrupt controller and timer, 16550, virtio.

Every target has the same devices with the same interrupt numbers; where they lie is in the target's board.py. It is close to
QEMU's m68k `virt`. A guest is entered at its ELF entry with the device tree's address where the target's CPU keeps arguments.

    interrupt  1 UART   2 timer   8..15 virtio-mmio slots
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from devices.goldfish_pic import GoldfishPic
from devices.goldfish_rtc import GoldfishRtc
from devices.ns16550 import Ns16550
from devices.syscon import Finish, Syscon
from emu.board import BoardCpu, Wiring
from emu.clock import Clock
from emu.engine.core import Engine
from emu.errors import ConfigError
from emu.guestimage import ElfKind, load_elf
from emu.irq import IrqLine
from migration.vmstate import Wire
from targets.base import BaseBoard
from targets.devicetree import Cells64, Node, device

PAGE = 0x1000
UART_IRQ, TIMER_IRQ, VIRTIO_IRQ = 1, 2, 8
UART_CLOCK = 3_686_400
VIRTIO_SLOTS, VIRTIO_SIZE = 8, 0x200
TIMEBASE = 1_000_000_000  # Hz; the timer counts ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things are: physical addresses, devices a page each."""

    ram: int
    pic: int
    timer: int
    uart: int
    syscon: int
    virtio: int  # all slots
    machine: str  # e_machine of the ELF files it runs
    bits: int | None = None  # of those files, where the machine alone does not tell
    address_bits: int = -1  # those of an address in such a file that are physical

    @property
    def devices(self) -> tuple[int, ...]:
        """Where all but RAM is."""
        return self.pic, self.timer, self.uart, self.syscon, self.virtio


class GoldfishCpu(BoardCpu, Protocol):
    """What the board needs of a target's CPU."""

    @property
    def interrupt(self) -> IrqLine:
        """The line that the interrupt controller drives."""

    def enter(self, pc: int, tree: int) -> None:
        """Set the registers for a guest that starts at `pc` and finds a device tree at `tree`."""


class GoldfishBoard(BaseBoard):
    """Implements emu.board.Board."""

    def __init__(
        self,
        wiring: Wiring,
        *,
        isa: str,
        places: Places,
        cpu: Callable[[Engine, Clock], GoldfishCpu],
        big_endian: bool,
    ) -> None:
        config = wiring.config
        limit = min(address for address in places.devices if address > places.ram) - places.ram
        if config.memory > limit:
            raise ConfigError(f"memory is {config.memory >> 20} MiB, target {config.target} takes {limit >> 20} MiB at most")
        super().__init__(wiring, isa=isa, ram={"ram": (places.ram, config.memory)}, big_endian=big_endian)
        if config.bios is not None:
            raise ConfigError(f"target {config.target} runs no firmware: --bios is not for it")
        self._places = places
        self._isa = isa
        self.cpu = cpu(self.engine, wiring.clock)
        pic = GoldfishPic(f"pic@{places.pic:x}", self.cpu.interrupt)
        self.attach(places.pic, PAGE, pic)
        self.attach(
            places.uart,
            PAGE,
            Ns16550(f"serial@{places.uart:x}", pic.line(UART_IRQ), wiring.console, wiring.clock, input_clock=UART_CLOCK),
        )
        self.attach(
            places.timer, PAGE, GoldfishRtc(f"timer@{places.timer:x}", pic.line(TIMER_IRQ), wiring.clock, guest_time=True)
        )
        self.attach(
            places.syscon, PAGE, Syscon(f"test@{places.syscon:x}", on_power_off=wiring.power_off, on_reset=wiring.request_reset)
        )
        self.attach_virtio_mmio(places.virtio, VIRTIO_SIZE, [pic.line(VIRTIO_IRQ + slot) for slot in range(VIRTIO_SLOTS)])

    def configuration(self) -> Mapping[str, Wire]:
        """What the guest could tell apart."""
        return {"board": "goldfish", "cpu": self._isa, **super().configuration()}

    def load_guest(self) -> None:
        """Put the guest and its device tree in RAM, and the CPU at its entry."""
        config, places = self.config, self._places
        if config.kernel is None:
            raise ConfigError("no kernel was given: use --kernel FILE or the name of a bundled guest")
        if config.initrd is not None:
            raise ConfigError(f"target {config.target} starts ELF files without an initrd")
        kind = ElfKind(places.machine, places.bits, self.big_endian)
        loaded = load_elf(self.memory, config.kernel, machine=kind, address_bits=places.address_bits)
        tree = device_tree(places, config.memory, config.append)
        address = (places.ram + config.memory - len(tree)) // PAGE * PAGE
        if address < loaded.end:
            raise ConfigError(f"kernel {config.kernel} leaves no room for the device tree in {config.memory >> 20} MiB of RAM")
        self.memory.write(address, tree)
        self.cpu.enter(loaded.entry, address)


def device_tree(places: Places, memory: int, append: str) -> bytes:
    """The tree that a guest finds its board by."""
    cells = {"#address-cells": 2, "#size-cells": 2}
    root = Node("", {**cells, "compatible": "emu,goldfish", "model": "goldfish,emu"})
    cpus = root.add(Node("cpus", {"#address-cells": 1, "#size-cells": 0, "timebase-frequency": TIMEBASE}))
    cpus.add(Node("cpu@0", {"device_type": "cpu", "reg": 0}))
    root.add(Node(f"memory@{places.ram:x}", {"device_type": "memory", "reg": Cells64(places.ram, memory)}))
    pic = root.add(device("interrupt-controller", places.pic, PAGE, "google,goldfish-pic"))
    pic.properties |= {"#interrupt-cells": 1, "#address-cells": 0, "interrupt-controller": True}
    serial = root.add(device("serial", places.uart, PAGE, "ns16550a", (pic, UART_IRQ)))
    serial.properties["clock-frequency"] = UART_CLOCK
    root.add(device("timer", places.timer, PAGE, "google,goldfish-rtc", (pic, TIMER_IRQ)))
    test = root.add(device("test", places.syscon, PAGE, ["sifive,test1", "sifive,test0", "syscon"]))
    for name, value in (("poweroff", Finish.PASS), ("reboot", Finish.RESET)):
        root.add(Node(name, {"compatible": f"syscon-{name}", "value": value, "offset": 0, "regmap": test}))
    for slot in range(VIRTIO_SLOTS):
        root.add(
            device("virtio_mmio", places.virtio + slot * VIRTIO_SIZE, VIRTIO_SIZE, "virtio,mmio", (pic, VIRTIO_IRQ + slot))
        )
    root.add(Node("chosen", {"stdout-path": f"/serial@{places.uart:x}", "bootargs": append}))
    return root.to_bytes()
