"""Addresses, ports and interrupt numbers of the PC."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30

PCI_WINDOW, PCI_WINDOW_END = 3 * GIB, 4 * GIB  # RAM ends below
PCI_IRQS = (5, 9, 10, 11)  # of the four links
PCI_SLOTS = 31

UART, UART_IRQ, UART_CLOCK = 0x3F8, 4, 1_843_200
TIMER_IRQ, CMOS_IRQ = 0, 8

ZERO_PAGE, COMMAND_LINE, PAGE_TABLES, GDT, STACK = 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000, 0x8000
COMMAND_LINE_MAX = 0x1000
LOW_END = 0x9_FC00  # of the RAM below the video memory, as a BIOS reports it
HIGH_START = MIB
