/* The sparc port: a LEON3 on the small board, in supervisor mode with the MMU off (The SPARC Architecture Manual, Version 8). */
#include "../arch.h"
#include "../goldfish/goldfish.h"

enum { PSR_PIL = 0xF00, PSR_ET = 0x20, TRAP_INTERRUPT = 0x10, BOARD_LEVEL = 8 };

const char arch_name[] = "sparc";

static uint32_t psr(void)
{
    uint32_t value;
    __asm__ volatile("rd %%psr, %0" : "=r"(value));
    return value;
}

static void set_psr(uint32_t value) { __asm__ volatile("wr %0, %%g0, %%psr; nop; nop; nop" : : "r"(value) : "memory"); }

void arch_irq_off(void) { set_psr(psr() | PSR_PIL); }

void arch_irq_on(void) { set_psr(psr() & ~(uint32_t)PSR_PIL); }

/* With traps off an interrupt wakes the CPU and is not taken before the next write to PSR. */
void arch_irq_wait(void)
{
    uint32_t on = psr() & ~(uint32_t)PSR_PIL;
    set_psr(on & ~(uint32_t)PSR_ET);
    __asm__ volatile("wr %%g0, %%asr19" : : : "memory");
    set_psr(on);
    set_psr(on | PSR_PIL);
}

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    if (goldfish_discover(board, boot_arg))
        return;
    for (;;) /* there is no console to say it on */
        __asm__ volatile("wr %g0, %asr19");
}

void arch_start(const struct board *board)
{
    (void)board;
    goldfish_start();
}

void arch_barrier(void) { __asm__ volatile("stbar" : : : "memory"); }

uint8_t arch_read8(uintptr_t address) { return *(volatile uint8_t *)address; }

void arch_write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void sparc_trap(uint32_t type, uint32_t pc)
{
    if (type == TRAP_INTERRUPT + BOARD_LEVEL)
        goldfish_interrupt();
    else
        panic("trap", type, pc, 0);
}
