/* The arm64 port: EL1, four-level tables of 4 KiB (Arm Architecture Reference Manual, DDI 0487). */
#include "../arch.h"

#include "../armvirt/armvirt.h"

/* Descriptors (D5.3); the access flag is set beforehand */
enum { VALID = 1, TABLE = 2, PAGE = 2, ATTR_DEVICE = 1 << 2, READ_ONLY = 1 << 7, INNER_SHAREABLE = 3 << 8, ACCESSED = 1 << 10 };
#define PXN (1ull << 53)
#define UXN (1ull << 54)
#define CODE (VALID | READ_ONLY | INNER_SHAREABLE | ACCESSED | UXN)
#define DATA (VALID | INNER_SHAREABLE | ACCESSED | UXN | PXN)
#define DEVICE (VALID | ATTR_DEVICE | ACCESSED | UXN | PXN)

#define MAIR 0x04FFull /* attribute 0 normal, write-back; 1 device-nGnRE (D13.2.97) */
/* 39 bits by TTBR0 alone, tables in write-back memory, 36 bits of physical address (D13.2.120) */
#define TCR (25ull | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 1ull << 32)
enum { SCTLR_M = 1 << 0, SCTLR_C = 1 << 2, SCTLR_I = 1 << 12, ENTRIES = 512 };

#define SPAN_1 (1ull << 30) /* of an entry of the first table, which is level 1's */
#define SPAN_2 (1ull << 21)
#define SPAN_3 (1ull << 12)
#define DEVICES (1ull << 30) /* this board's RAM begins where they end */

#define READ(name)                                                   \
    ({                                                               \
        uint64_t value_;                                             \
        __asm__ volatile("mrs %0, " #name : "=r"(value_) : : "memory"); \
        value_;                                                      \
    })
#define WRITE(name, value) __asm__ volatile("msr " #name ", %0; isb" : : "r"((uint64_t)(value)) : "memory")

const char arch_name[] = "arm64";

static _Alignas(4096) uint64_t root[ENTRIES], middle[ENTRIES], leaf[ENTRIES];

/* Identity: devices below, single pages where the image lies, RAM above. */
void map_memory(void)
{
    uint64_t image = (uintptr_t)image_start, image_2 = image & ~(SPAN_2 - 1), image_1 = image & ~(SPAN_1 - 1);
    for (uint64_t at = 0; at < ENTRIES; at++) {
        uint64_t page = image_2 + at * SPAN_3;
        root[at] = at * SPAN_1 | (at * SPAN_1 < DEVICES ? DEVICE : DATA);
        middle[at] = image_1 + at * SPAN_2 + DATA;
        leaf[at] = page | PAGE | (page >= image && page < (uintptr_t)text_end ? CODE : DATA);
    }
    middle[(image - image_1) / SPAN_2] = (uintptr_t)leaf | TABLE | VALID;
    root[image / SPAN_1] = (uintptr_t)middle | TABLE | VALID;
    WRITE(mair_el1, MAIR);
    WRITE(tcr_el1, TCR);
    WRITE(ttbr0_el1, (uintptr_t)root);
    __asm__ volatile("dsb sy; tlbi vmalle1; dsb sy; isb" : : : "memory");
    WRITE(sctlr_el1, READ(sctlr_el1) | SCTLR_M | SCTLR_C | SCTLR_I);
}

uint64_t virtual_count(void) { return READ(cntvct_el0); }

uint64_t virtual_frequency(void) { return READ(cntfrq_el0); }

void virtual_timer_set(uint64_t compare, unsigned control)
{
    WRITE(cntv_cval_el0, compare);
    WRITE(cntv_ctl_el0, control);
}

long hypervisor_call(unsigned long function)
{
    register unsigned long x0 __asm__("x0") = function;
    __asm__ volatile("hvc #0" : "+r"(x0) : : "x1", "x2", "x3", "memory");
    return (long)x0;
}

void arch_irq_off(void) { __asm__ volatile("msr daifset, #2" : : : "memory"); }

void arch_irq_on(void) { __asm__ volatile("msr daifclr, #2" : : : "memory"); }

void arch_irq_wait(void) { __asm__ volatile("dsb sy; wfi; msr daifclr, #2; isb; msr daifset, #2" : : : "memory"); }

void arch_barrier(void) { __asm__ volatile("dsb sy" : : : "memory"); }

_Noreturn void trap(void) { panic("trap", READ(esr_el1), READ(elr_el1), READ(far_el1)); }
