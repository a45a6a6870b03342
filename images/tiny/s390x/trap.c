/* The s390x port: real addresses, interruptions by PSW swap (z/Architecture Principles of Operation, SA22-7832). */
#include "../arch.h"
#include "../goldfish/goldfish.h"

const char arch_name[] = "s390x";

/* PSWs with bit 7, external interruptions, and bit 14, wait. */
static const struct {
    uint64_t mask;
    uint64_t address;
} dead = { 0x0002000180000000, 0 };

void arch_irq_off(void) { __asm__ volatile("stnsm 0x200, 0xfe" : : : "memory"); }

void arch_irq_on(void) { __asm__ volatile("stosm 0x200, 0x01" : : : "memory"); }

void arch_irq_wait(void)
{
    struct {
        uint64_t mask;
        uint64_t address;
    } psw;
    __asm__ volatile("larl %%r1, 1f\n\t"
                     "stg %%r1, 8(%0)\n\t"
                     "lpswe 0(%0)\n"
                     "1:\tstnsm 0x200, 0xfe"
                     :
                     : "a"((psw.mask = 0x0102000180000000, &psw))
                     : "r1", "cc", "memory");
}

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    if (goldfish_discover(board, boot_arg))
        return;
    __asm__ volatile("lpswe %0" : : "Q"(dead)); /* there is no console to say it on */
}

void arch_start(const struct board *board)
{
    (void)board;
    goldfish_start();
}

void arch_barrier(void) { __asm__ volatile("bcr 15, 0" : : : "memory"); }

uint8_t arch_read8(uintptr_t address) { return *(volatile uint8_t *)address; }

void arch_write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void s390x_fault(uint64_t code, uint64_t pc) { panic("interruption", code, pc, 0); }
