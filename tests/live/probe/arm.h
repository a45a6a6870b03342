/* ARMv7, in ARM and in Thumb state (ARM DDI 0406): LDREX and STREX, IT blocks; caches are the kernel's business. */

enum { CACHEFLUSH = 0xF0002 };

__asm__(".globl _start\n.type _start, %function\n_start: mov r0, sp\n    bl begin");

static word call(word number, word a, word b, word c, word d, word e, word f)
{
    register word r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c, r3 __asm__("r3") = d;
    register word r4 __asm__("r4") = e, r5 __asm__("r5") = f;
#ifdef __thumb__
    /* r7, which has the number, may be the frame pointer */
    register word r6 __asm__("r6") = number;
    __asm__ volatile("push {r7}\n mov r7, r6\n svc #0\n pop {r7}"
                     : "+r"(r0) : "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5), "r"(r6) : "memory");
#else
    register word r7 __asm__("r7") = number;
    __asm__ volatile("svc #0" : "+r"(r0) : "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5), "r"(r7) : "memory");
#endif
    return r0;
}

#ifdef __thumb__
static void emit_move(volatile u16 *code, u16 opcode, u32 value)
{
    code[0] = opcode | (value >> 12 & 0xF) | (value >> 11 & 1) << 10;
    code[1] = (value >> 8 & 7) << 12 | (value & 0xFF);
}

static void emit(u8 *at, u32 value)
{
    volatile u16 *code = (u16 *)at;
    emit_move(code, 0xF240, value & 0xFFFF);  /* movw r0, low */
    emit_move(code + 2, 0xF2C0, value >> 16); /* movt r0, high */
    code[4] = 0x4770;                         /* bx lr */
}

static const void *entry(const u8 *code) { return code + 1; }

static inline void sum_up(u32 n, u32 *odd, u32 *even, u32 *odds, u32 *evens)
{
    __asm__ volatile("tst %4, #1\n itete ne\n addne %0, %0, %4\n addeq %1, %1, %4\n addne %2, %2, #1\n addeq %3, %3, #1"
                     : "+r"(*odd), "+r"(*even), "+r"(*odds), "+r"(*evens) : "r"(n) : "cc");
}
#else
#include "sums.h"

static void emit(u8 *at, u32 value)
{
    volatile u32 *code = (u32 *)at;
    code[0] = 0xE3000000 | (value & 0xF000) << 4 | (value & 0xFFF);         /* movw r0, low */
    code[1] = 0xE3400000 | (value >> 28) << 16 | (value >> 16 & 0xFFF);     /* movt r0, high */
    code[2] = 0xE12FFF1E;                                                   /* bx lr */
}

static const void *entry(const u8 *code) { return code; }
#endif

static void sync(const u8 *written, const u8 *code)
{
    call(CACHEFLUSH, (word)written, (word)written + 16, 0, 0, 0, 0);
    call(CACHEFLUSH, (word)code, (word)code + 16, 0, 0, 0, 0);
}

static inline void add_one(volatile u32 *counter)
{
    u32 value, failed;
    __asm__ volatile("0: ldrex %0, [%2]\n add %0, %0, #1\n strex %1, %0, [%2]\n cmp %1, #0\n bne 0b"
                     : "=&r"(value), "=&r"(failed) : "r"(counter) : "memory", "cc");
}
