/* The i386 port: protected mode with PAE, which has the no-execute bit (AMD64 Architecture Programmer's Manual, volume 2). */
#include "../arch.h"

#include "../pc/pc.h"

enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80, ENTRIES = 512, GIGABYTES = 4, VECTORS = 48, ENTRY_SIZE = 16 };
#define NO_EXECUTE (1ull << 63)
#define SPAN_1 (1ull << 21) /* of an entry of a page directory */
#define SPAN_0 (1ull << 12)
#define EFER 0xC0000080
#define EFER_NXE (1u << 11)
#define CR0_WP (1u << 16)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define CODE 0x00CF9B000000FFFF
#define DATA 0x00CF93000000FFFF
#define INTERRUPT_GATE 0x8E00

const char arch_name[] = "i386";

struct __attribute__((packed)) table_pointer {
    uint16_t limit;
    uint32_t base;
};

extern const char trap_entries[];
void load_segments(const struct table_pointer *gdt);

static _Alignas(4096) uint64_t directories[GIGABYTES][ENTRIES], leaf[ENTRIES];
static _Alignas(32) uint64_t pointers[GIGABYTES];
static uint64_t gdt[] = { 0, CODE, DATA };
static uint64_t idt[VECTORS];

/* Identity, so that device and CPU addresses agree: large pages of data, and single ones where the image lies. */
static void map(void)
{
    for (uint32_t at = 0; at < GIGABYTES * ENTRIES; at++)
        directories[at / ENTRIES][at % ENTRIES] = at * SPAN_1 | PRESENT | WRITABLE | LARGE | NO_EXECUTE;
    for (uint32_t at = 0; at < GIGABYTES; at++)
        pointers[at] = (uintptr_t)directories[at] | PRESENT;
    uint64_t image = (uintptr_t)image_start, start = image & ~(SPAN_1 - 1);
    for (uint32_t at = 0; at < ENTRIES; at++) {
        uint64_t page = start + at * SPAN_0;
        leaf[at] = page | PRESENT | (page >= image && page < (uintptr_t)text_end ? 0 : WRITABLE | NO_EXECUTE);
    }
    directories[0][start / SPAN_1] = (uintptr_t)leaf | PRESENT | WRITABLE;
    uint32_t low, high, cr4, cr0;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(EFER));
    __asm__ volatile("wrmsr" : : "a"(low | EFER_NXE), "d"(high), "c"(EFER));
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | CR4_PAE));
    __asm__ volatile("mov %0, %%cr3" : : "r"(pointers) : "memory");
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | CR0_PG | CR0_WP) : "memory");
}

void arch_start(const struct board *board)
{
    (void)board;
    map();
    for (unsigned vector = 0; vector < VECTORS; vector++) {
        uint32_t entry = (uintptr_t)trap_entries + ENTRY_SIZE * vector;
        idt[vector] = (entry & 0xFFFF) | 8 << 16 | (uint64_t)(INTERRUPT_GATE | (entry & 0xFFFF0000)) << 32;
    }
    struct table_pointer gdt_pointer = { sizeof gdt - 1, (uintptr_t)gdt }, idt_pointer = { sizeof idt - 1, (uintptr_t)idt };
    load_segments(&gdt_pointer);
    __asm__ volatile("lidt %0" : : "m"(idt_pointer));
    pc_start();
}

void x86_trap(uint32_t vector, uint32_t pc)
{
    uint32_t address;
    if (vector >= VECTOR_BASE) {
        pc_interrupt(vector - VECTOR_BASE);
        return;
    }
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    panic("trap", vector, pc, address);
}
