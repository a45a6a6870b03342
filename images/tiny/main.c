#include "arch.h"
#include "blk.h"
#include "console.h"
#include "irq.h"
#include "memory.h"
#include "p9.h"
#include "rng.h"
#include "shell.h"
#include "timer.h"

#define PAGE 4096
#define BOOT_MAGIC 0x656D752D74696E79 /* "emu-tiny" */

/* Lies after the image, where neither the loader nor the start file writes: it survives a reboot that keeps RAM. */
struct boot_record {
    uint64_t magic;
    uint64_t boots;
    uint64_t check; /* ~boots */
};

static uint64_t count_boot(struct boot_record *record)
{
    bool kept = record->magic == BOOT_MAGIC && record->check == ~record->boots;
    uint64_t boots = kept ? record->boots + 1 : 1;
    *record = (struct boot_record){ .magic = BOOT_MAGIC, .boots = boots, .check = ~boots };
    return boots;
}

_Noreturn void panic(const char *what, uint64_t cause, uint64_t pc, uint64_t address)
{
    print("\npanic: %s cause=0x%llx pc=0x%llx address=0x%llx\n", what, (unsigned long long)cause, (unsigned long long)pc,
          (unsigned long long)address);
    arch_power(POWER_FAILED);
    for (;;)
        arch_irq_wait();
}

void tiny_main(uintptr_t boot_arg)
{
    static struct board board;
    uintptr_t record = ((uintptr_t)image_end + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    board.free_base = record + PAGE;
    arch_discover(&board, boot_arg);
    console_init(&board);
    uint64_t boots = count_boot((struct boot_record *)record);
    arch_start(&board);
    timer_init(board.timer_hz);
    arch_irq_on();
    console_start(&board);
    print("\nemu tiny guest %s\n", arch_name);
    memory_init(&board);
    blk_init(&board);
    rng_init(&board);
    p9_init(&board);
    shell(&board, boots);
}
