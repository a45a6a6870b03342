# Entry as ePAPR has it: r3 is the device tree, addresses are not translated; and the exceptions.
#include "regs.h"

.section .text.start, "ax"
.global _start
_start:
    lis     4, bss_start@ha
    addi    4, 4, bss_start@l
    lis     5, bss_end@ha
    addi    5, 5, bss_end@l
    li      0, 0
1:  COMPARE 4, 5
    bge     2f
    stw     0, 0(4)
    addi    4, 4, 4
    b       1b
2:  lis     1, stack_top@ha
    addi    1, 1, stack_top@l
    TAKE_TOC
    PUSH    0, -FRAME(1)
    bl      tiny_main
3:  b       3b

# What every vector holds; LR tells afterwards which it was.
.text
.global vector
vector:
    mtsprg  0, 3
    mflr    3
    mtsprg  1, 3
    bla     exception
.global vector_end
vector_end:

# Addresses are not translated here, and interrupts are off until rfi, so SRR0 and SRR1 need not be kept.
exception:
    PUSH    1, -FRAME(1)
    SAVE    0, 0
    SAVE    4, 1
    SAVE    5, 2
    SAVE    6, 3
    SAVE    7, 4
    SAVE    8, 5
    SAVE    9, 6
    SAVE    10, 7
    SAVE    11, 8
    SAVE    12, 9
    mfcr    0
    SAVE    0, 10
    mfctr   0
    SAVE    0, 11
    mfxer   0
    SAVE    0, 12
    mfsprg  0, 0
    SAVE    0, 13
    mfsprg  0, 1
    SAVE    0, 14
    mflr    3
    mfsrr0  4
    mfdar   5
    bl      ppc_exception
    LOAD    0, 14
    mtlr    0
    LOAD    0, 12
    mtxer   0
    LOAD    0, 11
    mtctr   0
    LOAD    0, 10
    mtcr    0
    LOAD    0, 0
    LOAD    3, 13
    LOAD    4, 1
    LOAD    5, 2
    LOAD    6, 3
    LOAD    7, 4
    LOAD    8, 5
    LOAD    9, 6
    LOAD    10, 7
    LOAD    11, 8
    LOAD    12, 9
    addi    1, 1, FRAME
    RETURN

.bss
.balign 16
    .skip   16384
stack_top:
