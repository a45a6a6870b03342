! Entry on the small board, the device tree's address in %o0; and the trap entry. The program is compiled for a single register
! window. %sp is 2047 below the stack pointer (the V9 ABI's bias).

#define BIAS 2047
#define FRAME 176               /* a window, and the arguments */
#define PSTATE_PRIV 0x14        /* with the FPU on, normal globals, interrupts off */
#define PSTATE_TRAPS 0x15       /* the same with the alternate globals, as in a trap */

.register %g2, #scratch
.register %g3, #scratch

! Two tables, the second for traps at a trap level above 0; 32 bytes an entry.
.section .text.start, "ax"
trap_table:
    .rept   1024
    sethi   %hi(trap_entry), %g1
    jmp     %g1 + %lo(trap_entry)
    rdpr    %tt, %g2
    .balign 32
    .endr

.text
.global _start
_start:
    wrpr    %g0, 0, %tl
    wrpr    %g0, PSTATE_PRIV, %pstate
    wrpr    %g0, 0, %pil
    set     bss_start, %g1
    set     bss_end, %g2
1:  cmp     %g1, %g2
    bgeu,pn %xcc, 2f
    nop
    stx     %g0, [%g1]
    ba,pt   %xcc, 1b
    add     %g1, 8, %g1
2:  set     stack_top - FRAME - BIAS, %sp
    set     trap_table, %g1
    wrpr    %g1, %tba
    call    tiny_main
    nop
3:  .word   0x81b01000              ! shutdown
    ba,a,pt %xcc, 3b

! %g2 is the trap type. A trap in here finds the second table: nothing but panic.
trap_entry:
    sub     %sp, FRAME + 128, %sp
    stx     %o0, [%sp + BIAS + FRAME]
    stx     %o1, [%sp + BIAS + FRAME + 8]
    stx     %o2, [%sp + BIAS + FRAME + 16]
    stx     %o3, [%sp + BIAS + FRAME + 24]
    stx     %o4, [%sp + BIAS + FRAME + 32]
    stx     %o5, [%sp + BIAS + FRAME + 40]
    stx     %o7, [%sp + BIAS + FRAME + 48]
    rd      %y, %o2
    stx     %o2, [%sp + BIAS + FRAME + 56]
    mov     %g2, %o0
    rdpr    %tpc, %o1
    rdpr    %tl, %o2
    wrpr    %g0, PSTATE_PRIV, %pstate
    stx     %g1, [%sp + BIAS + FRAME + 64]
    stx     %g2, [%sp + BIAS + FRAME + 72]
    stx     %g3, [%sp + BIAS + FRAME + 80]
    stx     %g4, [%sp + BIAS + FRAME + 88]
    call    sparc64_trap
    stx     %g5, [%sp + BIAS + FRAME + 96]
    ldx     [%sp + BIAS + FRAME + 64], %g1
    ldx     [%sp + BIAS + FRAME + 72], %g2
    ldx     [%sp + BIAS + FRAME + 80], %g3
    ldx     [%sp + BIAS + FRAME + 88], %g4
    ldx     [%sp + BIAS + FRAME + 96], %g5
    wrpr    %g0, PSTATE_TRAPS, %pstate
    ldx     [%sp + BIAS + FRAME + 56], %o2
    wr      %o2, %g0, %y
    ldx     [%sp + BIAS + FRAME], %o0
    ldx     [%sp + BIAS + FRAME + 8], %o1
    ldx     [%sp + BIAS + FRAME + 16], %o2
    ldx     [%sp + BIAS + FRAME + 24], %o3
    ldx     [%sp + BIAS + FRAME + 32], %o4
    ldx     [%sp + BIAS + FRAME + 40], %o5
    ldx     [%sp + BIAS + FRAME + 48], %o7
    add     %sp, FRAME + 128, %sp
    retry

.bss
.balign 16
    .skip   16384
stack_top:
