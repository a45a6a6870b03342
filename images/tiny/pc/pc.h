/* What the two x86 ports share: a PC without ACPI. Of arch.h it provides all but the page tables and the waiting. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct board;

enum { VECTOR_BASE = 32 }; /* of interrupt 0 */

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void out8(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

/* Silences the interrupt controllers and gives their interrupts the vectors from VECTOR_BASE on. */
void pc_start(void);

/* Serves interrupt `irq`; called by the port's trap handler with interrupts off. */
void pc_interrupt(unsigned irq);

/* Finds the virtio functions on bus 0, whose BARs and interrupts the firmware has set. */
void pci_discover(struct board *board);
