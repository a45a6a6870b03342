/* QEMU hw/intc/goldfish_pic.c, hw/rtc/goldfish_rtc.c, hw/misc/sifive_test.c */
#include "goldfish.h"

#include "../arch.h"
#include "../board.h"
#include "../bytes.h"
#include "../fdt.h"

enum { PIC_PENDING = 0x04, PIC_DISABLE_ALL = 0x08, PIC_ENABLE = 0x10 };
enum { TIME_LOW, TIME_HIGH = 0x04, ALARM_LOW = 0x08, ALARM_HIGH = 0x0C, IRQ_ENABLED = 0x10, CLEAR_ALARM = 0x14, CLEAR_INTERRUPT = 0x1C };
enum { TEST_PASS = 0x5555, TEST_RESET = 0x7777, TEST_FAIL = 0x13333 };

static uintptr_t pic, timer, syscon;
static unsigned timer_irq;

static volatile uint32_t *reg32(uintptr_t address) { return (volatile uint32_t *)address; }

unsigned arch_fdt_irq(const uint8_t *cells, size_t count) { return count == 1 ? be32_at(cells) : 0; }

static void visit(const struct fdt_node *node, void *context)
{
    (void)context;
    uintptr_t base, size;
    uint32_t bytes;
    if (!fdt_reg(node, &base, &size))
        return;
    if (fdt_compatible(node, "google,goldfish-pic"))
        pic = base;
    if (fdt_compatible(node, "sifive,test0"))
        syscon = base;
    if (fdt_compatible(node, "google,goldfish-rtc")) {
        const uint8_t *cells = fdt_property(node, "interrupts", &bytes);
        timer = base;
        timer_irq = cells ? arch_fdt_irq(cells, bytes / 4) : 0;
    }
}

bool goldfish_discover(struct board *board, uintptr_t tree)
{
    bool found = fdt_discover((const void *)tree, board) && board->timer_hz;
    fdt_walk((const void *)tree, visit, NULL);
    return found && pic && timer && syscon;
}

void goldfish_start(void)
{
    *reg32(pic + PIC_DISABLE_ALL) = 1;
    arch_irq_unmask(timer_irq);
    *reg32(timer + IRQ_ENABLED) = 1;
}

void goldfish_interrupt(void)
{
    uint32_t pending = *reg32(pic + PIC_PENDING);
    for (unsigned irq = 0; pending; irq++, pending >>= 1) {
        if (!(pending & 1))
            continue;
        if (irq != timer_irq) {
            irq_dispatch(irq);
            continue;
        }
        *reg32(timer + CLEAR_INTERRUPT) = 1;
        timer_interrupt();
    }
}

uint64_t arch_time(void)
{
    uint32_t low = *reg32(timer + TIME_LOW); /* latches the upper half */
    return (uint64_t)*reg32(timer + TIME_HIGH) << 32 | low;
}

void arch_timer_set(uint64_t deadline)
{
    if (deadline == ARCH_NEVER) {
        *reg32(timer + CLEAR_ALARM) = 1;
        return;
    }
    *reg32(timer + ALARM_HIGH) = (uint32_t)(deadline >> 32);
    *reg32(timer + ALARM_LOW) = (uint32_t)deadline;
}

void arch_irq_unmask(unsigned irq) { *reg32(pic + PIC_ENABLE) = 1u << irq; }

void arch_power(enum power action)
{
    static const uint32_t values[] = { TEST_PASS, TEST_RESET, TEST_FAIL };
    *reg32(syscon) = values[action];
}
