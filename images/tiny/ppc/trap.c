/*
 * The PowerPC port: a 7400 or a POWER10 on the small board (The Programming Environments for 32-Bit Microprocessors; Power ISA
 * 3.0B). On the 7400 block address translation maps everything where it is; its blocks have 128 KiB at least, so code and data
 * share one and code can be written. The POWER10 stays in hypervisor real mode.
 */
#include "../arch.h"

#include "../board.h"
#include "../bytes.h"
#include "../goldfish/goldfish.h"

enum { MSR_DR = 1 << 4, MSR_IR = 1 << 5, MSR_ME = 1 << 12, MSR_EE = 1 << 15 };
enum { EXTERNAL = 0x500, FIRST_VECTOR = 0x100, LAST_VECTOR = 0x1700, VECTOR_STEP = 0x100, VECTOR = 0xFF00 };

#define MAPPED 0x10000000u /* of RAM, by one block */

extern const char vector[], vector_end[];

const char arch_name[] = ARCH_NAME;

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    bool found = goldfish_discover(board, boot_arg);
    if (board->free_end > MAPPED)
        board->free_end = MAPPED;
    if (found)
        return;
    arch_power(POWER_FAILED); /* there is no console to say it on */
    for (;;)
        arch_irq_wait();
}

static unsigned long msr(void)
{
    unsigned long value;
    __asm__ volatile("mfmsr %0" : "=r"(value));
    return value;
}

#ifdef __powerpc64__
static void set_msr(unsigned long value) { __asm__ volatile("sync; mtmsrd %0; isync" : : "r"(value) : "memory"); }

static void start(void) { set_msr(msr() | MSR_ME); }

/* STOP with PSSCR 0: a pending interrupt ends it, taken or not. */
static void sleep(void) { __asm__ volatile("stop; isync" : : : "memory"); }
#else
enum { BAT_256M = 0x7FF << 2, BAT_SUPERVISOR = 1 << 1, BAT_GUARDED = 1 << 3, BAT_UNCACHED = 1 << 5, BAT_READ = 1, BAT_WRITE = 2 };
enum { IBAT0U = 528, IBAT0L, DBAT0U = 536, DBAT0L, DBAT1U, DBAT1L, HID0 = 1008, HID0_NAP = 1 << 22, MSR_POW = 1 << 18 };

#define DEVICES 0xF0000000u
#define mtspr(number, value) __asm__ volatile("mtspr %0, %1; isync" : : "i"(number), "r"(value) : "memory")

static void set_msr(unsigned long value) { __asm__ volatile("sync; mtmsr %0; isync" : : "r"(value) : "memory"); }

static void start(void)
{
    mtspr(IBAT0L, BAT_READ);
    mtspr(IBAT0U, BAT_256M | BAT_SUPERVISOR);
    mtspr(DBAT0L, BAT_WRITE);
    mtspr(DBAT0U, BAT_256M | BAT_SUPERVISOR);
    mtspr(DBAT1L, DEVICES | BAT_UNCACHED | BAT_GUARDED | BAT_WRITE);
    mtspr(DBAT1U, DEVICES | BAT_256M | BAT_SUPERVISOR);
    mtspr(HID0, HID0_NAP);
    set_msr(MSR_ME | MSR_IR | MSR_DR);
}

/* An interrupt that is pending keeps the CPU from sleeping, so none is slept through. */
static void sleep(void) { set_msr(msr() | MSR_EE | MSR_POW); }
#endif

void arch_start(const struct board *board)
{
    (void)board;
    for (uintptr_t at = FIRST_VECTOR; at <= LAST_VECTOR; at += VECTOR_STEP)
        memcpy((void *)at, vector, (size_t)(vector_end - vector));
    start();
    goldfish_start();
}

void arch_irq_off(void) { set_msr(msr() & ~(unsigned long)MSR_EE); }

void arch_irq_on(void) { set_msr(msr() | MSR_EE); }

void arch_irq_wait(void)
{
    sleep();
    arch_irq_on();
    arch_irq_off();
}

void arch_barrier(void) { __asm__ volatile("sync; eieio" : : : "memory"); }

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

void ppc_exception(uintptr_t from, uintptr_t pc, uintptr_t address)
{
    if ((from & VECTOR) != EXTERNAL)
        panic("exception", from & VECTOR, pc, address);
    goldfish_interrupt();
}
