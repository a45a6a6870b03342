/* The RISC-V ports: S-mode under an SBI, PLIC, Sv32 or Sv39 (The RISC-V Instruction Set Manual, volume II; RISC-V SBI 1.0). */
#include "../arch.h"

#include "../board.h"
#include "../bytes.h"
#include "../fdt.h"

enum { SBI_TIME = 0x54494D45, SBI_SRST = 0x53525354, SRST_SHUTDOWN = 0, SRST_COLD_REBOOT = 1, SRST_FAILURE = 1 };
enum { SSTATUS_SIE = 1 << 1, SIE_STIE = 1 << 5, SIE_SEIE = 1 << 9, IRQ_S_TIMER = 5, IRQ_S_EXTERNAL = 9 };
enum { SIFIVE_TEST_PASS = 0x5555, SIFIVE_TEST_RESET = 0x7777, SIFIVE_TEST_FAIL = 0x13333 };

#define CAUSE_INTERRUPT (1ul << (__riscv_xlen - 1))

/* PLIC (RISC-V Platform-Level Interrupt Controller 1.0, chapter 3) */
#define PLIC_PRIORITY(irq) (plic + 4 * (irq))
#define PLIC_ENABLE(irq) (plic + 0x2000 + 0x80 * plic_context + 4 * ((irq) / 32))
#define PLIC_THRESHOLD (plic + 0x200000 + 0x1000 * plic_context)
#define PLIC_CLAIM (PLIC_THRESHOLD + 4)

/* Sv32 and Sv39 (volume II, 4.3 and 4.4); accessed and dirty are set beforehand, so that the hart need not */
enum { PTE_V = 1, PTE_R = 2, PTE_W = 4, PTE_X = 8, PTE_A = 64, PTE_D = 128, PAGE_SHIFT = 12 };
#define PTE_CODE (PTE_V | PTE_R | PTE_X | PTE_A)
#define PTE_DATA (PTE_V | PTE_R | PTE_W | PTE_A | PTE_D)
#define ENTRIES (4096 / sizeof(uintptr_t))
#if __riscv_xlen == 32
#define SATP_MODE (1ul << 31)
#define SPAN_1 (1ul << 22) /* of an entry of the root table */
#else
#define SATP_MODE (8ul << 60)
#define SPAN_2 (1ul << 30) /* of an entry of the root table */
#define SPAN_1 (1ul << 21)
#endif
#define SPAN_0 (1ul << 12)

#if __riscv_xlen == 32
const char arch_name[] = "riscv32";
#else
const char arch_name[] = "riscv64";
#endif

uintptr_t boot_hart;

static uintptr_t plic, plic_context, syscon;
#if __riscv_xlen == 32
static _Alignas(4096) uintptr_t root[ENTRIES], leaf[ENTRIES];
#else
static _Alignas(4096) uintptr_t root[ENTRIES], middle[ENTRIES], leaf[ENTRIES];
#endif

struct sbi_answer {
    long error;
    long value;
};

static struct sbi_answer sbi(unsigned long extension, unsigned long function, unsigned long arg0, unsigned long arg1)
{
    register unsigned long a0 __asm__("a0") = arg0;
    register unsigned long a1 __asm__("a1") = arg1;
    register unsigned long a6 __asm__("a6") = function;
    register unsigned long a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
    return (struct sbi_answer){ (long)a0, (long)a1 };
}

static volatile uint32_t *reg32(uintptr_t address) { return (volatile uint32_t *)address; }

static void visit(const struct fdt_node *node, void *context)
{
    (void)context;
    uintptr_t base, size;
    if (!fdt_reg(node, &base, &size))
        return;
    if (fdt_compatible(node, "sifive,test0"))
        syscon = base;
    if (!fdt_compatible(node, "riscv,plic0") && !fdt_compatible(node, "sifive,plic-1.0.0"))
        return;
    /* Pairs of a hart's interrupt controller and a cause; wanted is the boot hart's external interrupt in S-mode. */
    uint32_t bytes;
    const uint8_t *pairs = fdt_property(node, "interrupts-extended", &bytes);
    uintptr_t hart = 0;
    plic = base;
    for (uintptr_t at = 0; pairs && 8 * at + 8 <= bytes; at++)
        if (be32_at(pairs + 8 * at + 4) == IRQ_S_EXTERNAL && hart++ == boot_hart)
            plic_context = at;
}

void arch_discover(struct board *board, uintptr_t boot_arg)
{
    bool found = fdt_discover((const void *)boot_arg, board) && board->timer_hz;
    fdt_walk((const void *)boot_arg, visit, NULL);
    if (found && plic)
        return;
    arch_power(POWER_FAILED); /* there is no console to say it on */
    for (;;)
        arch_irq_wait();
}

