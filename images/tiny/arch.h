/*
 * The contract between the guest and a port. All that differs between two ISAs is behind these functions; a port is
 * a folder with start.S (entry, stack, trap entry) and trap.c (this file's functions), and an entry in images/build.py.
 *
 * start.S clears .bss, takes a stack, and calls tiny_main(boot_arg) with interrupts off; boot_arg is what the loader
 * handed over (a device tree's address, where there is one). RAM is coherent with devices that access it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct board;

/* The name printed at start, as in images/build.py. */
extern const char arch_name[];

/* Provided by the port: */

/* Fills `board` from the boot argument (see fdt_discover) or with the board's fixed addresses. Memory is not mapped yet. */
void arch_discover(struct board *board, uintptr_t boot_arg);

/* The interrupt number of a device tree's `interrupts` property of `count` cells, big-endian. */
unsigned arch_fdt_irq(const uint8_t *cells, size_t count);

/* Sets traps, memory protection and the interrupt controller up. Code must not be writable, nor data executable. */
void arch_start(const struct board *board);

/* Guest time, in ticks of board.timer_hz; and one interrupt at a deadline, or never at ARCH_NEVER. */
#define ARCH_NEVER UINT64_MAX
uint64_t arch_time(void);
void arch_timer_set(uint64_t deadline);

void arch_irq_unmask(unsigned irq);
void arch_irq_off(void);
void arch_irq_on(void);

/* Called with interrupts off: sleeps until one is pending, takes it, and returns with interrupts off again. */
void arch_irq_wait(void);

/* Orders every earlier memory and device access before every later one. */
void arch_barrier(void);

/* An 8-bit device register, in I/O space where the ISA has one. Used for the console only. */
uint8_t arch_read8(uintptr_t address);
void arch_write8(uintptr_t address, uint8_t value);

/* The address a device uses for `pointer`. */
uint64_t arch_dma_address(const void *pointer);

enum power { POWER_OFF, POWER_REBOOT, POWER_FAILED };

/* POWER_FAILED is a power-off that tells the host about it. Returns only if the machine cannot do it. */
void arch_power(enum power action);

/* Called by the port: */

void tiny_main(uintptr_t boot_arg);
void timer_interrupt(void);
void irq_dispatch(unsigned irq);

/* For a trap that is a bug of this program: prints and powers off. */
_Noreturn void panic(const char *what, uint64_t cause, uint64_t pc, uint64_t address);

/* From the linker script: */

extern char image_start[], text_end[], image_end[];
