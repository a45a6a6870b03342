"""The device tree of the `virt` board: what Linux's bindings ask for, for what is configured."""

from __future__ import annotations

from targets.arm.boot import Placement
from targets.arm.map import (
    GIC,
    GIC_CPU_INTERFACE,
    GIC_SIZE,
    HYP_TIMER_IRQ,
    RAM_BASE,
    RTC,
    RTC_IRQ,
    RTC_SIZE,
    SECURE_TIMER_IRQ,
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
from targets.devicetree import Cells64, Node, Value, device

SHARED, PRIVATE = 0, 1  # first cell of an interrupt (arm,gic.yaml)
LEVEL_HIGH = 4  # third cell
CPU_0 = 1 << 8  # and in a private interrupt's
APB_CLOCK = 24_000_000  # Hz
BUS = {"#address-cells": 2, "#size-cells": 2}
SERIAL = f"pl011@{UART:x}"


def device_tree(memory: int, append: str, cpu: str, timer: str, placement: Placement | None) -> bytes:
    """The tree for `memory` bytes of RAM; `cpu` and `timer` are the compatible strings of the two.

    Without a placement it is one of the same size, to find its place with.
    """
    root = Node("", {**BUS, "compatible": "linux,dummy-virt", "model": "linux,dummy-virt"})
    gic = Node(
        f"intc@{GIC:x}",
        {
            "compatible": "arm,cortex-a15-gic",
            "#interrupt-cells": 3,
            "#address-cells": 0,
            "interrupt-controller": True,
            "reg": Cells64(GIC, GIC_CPU_INTERFACE, GIC + GIC_CPU_INTERFACE, GIC_SIZE - GIC_CPU_INTERFACE),
        },
    )
    root.properties["interrupt-parent"] = gic
    cpus = root.add(Node("cpus", {"#address-cells": 1, "#size-cells": 0}))
    cpus.add(Node("cpu@0", {"device_type": "cpu", "reg": 0, "compatible": cpu}))
    root.add(Node("psci", {"compatible": ["arm,psci-1.0", "arm,psci-0.2"], "method": "hvc"}))
    root.add(Node(f"memory@{RAM_BASE:x}", {"device_type": "memory", "reg": Cells64(RAM_BASE, memory)}))
    private = [
        cell
        for irq in (SECURE_TIMER_IRQ, TIMER_IRQ, VIRTUAL_TIMER_IRQ, HYP_TIMER_IRQ)
        for cell in (PRIVATE, irq, CPU_0 | LEVEL_HIGH)
    ]
    root.add(Node("timer", {"compatible": timer, "interrupts": private, "always-on": True}))
    root.add(gic)
    clock = root.add(
        Node(
            "apb-pclk",
            {
                "compatible": "fixed-clock",
                "#clock-cells": 0,
                "clock-frequency": APB_CLOCK,
                "clock-output-names": "clk24mhz",
            },
        )
    )
    for name, base, size, irq, clocks in (
        ("pl011", UART, UART_SIZE, UART_IRQ, ["uartclk", "apb_pclk"]),
        ("pl031", RTC, RTC_SIZE, RTC_IRQ, ["apb_pclk"]),
    ):
        node = root.add(device(name, base, size, [f"arm,{name}", "arm,primecell"]))
        node.properties |= {
            "interrupts": [SHARED, irq, LEVEL_HIGH],
            "clocks": [clock] * len(clocks),
            "clock-names": clocks,
        }
    for slot in range(VIRTIO_SLOTS):
        node = root.add(device("virtio_mmio", VIRTIO + slot * VIRTIO_SIZE, VIRTIO_SIZE, "virtio,mmio"))
        node.properties |= {"interrupts": [SHARED, VIRTIO_IRQ + slot, LEVEL_HIGH], "dma-coherent": True}
    chosen: dict[str, Value] = {"stdout-path": f"/{SERIAL}", "bootargs": append}
    initrd = None if placement is None else placement.initrd
    chosen["linux,initrd-start"] = Cells64(0 if initrd is None else initrd.start)
    chosen["linux,initrd-end"] = Cells64(0 if initrd is None else initrd.end)
    root.add(Node("chosen", chosen))
    return root.to_bytes()