unsigned arch_fdt_irq(const uint8_t *cells, size_t count) { return count == 1 ? be32_at(cells) : 0; }

static uintptr_t pte(uintptr_t address, uintptr_t flags) { return address >> PAGE_SHIFT << 10 | flags; }

/* Identity, so that device and CPU addresses agree: single pages where the image lies, devices below, RAM around and above. */
static void map(void)
{
    uintptr_t image = (uintptr_t)image_start, image_1 = image & ~(SPAN_1 - 1);
#if __riscv_xlen == 32
    for (uintptr_t at = 0; at < ENTRIES; at++)
        root[at] = pte(at * SPAN_1, PTE_DATA);
#else
    uintptr_t image_2 = image & ~(SPAN_2 - 1);
    for (uintptr_t at = 0; at < ENTRIES / 2; at++) /* the lower half: Sv39 sign-extends */
        root[at] = pte(at * SPAN_2, PTE_DATA);
#endif
    for (uintptr_t at = 0; at < ENTRIES; at++) {
#if __riscv_xlen == 64
        middle[at] = pte(image_2 + at * SPAN_1, PTE_DATA);
#endif
        uintptr_t page = image_1 + at * SPAN_0;
        leaf[at] = pte(page, page >= image && page < (uintptr_t)text_end ? PTE_CODE : PTE_DATA);
    }
#if __riscv_xlen == 32
    root[image / SPAN_1] = pte((uintptr_t)leaf, PTE_V);
#else
    middle[(image - image_2) / SPAN_1] = pte((uintptr_t)leaf, PTE_V);
    root[image / SPAN_2] = pte((uintptr_t)middle, PTE_V);
#endif
    __asm__ volatile("sfence.vma; csrw satp, %0; sfence.vma" : : "r"(SATP_MODE | (uintptr_t)root >> PAGE_SHIFT) : "memory");
}

void arch_start(const struct board *board)
{
    (void)board;
    map();
    *reg32(PLIC_THRESHOLD) = 0;
    __asm__ volatile("csrw sie, %0" : : "r"(SIE_STIE | SIE_SEIE));
}

uint64_t arch_time(void)
{
#if __riscv_xlen == 32
    uint32_t high, low, again;
    do
        __asm__ volatile("rdtimeh %0; rdtime %1; rdtimeh %2" : "=r"(high), "=r"(low), "=r"(again));
    while (high != again); /* the lower half has wrapped meanwhile */
    return (uint64_t)high << 32 | low;
#else
    uint64_t time;
    __asm__ volatile("rdtime %0" : "=r"(time));
    return time;
#endif
}

/* 64 bits, which take two registers on RV32 (SBI, chapter 3). */
void arch_timer_set(uint64_t deadline) { sbi(SBI_TIME, 0, deadline, __riscv_xlen == 32 ? deadline >> 32 : 0); }

void arch_irq_unmask(unsigned irq)
{
    *reg32(PLIC_PRIORITY(irq)) = 1;
    *reg32(PLIC_ENABLE(irq)) |= 1u << irq % 32;
}

void arch_irq_off(void) { __asm__ volatile("csrci sstatus, %0" : : "i"(SSTATUS_SIE) : "memory"); }

void arch_irq_on(void) { __asm__ volatile("csrsi sstatus, %0" : : "i"(SSTATUS_SIE) : "memory"); }

void arch_irq_wait(void)
{
    __asm__ volatile("wfi; csrsi sstatus, %0; nop; csrci sstatus, %0" : : "i"(SSTATUS_SIE) : "memory");
}

void arch_barrier(void) { __asm__ volatile("fence iorw, iorw" : : : "memory"); }

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

void arch_power(enum power action)
{
    static const uint32_t test_value[] = { SIFIVE_TEST_PASS, SIFIVE_TEST_RESET, SIFIVE_TEST_FAIL };
    sbi(SBI_SRST, 0, action == POWER_REBOOT ? SRST_COLD_REBOOT : SRST_SHUTDOWN, action == POWER_FAILED ? SRST_FAILURE : 0);
    if (syscon)
        *reg32(syscon) = test_value[action]; /* an SBI without system reset */
}

void riscv_trap(uintptr_t cause, uintptr_t pc, uintptr_t address)
{
    if (cause == (CAUSE_INTERRUPT | IRQ_S_TIMER)) {
        timer_interrupt();
    } else if (cause == (CAUSE_INTERRUPT | IRQ_S_EXTERNAL)) {
        uint32_t irq = *reg32(PLIC_CLAIM);
        if (irq) {
            irq_dispatch(irq);
            *reg32(PLIC_CLAIM) = irq;
        }
    } else {
        panic("trap", cause, pc, address);
    }
}
