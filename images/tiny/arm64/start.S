// Entry at EL1 with the MMU off: x0 is the device tree (Linux's contract, arch/arm64/booting.rst); and the trap vectors.

.section .text.start, "ax"
.global _start
_start:
    msr     daifset, #0xf
    adrp    x1, bss_start
    add     x1, x1, :lo12:bss_start
    adrp    x2, bss_end
    add     x2, x2, :lo12:bss_end
1:  cmp     x1, x2
    b.hs    2f
    str     xzr, [x1], #8
    b       1b
2:  adrp    x1, stack_top
    add     sp, x1, :lo12:stack_top
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    bl      tiny_main
3:  wfi
    b       3b

// Interrupts stay off inside, so elr and spsr need not be kept; an exception inside does not come back.
.macro entry handler
.balign 128
    sub     sp, sp, #160
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    bl      \handler
    b       leave
.endm

.text
.balign 2048
vectors: // D1.10.2: four groups of synchronous, IRQ, FIQ, SError; this program is in the second, EL1 with its own stack
    .rept   4
    entry   trap
    entry   armvirt_interrupt
    entry   trap
    entry   trap
    .endr

leave:
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x30, [sp, #144]
    add     sp, sp, #160
    eret

.bss
.balign 16
    .skip   16384
stack_top:
