/* The m68k port: a 68040 on the small board, in supervisor mode with the MMU off (M68040 User's Manual, chapter 8). */
#include "../arch.h"
#include "../goldfish/goldfish.h"

enum { AUTOVECTOR_1 = 25, FORMAT_ACCESS_FAULT = 7 };

/* What the CPU leaves on the stack (8.4); the fault address is there in format 7 only. */
struct frame {
    uint16_t sr;
    uint32_t pc;
    uint16_t format_and_vector;
    uint32_t effective_address;
    uint16_t words[4];
    uint32_t fault_address;
} __attribute__((packed, aligned(2)));

const char arch_name[] = "m68k";

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    if (goldfish_discover(board, boot_arg))
        return;
    for (;;) /* there is no console to say it on */
        __asm__ volatile("stop #0x2700");
}

void arch_start(const struct board *board)
{
    (void)board;
    goldfish_start();
}

void arch_irq_off(void) { __asm__ volatile("ori.w #0x0700, %%sr" : : : "memory"); }

void arch_irq_on(void) { __asm__ volatile("andi.w #0xf8ff, %%sr" : : : "memory"); }

void arch_irq_wait(void) { __asm__ volatile("stop #0x2000\n\tori.w #0x0700, %%sr" : : : "memory"); }

void arch_barrier(void) { __asm__ volatile("nop" : : : "memory"); } /* waits until all bus cycles are done (M68000PRM) */

uint8_t arch_read8(uintptr_t address) { return *(volatile uint8_t *)address; }

void arch_write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void m68k_trap(const struct frame *frame)
{
    unsigned vector = (frame->format_and_vector & 0xFFF) / 4, format = frame->format_and_vector >> 12;
    if (vector == AUTOVECTOR_1)
        goldfish_interrupt();
    else
        panic("trap", vector, frame->pc, format == FORMAT_ACCESS_FAULT ? frame->fault_address : 0);
}
