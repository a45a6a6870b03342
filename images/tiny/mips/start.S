# Entry as after reset, in kuseg, which Status.ERL makes physical memory: a1 is the device tree's kseg0 address; and the traps.
#include "regs.h"

.set noreorder
.set noat

.section .text.start, "ax"
.global _start
_start:
    la      $t0, bss_start
    la      $t1, bss_end
1:  sw      $zero, 0($t0)
    addiu   $t0, $t0, 4
    bne     $t0, $t1, 1b
    nop
    la      $sp, stack_top - 32  # o32 has callees keep their arguments there
    li      $t0, 0x1FFFFFFF
    and     $a0, $a1, $t0
    jal     tiny_main
    nop
2:  wait
    b       2b
    nop

# The vectors lie where EBase says, one page; they run in kseg0 and go on in kuseg.
.text
.balign 4096
.global vectors
vectors:
    la      $k0, tlb_miss
    jr      $k0
    nop
.org vectors + 0x080
    la      $k0, tlb_miss
    jr      $k0
    nop
.org vectors + 0x180
    la      $k0, trap_entry
    jr      $k0
    nop

# No handler comes back from a miss: all that there is is mapped.
tlb_miss:
trap_entry:
    addiu   $sp, $sp, -FRAME
    SAVE    $1, 0
    SAVE    $2, 1
    SAVE    $3, 2
    SAVE    $4, 3
    SAVE    $5, 4
    SAVE    $6, 5
    SAVE    $7, 6
    SAVE    $8, 7
    SAVE    $9, 8
    SAVE    $10, 9
    SAVE    $11, 10
    SAVE    $12, 11
    SAVE    $13, 12
    SAVE    $14, 13
    SAVE    $15, 14
    SAVE    $24, 15
    SAVE    $25, 16
    SAVE    $31, 17
    mfhi    $8
    mflo    $9
    SAVE    $8, 18
    SAVE    $9, 19
    mfc0    $4, $13  # Cause
    MFC0    $5, $14  # EPC
    jal     mips_trap
    MFC0    $6, $8  # BadVAddr
    LOAD    $8, 18
    LOAD    $9, 19
    mthi    $8
    mtlo    $9
    LOAD    $1, 0
    LOAD    $2, 1
    LOAD    $3, 2
    LOAD    $4, 3
    LOAD    $5, 4
    LOAD    $6, 5
    LOAD    $7, 6
    LOAD    $8, 7
    LOAD    $9, 8
    LOAD    $10, 9
    LOAD    $11, 10
    LOAD    $12, 11
    LOAD    $13, 12
    LOAD    $14, 13
    LOAD    $15, 14
    LOAD    $24, 15
    LOAD    $25, 16
    LOAD    $31, 17
    addiu   $sp, $sp, FRAME
    eret

.bss
.balign 16
    .skip   16384
stack_top:
