"""Addresses and interrupt numbers of the `virt` board, as in QEMU's hw/arm/virt.c."""

from __future__ import annotations

PPI, SPI = 16, 32  # where a device tree's numbers of the two kinds begin among the interrupt controller's

GIC, GIC_SIZE = 0x800_0000, 0x2_0000
GIC_CPU_INTERFACE = 0x1_0000  # from GIC on
UART, UART_SIZE, UART_IRQ = 0x900_0000, 0x1000, 1
RTC, RTC_SIZE, RTC_IRQ = 0x901_0000, 0x1000, 2
VIRTIO, VIRTIO_SIZE, VIRTIO_SLOTS, VIRTIO_IRQ = 0xA00_0000, 0x200, 32, 16
RAM_BASE = 0x4000_0000

# The generic timer's private interrupts
SECURE_TIMER_IRQ, TIMER_IRQ, VIRTUAL_TIMER_IRQ, HYP_TIMER_IRQ = 13, 14, 11, 10
