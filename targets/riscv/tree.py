"""The device tree of the `virt` board: what Linux's bindings ask for, for what is configured."""

from __future__ import annotations

from devices.syscon import Finish
from targets.devicetree import Cells64, Node, device
from targets.riscv.boot import Placement
from targets.riscv.cpu import TIMEBASE
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
from targets.riscv.state import Irq, Width

BUS = {"#address-cells": 2, "#size-cells": 2}


def device_tree(memory: int, append: str, width: Width, placement: Placement | None) -> bytes:
    """The tree for `memory` bytes of RAM and a hart of `width`; without a placement one of the same size, to find a place."""
    root = Node("", {**BUS, "compatible": "riscv-virtio", "model": "riscv-virtio,emu"})
    cpus = root.add(Node("cpus", {"#address-cells": 1, "#size-cells": 0, "timebase-frequency": TIMEBASE}))
    cpu = cpus.add(
        Node(
            "cpu@0",
            {
                "device_type": "cpu",
                "reg": 0,
                "status": "okay",
                "compatible": "riscv",
                "riscv,isa": width.isa_string,
                "mmu-type": width.mmu_type,
            },
        )
    )
    intc = cpu.add(
        Node(
            "interrupt-controller",
            {"compatible": "riscv,cpu-intc", "#interrupt-cells": 1, "#address-cells": 0, "interrupt-controller": True},
        )
    )
    root.add(Node(f"memory@{RAM_BASE:x}", {"device_type": "memory", "reg": Cells64(RAM_BASE, memory)}))
    soc = root.add(Node("soc", {**BUS, "compatible": "simple-bus", "ranges": True}))
    test = soc.add(device("test", SYSCON, SYSCON_SIZE, ["sifive,test1", "sifive,test0", "syscon"]))
    for name, value in (("poweroff", Finish.PASS), ("reboot", Finish.RESET)):
        root.add(Node(name, {"compatible": f"syscon-{name}", "value": value, "offset": 0, "regmap": test}))
    clint = soc.add(device("clint", CLINT, CLINT_SIZE, ["sifive,clint0", "riscv,clint0"]))
    clint.properties["interrupts-extended"] = _wires(intc, Irq.MSIP, Irq.MTIP)
    plic = soc.add(device("plic", PLIC, PLIC_SIZE, ["sifive,plic-1.0.0", "riscv,plic0"]))
    plic.properties |= {
        "#interrupt-cells": 1,
        "#address-cells": 0,
        "interrupt-controller": True,
        "interrupts-extended": _wires(intc, Irq.MEIP, Irq.SEIP),
        "riscv,ndev": PLIC_SOURCES,
    }
    serial = soc.add(device("serial", UART, UART_SIZE, "ns16550a", (plic, UART_IRQ)))
    serial.properties["clock-frequency"] = UART_CLOCK
    soc.add(device("rtc", RTC, RTC_SIZE, "google,goldfish-rtc", (plic, RTC_IRQ)))
    for slot in range(VIRTIO_SLOTS):
        soc.add(device("virtio_mmio", VIRTIO + slot * VIRTIO_SIZE, VIRTIO_SIZE, "virtio,mmio", (plic, VIRTIO_IRQ + slot)))
    initrd = None if placement is None else placement.initrd
    root.add(
        Node(
            "chosen",
            {
                "stdout-path": f"/soc/serial@{UART:x}",
                "bootargs": append,
                "linux,initrd-start": Cells64(0 if initrd is None else initrd.start),
                "linux,initrd-end": Cells64(0 if initrd is None else initrd.end),
            },
        )
    )
    return root.to_bytes()


def _wires(controller: Node, *irqs: int) -> list[int | Node]:
    """An interrupts-extended value."""
    return [item for irq in irqs for item in (controller, irq)]
