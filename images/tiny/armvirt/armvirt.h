/*
 * The `virt` board's interrupt controller, timer and power switch, for the 64-bit and the 32-bit port. Of arch.h it provides
 * all but arch_name and what a port needs instructions of its own for; those it is given by the functions here.
 */
#pragma once

#include <stdint.h>

/* Provided by the port: */

/* The virtual timer: its count, its frequency, and its registers CVAL and CTL. */
uint64_t virtual_count(void);
uint64_t virtual_frequency(void);
void virtual_timer_set(uint64_t compare, unsigned control);

/* A call of the firmware; its answer. */
long hypervisor_call(unsigned long function);

/* Turns memory protection on: identity, code executable, all else not. */
void map_memory(void);

/* Provided here, for the port's trap entry with interrupts off: serves what the interrupt controller has. */
void armvirt_interrupt(void);
