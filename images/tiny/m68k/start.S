# Entry on the small board, in supervisor mode with the device tree's address in a0; and the trap entry.

.section .text.start, "ax"
.global _start
_start:
    move.w  #0x2700, %sr
    lea     bss_start, %a1
1:  cmpa.l  #bss_end, %a1
    jcc     2f
    clr.l   (%a1)+
    jra     1b
2:  lea     stack_top, %sp
    lea     vectors, %a1
    movec   %a1, %vbr
    move.l  %a0, -(%sp)
    jsr     tiny_main
3:  stop    #0x2700
    jra     3b

# For all vectors: the frame says which. Interrupts stay off inside.
.text
.balign 4
trap_entry:
    movem.l %d0-%d1/%a0-%a1, -(%sp)
    pea     16(%sp)
    jsr     m68k_trap
    addq.l  #4, %sp
    movem.l (%sp)+, %d0-%d1/%a0-%a1
    rte

.section .rodata
.balign 4
vectors:
    .rept   256
    .long   trap_entry
    .endr

.bss
.balign 16
    .skip   16384
stack_top:
