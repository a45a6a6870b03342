/* The x86_64 port: long mode with four-level page tables (AMD64 Architecture Programmer's Manual, volume 2). */
#include "../arch.h"

#include "../pc/pc.h"

enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80, ENTRIES = 512, GIGABYTES = 4, VECTORS = 48, ENTRY_SIZE = 16 };
#define NO_EXECUTE (1ull << 63)
#define SPAN_1 (1ull << 21) /* of an entry of a page directory */
#define SPAN_0 (1ull << 12)
#define EFER 0xC0000080
#define EFER_NXE (1u << 11)
#define CR0_WP (1ull << 16)
#define CODE 0x00AF9B000000FFFF
#define DATA 0x00CF93000000FFFF
#define INTERRUPT_GATE 0x8E00

const char arch_name[] = "x86_64";

struct __attribute__((packed)) table_pointer {
    uint16_t limit;
    uint64_t base;
};

extern const char trap_entries[];
void load_segments(const struct table_pointer *gdt);

static _Alignas(4096) uint64_t top[ENTRIES], pointers[ENTRIES], directories[GIGABYTES][ENTRIES], leaf[ENTRIES];
static uint64_t gdt[] = { 0, CODE, DATA };
static uint64_t idt[VECTORS][2];

/* Identity, so that device and CPU addresses agree: large pages of data, and single ones where the image lies. */
static void map(void)
{
    for (uint64_t at = 0; at < GIGABYTES * ENTRIES; at++)
        directories[at / ENTRIES][at % ENTRIES] = at * SPAN_1 | PRESENT | WRITABLE | LARGE | NO_EXECUTE;
    for (uint64_t at = 0; at < GIGABYTES; at++)
        pointers[at] = (uintptr_t)directories[at] | PRESENT | WRITABLE;
    uint64_t image = (uintptr_t)image_start, start = image & ~(SPAN_1 - 1);
    for (uint64_t at = 0; at < ENTRIES; at++) {
        uint64_t page = start + at * SPAN_0;
        leaf[at] = page | PRESENT | (page >= image && page < (uintptr_t)text_end ? 0 : WRITABLE | NO_EXECUTE);
    }
    directories[0][start / SPAN_1] = (uintptr_t)leaf | PRESENT | WRITABLE;
    top[0] = (uintptr_t)pointers | PRESENT | WRITABLE;
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(EFER));
    __asm__ volatile("wrmsr" : : "a"(low | EFER_NXE), "d"(high), "c"(EFER));
    __asm__ volatile("mov %0, %%cr3" : : "r"(top) : "memory");
    uint64_t cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | CR0_WP));
}

void arch_start(const struct board *board)
{
    (void)board;
    map();
    for (unsigned vector = 0; vector < VECTORS; vector++) {
        uint64_t entry = (uintptr_t)trap_entries + ENTRY_SIZE * vector;
        idt[vector][0] = (entry & 0xFFFF) | 8 << 16 | (uint64_t)INTERRUPT_GATE << 32 | (entry & 0xFFFF0000) << 32;
        idt[vector][1] = entry >> 32;
    }
    struct table_pointer gdt_pointer = { sizeof gdt - 1, (uintptr_t)gdt }, idt_pointer = { sizeof idt - 1, (uintptr_t)idt };
    load_segments(&gdt_pointer);
    __asm__ volatile("lidt %0" : : "m"(idt_pointer));
    pc_start();
}

void x86_trap(uint64_t vector, uint64_t pc)
{
    uint64_t address;
    if (vector >= VECTOR_BASE) {
        pc_interrupt((unsigned)vector - VECTOR_BASE);
        return;
    }
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    panic("trap", vector, pc, address);
}
