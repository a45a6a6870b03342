/*
 * The small board's interrupt controller, timer and power switch, for the ports of the ISAs that run on it. Of arch.h it
 * provides arch_fdt_irq, arch_time, arch_timer_set, arch_irq_unmask and arch_power.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct board;

/* Fills `board` from the device tree at `tree` and finds the devices; false when one is missing. */
bool goldfish_discover(struct board *board, uintptr_t tree);

/* Silences the interrupt controller and lets the timer through. */
void goldfish_start(void);

/* Serves all that is pending; called by the port's trap handler with interrupts off. */
void goldfish_interrupt(void);
