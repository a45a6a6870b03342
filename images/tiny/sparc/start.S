! Entry on the small board, traps off, the device tree's address in %o0; and the trap entry. The program is compiled for a single
! register window, which traps leave for the one below it.

.section .text.start, "ax"
.global _start
_start:
    wr      %g0, 0x0fc0, %psr       ! PIL 15, supervisor, traps off, window 0
    nop; nop; nop
    wr      %g0, %g0, %wim
    set     bss_start, %g1
    set     bss_end, %g2
1:  cmp     %g1, %g2
    bgeu    2f
    nop
    st      %g0, [%g1]
    b       1b
    add     %g1, 4, %g1
2:  set     stack_top - 96, %sp     ! a frame with room for a window and the arguments
    set     trap_table, %g1
    wr      %g1, %g0, %tbr
    wr      %g0, 0x0fe0, %psr       ! traps on
    nop; nop; nop
    call    tiny_main
    nop
3:  wr      %g0, %asr19
    b       3b
    nop

.text
.balign 4096
trap_table:
    .set    number, 0
    .rept   256
    rd      %psr, %l0
    sethi   %hi(trap_entry), %l4
    jmp     %l4 + %lo(trap_entry)
    mov     number, %l3
    .set    number, number + 1
    .endr

! %l0 is PSR, %l1 and %l2 are pc and npc, %l3 is the trap type. Interrupts stay off inside.
trap_entry:
    sub     %fp, 128, %sp
    st      %g1, [%sp + 96]
    std     %g2, [%sp + 104]
    st      %g4, [%sp + 112]
    st      %g5, [%sp + 116]
    rd      %y, %l5
    or      %l0, 0xf00, %l6
    wr      %l6, 0x20, %psr         ! PIL 15, traps on
    nop; nop; nop
    mov     %l3, %o0
    call    sparc_trap
    mov     %l1, %o1
    wr      %l5, %g0, %y
    ld      [%sp + 96], %g1
    ldd     [%sp + 104], %g2
    ld      [%sp + 112], %g4
    ld      [%sp + 116], %g5
    wr      %l0, %g0, %psr
    nop; nop; nop
    jmp     %l1
    rett    %l2

.bss
.balign 16
    .skip   16384
stack_top:
