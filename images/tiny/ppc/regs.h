/* What differs with the CPU's width. A frame has room for what callees keep in their caller's (ELF ABI: 32 bytes at most). */
#pragma once

#define LINKAGE 32

#ifdef __powerpc64__
#define WORD 8
#define STORE_WORD std
#define LOAD_WORD ld
#define PUSH stdu
#define COMPARE cmpld
#define RETURN rfid
#define TAKE_TOC lis 2, .TOC.@ha; addi 2, 2, .TOC.@l
#else
#define WORD 4
#define STORE_WORD stw
#define LOAD_WORD lwz
#define PUSH stwu
#define COMPARE cmplw
#define RETURN rfi
#define TAKE_TOC
#endif

#define FRAME (LINKAGE + 16 * WORD)

.macro SAVE register, slot
    STORE_WORD \register, LINKAGE + \slot * WORD(1)
.endm

.macro LOAD register, slot
    LOAD_WORD \register, LINKAGE + \slot * WORD(1)
.endm
