# Entry as ePAPR has it: r3 is the device tree, addresses are not translated; and the exceptions.

.section .text.start, "ax"
.global _start
_start:
    lis     4, bss_start@ha
    addi    4, 4, bss_start@l
    lis     5, bss_end@ha
    addi    5, 5, bss_end@l
    li      0, 0
1:  cmplw   4, 5
    bge     2f
    stw     0, 0(4)
    addi    4, 4, 4
    b       1b
2:  lis     1, stack_top@ha
    addi    1, 1, stack_top@l
    stwu    0, -16(1)
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
    stwu    1, -96(1)
    stw     0, 8(1)
    stw     4, 12(1)
    stw     5, 16(1)
    stw     6, 20(1)
    stw     7, 24(1)
    stw     8, 28(1)
    stw     9, 32(1)
    stw     10, 36(1)
    stw     11, 40(1)
    stw     12, 44(1)
    mfcr    0
    stw     0, 48(1)
    mfctr   0
    stw     0, 52(1)
    mfxer   0
    stw     0, 56(1)
    mfsprg  0, 0
    stw     0, 60(1)
    mfsprg  0, 1
    stw     0, 64(1)
    mflr    3
    mfsrr0  4
    mfdar   5
    bl      ppc_exception
    lwz     0, 64(1)
    mtlr    0
    lwz     0, 56(1)
    mtxer   0
    lwz     0, 52(1)
    mtctr   0
    lwz     0, 48(1)
    mtcr    0
    lwz     0, 8(1)
    lwz     3, 60(1)
    lwz     4, 12(1)
    lwz     5, 16(1)
    lwz     6, 20(1)
    lwz     7, 24(1)
    lwz     8, 28(1)
    lwz     9, 32(1)
    lwz     10, 36(1)
    lwz     11, 40(1)
    lwz     12, 44(1)
    addi    1, 1, 96
    rfi

.bss
.balign 16
    .skip   16384
stack_top:
