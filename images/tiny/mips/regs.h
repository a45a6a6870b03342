/* The frame of a trap: words of the CPU's width, above what o32 has a callee keep its arguments in. */
#pragma once

#define ARGUMENTS 32

#if __mips == 64
#define WORD 8
#define SAVE_WORD sd
#define LOAD_WORD ld
#define MFC0 dmfc0
#else
#define WORD 4
#define SAVE_WORD sw
#define LOAD_WORD lw
#define MFC0 mfc0
#endif

#define FRAME (ARGUMENTS + 20 * WORD)

.macro SAVE register, slot
    SAVE_WORD \register, ARGUMENTS + \slot * WORD($sp)
.endm

.macro LOAD register, slot
    LOAD_WORD \register, ARGUMENTS + \slot * WORD($sp)
.endm
