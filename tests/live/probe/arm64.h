/* AArch64 (ARM DDI 0487, B2.4.4): DC CVAU where code was written, IC IVAU where it runs. */
#include "sums.h"

__asm__(".globl _start\n_start: mov x0, sp\n    b begin");

static word call(word number, word a, word b, word c, word d, word e, word f)
{
    register word x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c, x3 __asm__("x3") = d;
    register word x4 __asm__("x4") = e, x5 __asm__("x5") = f, x8 __asm__("x8") = number;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8) : "memory");
    return x0;
}

static void emit(u8 *at, u32 value)
{
    volatile u32 *code = (u32 *)at;
    code[0] = 0x52800000 | (value & 0xFFFF) << 5; /* movz w0, low */
    code[1] = 0x72A00000 | value >> 16 << 5;      /* movk w0, high, lsl 16 */
    code[2] = 0xD65F03C0;                         /* ret */
}

/* 16 bytes at a multiple of 16 are within one cache line. */
static void sync(const u8 *written, const u8 *code)
{
    __asm__ volatile("dc cvau, %0\n dsb ish\n ic ivau, %1\n dsb ish\n isb" ::"r"(written), "r"(code) : "memory");
}

static const void *entry(const u8 *code) { return code; }

static inline void add_one(volatile u32 *counter)
{
    u32 value, failed;
    __asm__ volatile("0: ldxr %w0, [%2]\n add %w0, %w0, 1\n stxr %w1, %w0, [%2]\n cbnz %w1, 0b"
                     : "=&r"(value), "=&r"(failed) : "r"(counter) : "memory");
}
