/*
 * The MIPS port, for 32 and 64 bits and both byte orders, on the small board (MIPS Architecture for Programmers, volume III).
 * Everything is mapped where it is by one wired TLB entry. Release 2 without RIXI cannot forbid execution, and to make code
 * read-only takes more small pages than a TLB of 16 entries has, so memory protection stays out.
 */
#include "../arch.h"

#include "../board.h"
#include "../goldfish/goldfish.h"

enum { STATUS_IE = 1 << 0, STATUS_IM2 = 1 << 10, CAUSE_CODE = 0x7C, CAUSE_IP2 = 1 << 10 };
enum { LO_GLOBAL = 1 << 0, LO_VALID = 1 << 1, LO_DIRTY = 1 << 2, LO_UNCACHED = 2 << 3, LO_CACHED = 3 << 3, LO_PAGE_SHIFT = 6 };
enum { PAGES_256M = 0xFFFF << 13, HALF = 0x10000000, PAGE_SHIFT = 12, KSEG0 = INT32_MIN };

#define mtc0(value, register) __asm__ volatile("mtc0 %0, " register "; ehb" : : "r"(value) : "memory")
#define INDEX "$0"
#define ENTRY_LO0 "$2"
#define ENTRY_LO1 "$3"
#define PAGE_MASK "$5"
#define WIRED "$6"
#define ENTRY_HI "$10"
#define STATUS "$12"
#define EBASE "$15, 1"

extern char vectors[];

const char arch_name[] = ARCH_NAME;

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    if (goldfish_discover(board, boot_arg))
        return;
    arch_power(POWER_FAILED); /* there is no console to say it on */
    for (;;)
        arch_irq_wait();
}

/* RAM in the lower page of the entry, devices in the upper. Until ERL goes, the entry is not used. */
static void map(void)
{
    mtc0(0, INDEX);
    mtc0(PAGES_256M, PAGE_MASK);
    mtc0(0, ENTRY_HI);
    mtc0(LO_CACHED | LO_DIRTY | LO_VALID | LO_GLOBAL, ENTRY_LO0);
    mtc0(HALF >> PAGE_SHIFT << LO_PAGE_SHIFT | LO_UNCACHED | LO_DIRTY | LO_VALID | LO_GLOBAL, ENTRY_LO1);
    __asm__ volatile("tlbwi; ehb" : : : "memory");
    mtc0(1, WIRED);
}

void arch_start(const struct board *board)
{
    (void)board;
    map();
    mtc0(KSEG0 | (int)(intptr_t)vectors, EBASE);
    mtc0(STATUS_IM2, STATUS);
    goldfish_start();
}

void arch_irq_off(void) { __asm__ volatile("di; ehb" : : : "memory"); }

void arch_irq_on(void) { __asm__ volatile("ei; ehb" : : : "memory"); }

/* Config7.WII is set: an interrupt that IE holds back ends WAIT. */
void arch_irq_wait(void) { __asm__ volatile("wait; ei; ehb; nop; di; ehb" : : : "memory"); }

void arch_barrier(void) { __asm__ volatile("sync" : : : "memory"); }

uint8_t arch_read8(uintptr_t address)
{
    uint8_t value = *(volatile uint8_t *)address;
    arch_barrier();
    return value;
}

void arch_write8(uintptr_t address, uint8_t value)
{
    arch_barrier();
    *(volatile uint8_t *)address = value;
}

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void mips_trap(uint32_t cause, uintptr_t pc, uintptr_t address)
{
    if (cause & CAUSE_CODE || !(cause & CAUSE_IP2))
        panic("trap", cause, pc, address);
    goldfish_interrupt();
}
