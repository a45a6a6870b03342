/* The sparc64 port: an UltraSPARC II on the small board, privileged, with the MMUs off (The SPARC Architecture Manual, Version 9). */
#include "../arch.h"
#include "../goldfish/goldfish.h"

enum { TRAP_INTERRUPT = 0x40, BOARD_LEVEL = 8 };

const char arch_name[] = "sparc64";

/* PSTATE: privileged, the FPU on. */
void arch_irq_off(void) { __asm__ volatile("wrpr %%g0, 0x14, %%pstate" : : : "memory"); }

void arch_irq_on(void) { __asm__ volatile("wrpr %%g0, 0x16, %%pstate" : : : "memory"); }

/* An interrupt wakes the CPU while interrupts are off, and is taken once they are on. */
void arch_irq_wait(void)
{
    __asm__ volatile(".word 0x81b01000" : : : "memory"); /* shutdown */
    arch_irq_on();
    __asm__ volatile("nop");
    arch_irq_off();
}

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    if (goldfish_discover(board, boot_arg))
        return;
    for (;;) /* there is no console to say it on */
        __asm__ volatile(".word 0x81b01000");
}

void arch_start(const struct board *board)
{
    (void)board;
    goldfish_start();
}

void arch_barrier(void) { __asm__ volatile("membar #Sync" : : : "memory"); }

uint8_t arch_read8(uintptr_t address) { return *(volatile uint8_t *)address; }

void arch_write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void sparc64_trap(uint64_t type, uint64_t pc, uint64_t level)
{
    if (type == TRAP_INTERRUPT + BOARD_LEVEL && level == 1)
        goldfish_interrupt();
    else
        panic("trap", type, pc, 0);
}
