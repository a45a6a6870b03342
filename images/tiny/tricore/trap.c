/*
 * The tricore port: a TC1797 on the small board (TriCore 1.3.1). There is no memory protection, and no compiler: the C is
 * compiled for RISC-V and translated (images/tricore); what C cannot say is in start.s.
 */
#include "../arch.h"
#include "../goldfish/goldfish.h"

const char arch_name[] = "tricore";

void tricore_interrupt(void);
_Noreturn void tricore_trap(uint32_t class, uint32_t number, uint32_t pc);

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    if (goldfish_discover(board, boot_arg))
        return;
    for (;;) /* there is no console to say it on */
        arch_irq_wait();
}

void arch_start(const struct board *board)
{
    (void)board;
    goldfish_start();
}

uint8_t arch_read8(uintptr_t address) { return *(volatile uint8_t *)address; }

void arch_write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void tricore_interrupt(void) { goldfish_interrupt(); }

_Noreturn void tricore_trap(uint32_t class, uint32_t number, uint32_t pc) { panic("trap", class << 8 | number, pc, 0); }
