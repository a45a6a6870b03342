/* PICs, timer, power and the boot parameters of a PC (Intel 8259A, 82C54; Linux, arch/x86/boot.rst and zero-page.rst). */
#include "pc.h"

#include "../arch.h"
#include "../board.h"
#include "../bytes.h"
#include "../uart.h"

enum { PIC1 = 0x20, PIC2 = 0xA0, ICW1_START = 0x11, ICW4_8086 = 0x01, READ_ISR = 0x0B, END = 0x20, CASCADE = 2 };
enum { PIT_COUNTER = 0x40, PIT_CONTROL = 0x43, PIT_ONE_SHOT = 0x30, PIT_HZ = 1193182, PIT_LONGEST = 0xFFFF };
enum { UART = 0x3F8, UART_IRQ = 4, TIMER_IRQ = 0, SPURIOUS = 7 };
enum { PM1A_CNT = 0x604, SLP_EN = 1 << 13, DEBUG_EXIT = 0x501, RESET_CONTROL = 0xCF9, HARD_RESET = 0x06 };
enum { E820_ENTRIES = 0x1E8, E820_TABLE = 0x2D0, E820_SIZE = 20, E820_RAM = 1, CMD_LINE_PTR = 0x228 };

#define TSC_HZ 1000000000 /* of this board: guest time in ns */

static uint64_t timer_deadline = ARCH_NEVER;
static uint16_t mask = 0xFFFF;

static uint64_t le64_at(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    const uint8_t *page = (const uint8_t *)boot_arg;
    uint32_t command_line, type;
    for (unsigned at = 0; at < page[E820_ENTRIES]; at++) {
        const uint8_t *entry = page + E820_TABLE + E820_SIZE * at;
        uintptr_t base = (uintptr_t)le64_at(entry), size = (uintptr_t)le64_at(entry + 8);
        memcpy(&type, entry + 16, sizeof type);
        if (type == E820_RAM && base <= (uintptr_t)image_start && (uintptr_t)image_start - base < size) {
            board->ram_base = base;
            board->ram_end = board->free_end = base + size;
        }
    }
    memcpy(&command_line, page + CMD_LINE_PTR, sizeof command_line);
    const char *text = (const char *)(uintptr_t)command_line;
    memcpy(board->bootargs, text, strnlen(text, MAX_BOOTARGS - 1));
    board->uart = &ns16550;
    board->uart_base = UART;
    board->uart_irq = UART_IRQ;
    board->timer_hz = TSC_HZ;
    pci_discover(board);
}

unsigned arch_fdt_irq(const uint8_t *cells, size_t count)
{
    (void)cells;
    (void)count;
    return 0; /* no device tree */
}

static void write_masks(void)
{
    out8(PIC1 + 1, (uint8_t)mask);
    out8(PIC2 + 1, (uint8_t)(mask >> 8));
}

void pc_start(void)
{
    for (unsigned chip = 0; chip < 2; chip++) {
        uint16_t port = chip ? PIC2 : PIC1;
        out8(port, ICW1_START);
        out8(port + 1, (uint8_t)(VECTOR_BASE + 8 * chip));
        out8(port + 1, chip ? CASCADE : 1 << CASCADE);
        out8(port + 1, ICW4_8086);
        out8(port, READ_ISR);
    }
    arch_irq_unmask(CASCADE);
    arch_irq_unmask(TIMER_IRQ);
}

void arch_irq_unmask(unsigned irq)
{
    mask &= (uint16_t)~(1u << irq);
    write_masks();
}

void pc_interrupt(unsigned irq)
{
    uint16_t port = irq < 8 ? PIC1 : PIC2;
    if (irq % 8 == SPURIOUS && !(in8(port) >> SPURIOUS & 1)) {
        if (irq >= 8)
            out8(PIC1, END); /* the master did see one */
        return;
    }
    if (irq != TIMER_IRQ)
        irq_dispatch(irq);
    else if (arch_time() >= timer_deadline)
        timer_interrupt();
    else
        arch_timer_set(timer_deadline); /* further away than the counter reaches */
    if (irq >= 8)
        out8(PIC2, END);
    out8(PIC1, END);
}

uint64_t arch_time(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

void arch_timer_set(uint64_t deadline)
{
    timer_deadline = deadline;
    out8(PIT_CONTROL, PIT_ONE_SHOT); /* stops it */
    if (deadline == ARCH_NEVER)
        return;
    uint64_t now = arch_time(), left = deadline > now ? deadline - now : 0;
    uint32_t ticks = PIT_LONGEST;
    if (left < (uint64_t)PIT_LONGEST * TSC_HZ / PIT_HZ)
        ticks = (uint32_t)(left * PIT_HZ / TSC_HZ) + 1;
    out8(PIT_COUNTER, (uint8_t)ticks);
    out8(PIT_COUNTER, (uint8_t)(ticks >> 8));
}

void arch_irq_off(void) { __asm__ volatile("cli" : : : "memory"); }

void arch_irq_on(void) { __asm__ volatile("sti" : : : "memory"); }

void arch_irq_wait(void) { __asm__ volatile("sti; hlt; cli" : : : "memory"); }

void arch_barrier(void) { __asm__ volatile("" : : : "memory"); }

uint8_t arch_read8(uintptr_t address) { return in8((uint16_t)address); }

void arch_write8(uintptr_t address, uint8_t value) { out8((uint16_t)address, value); }

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void arch_power(enum power action)
{
    switch (action) {
    case POWER_OFF:
        out16(PM1A_CNT, SLP_EN);
        break;
    case POWER_REBOOT:
        out8(RESET_CONTROL, HARD_RESET);
        break;
    case POWER_FAILED:
        out8(DEBUG_EXIT, 0);
        break;
    }
}
