/* The machine this guest found itself on. */
#pragma once

#include <stdint.h>

#define MAX_VIRTIO_SLOTS 32 /* QEMU's arm virt has 32, its riscv virt 8 */
#define MAX_BOOTARGS 128    /* shown by `info`; a longer line is cut */

struct virtio_slot {
    uintptr_t base;
    unsigned irq;
};

struct uart;

struct board {
    const struct uart *uart; /* the kind */
    uintptr_t uart_base;
    unsigned uart_shift; /* a 16550's registers lie 1 << uart_shift bytes apart */
    unsigned uart_irq;
    struct virtio_slot slots[MAX_VIRTIO_SLOTS]; /* in order of address */
    unsigned slot_count;
    uintptr_t ram_base;
    uintptr_t ram_end;
    uintptr_t free_base; /* RAM that is neither this image nor reserved by the firmware */
    uintptr_t free_end;
    uint64_t timer_hz;
    char bootargs[MAX_BOOTARGS];
};
