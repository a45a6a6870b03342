/* The arm port: SVC mode, short-descriptor tables (ARM Architecture Reference Manual ARMv7-A, DDI 0406). */
#include "../arch.h"

#include "../armvirt/armvirt.h"

/* Descriptors (B3.5.1): sections of 1 MiB and small pages of 4 KiB, privileged, shareable where they are memory */
enum { SECTION = 2, SECTION_XN = 1 << 4, SECTION_B = 1 << 2, SECTION_C = 1 << 3, SECTION_RW = 1 << 10, SECTION_TEX1 = 1 << 12 };
enum { TABLE = 1, SMALL = 2, SMALL_XN = 1, SMALL_B = 1 << 2, SMALL_C = 1 << 3, SMALL_RW = 1 << 4, SMALL_TEX1 = 1 << 6, SMALL_RO = 1 << 9 };

#define DEVICE (SECTION | SECTION_XN | SECTION_B | SECTION_RW)
#define MEMORY (SECTION | SECTION_XN | SECTION_B | SECTION_C | SECTION_TEX1 | SECTION_RW)
#define PAGE_DATA (SMALL | SMALL_XN | SMALL_B | SMALL_C | SMALL_TEX1 | SMALL_RW)
#define PAGE_CODE (SMALL | SMALL_B | SMALL_C | SMALL_TEX1 | SMALL_RW | SMALL_RO)

enum { SCTLR_M = 1 << 0, SCTLR_C = 1 << 2, SCTLR_I = 1 << 12, CLIENT = 1 };
enum { SECTIONS = 4096, PAGES = 256, SECTION_SHIFT = 20, PAGE_SHIFT = 12 };

#define DEVICES (1u << 30) /* this board's RAM begins where they end */

#define READ(op1, crn, crm, op2)                                                                                         \
    ({                                                                                                                   \
        uint32_t value_;                                                                                                 \
        __asm__ volatile("mrc p15, " #op1 ", %0, " #crn ", " #crm ", " #op2 : "=r"(value_) : : "memory");                 \
        value_;                                                                                                          \
    })
#define WRITE(op1, crn, crm, op2, value) \
    __asm__ volatile("mcr p15, " #op1 ", %0, " #crn ", " #crm ", " #op2 "; isb" : : "r"(value) : "memory")

const char arch_name[] = "arm";

static _Alignas(16384) uint32_t root[SECTIONS];
static _Alignas(1024) uint32_t leaf[PAGES];

/* Identity: devices below, single pages where the image lies, RAM above. */
void map_memory(void)
{
    uintptr_t image = (uintptr_t)image_start;
    for (uint32_t at = 0; at < SECTIONS; at++)
        root[at] = at << SECTION_SHIFT | (at << SECTION_SHIFT < DEVICES ? DEVICE : MEMORY);
    for (uint32_t at = 0; at < PAGES; at++) {
        uintptr_t page = (image >> SECTION_SHIFT << SECTION_SHIFT) + (at << PAGE_SHIFT);
        leaf[at] = page | (page >= image && page < (uintptr_t)text_end ? PAGE_CODE : PAGE_DATA);
    }
    root[image >> SECTION_SHIFT] = (uintptr_t)leaf | TABLE;
    WRITE(0, c2, c0, 2, 0);               /* TTBCR: TTBR0 alone */
    WRITE(0, c2, c0, 0, (uintptr_t)root); /* TTBR0 */
    WRITE(0, c3, c0, 0, CLIENT);          /* DACR: domain 0 */
    WRITE(0, c8, c7, 0, 0);               /* TLBIALL */
    WRITE(0, c1, c0, 0, READ(0, c1, c0, 0) | SCTLR_M | SCTLR_C | SCTLR_I);
}

uint64_t virtual_count(void)
{
    uint64_t count;
    __asm__ volatile("isb; mrrc p15, 1, %Q0, %R0, c14" : "=r"(count) : : "memory");
    return count;
}

uint64_t virtual_frequency(void) { return READ(0, c14, c0, 0); }

void virtual_timer_set(uint64_t compare, unsigned control)
{
    __asm__ volatile("mcrr p15, 3, %Q0, %R0, c14" : : "r"(compare) : "memory");
    WRITE(0, c14, c3, 1, control);
}

void arch_irq_off(void) { __asm__ volatile("cpsid i" : : : "memory"); }

void arch_irq_on(void) { __asm__ volatile("cpsie i" : : : "memory"); }

void arch_irq_wait(void) { __asm__ volatile("dsb; wfi; cpsie i; isb; cpsid i" : : : "memory"); }

void arch_barrier(void) { __asm__ volatile("dsb" : : : "memory"); }

_Noreturn void trap(uint32_t vector, uint32_t pc, uint32_t address) { panic("trap", vector, pc, address); }

/* The compiler's library calls this when it divides by zero. */
int raise(int signal);
int raise(int signal) { panic("division by zero", (uint32_t)signal, 0, 0); }
