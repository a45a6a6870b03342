/* GIC v2 (ARM IHI 0048B), generic timer (ARM DDI 0487, D11), PSCI (ARM DEN 0022) */
#include "armvirt.h"

#include "../arch.h"
#include "../board.h"
#include "../bytes.h"
#include "../fdt.h"

enum { GICD_CTLR = 0x000, GICD_ISENABLER = 0x100, GICD_IPRIORITYR = 0x400 };
enum { GICC_CTLR = 0x00, GICC_PMR = 0x04, GICC_IAR = 0x0C, GICC_EOIR = 0x10, INTERRUPT_ID = 0x3FF, SPURIOUS = 1023 };
enum { SHARED = 0, FIRST_SHARED = 32, FIRST_PRIVATE = 16 }; /* of a device tree's interrupt */
enum { TIMER_ENABLE = 1, VIRTUAL_TIMER = 2 };               /* third of the timer node's interrupts */
enum { MIDDLE_PRIORITY = 0x80 };

#define PSCI_SYSTEM_OFF 0x84000008u
#define PSCI_SYSTEM_RESET 0x84000009u
#define FAILED_OFF 0x83000000u /* emu's own, refused elsewhere */

static uintptr_t distributor, cpu_interface;
static unsigned timer_irq;

static volatile uint32_t *reg32(uintptr_t address) { return (volatile uint32_t *)address; }

unsigned arch_fdt_irq(const uint8_t *cells, size_t count)
{
    if (count < 3)
        return 0;
    return be32_at(cells + 4) + (be32_at(cells) == SHARED ? FIRST_SHARED : FIRST_PRIVATE);
}

static void visit(const struct fdt_node *node, void *context)
{
    (void)context;
    uint32_t bytes;
    if (fdt_compatible(node, "arm,cortex-a15-gic")) {
        const uint8_t *reg = fdt_property(node, "reg", &bytes); /* two ranges of two cells for address and size each */
        distributor = reg && bytes >= 32 ? be32_at(reg + 4) : 0;
        cpu_interface = reg && bytes >= 32 ? be32_at(reg + 20) : 0;
    }
    if (fdt_compatible(node, "arm,armv8-timer") || fdt_compatible(node, "arm,armv7-timer")) {
        const uint8_t *cells = fdt_property(node, "interrupts", &bytes);
        timer_irq = cells && bytes >= 36 ? arch_fdt_irq(cells + VIRTUAL_TIMER * 12, 3) : 0;
    }
}

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    bool found = fdt_discover((const void *)boot_arg, board);
    fdt_walk((const void *)boot_arg, visit, NULL);
    board->timer_hz = virtual_frequency();
    if (found && distributor && timer_irq)
        return;
    arch_power(POWER_FAILED); /* there is no console to say it on */
    for (;;)
        arch_irq_wait();
}

void arch_start(const struct board *board)
{
    (void)board;
    map_memory();
    *reg32(distributor + GICD_CTLR) = 1;
    *reg32(cpu_interface + GICC_PMR) = 0xFF;
    *reg32(cpu_interface + GICC_CTLR) = 1;
    arch_irq_unmask(timer_irq);
}

void arch_irq_unmask(unsigned irq)
{
    *(volatile uint8_t *)(distributor + GICD_IPRIORITYR + irq) = MIDDLE_PRIORITY;
    *reg32(distributor + GICD_ISENABLER + 4 * (irq / 32)) = 1u << irq % 32;
}

void armvirt_interrupt(void)
{
    for (;;) {
        uint32_t acknowledged = *reg32(cpu_interface + GICC_IAR);
        unsigned irq = acknowledged & INTERRUPT_ID;
        if (irq == SPURIOUS)
            return;
        if (irq == timer_irq)
            timer_interrupt();
        else
            irq_dispatch(irq);
        *reg32(cpu_interface + GICC_EOIR) = acknowledged;
    }
}

uint64_t arch_time(void) { return virtual_count(); }

void arch_timer_set(uint64_t deadline) { virtual_timer_set(deadline, deadline == ARCH_NEVER ? 0 : TIMER_ENABLE); }

uint8_t arch_read8(uintptr_t address) { return *(volatile uint8_t *)address; }

void arch_write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }

uint64_t arch_dma_address(const void *pointer) { return (uintptr_t)pointer; }

void arch_power(enum power action)
{
    if (action == POWER_FAILED)
        hypervisor_call(FAILED_OFF);
    hypervisor_call(action == POWER_REBOOT ? PSCI_SYSTEM_RESET : PSCI_SYSTEM_OFF);
}
