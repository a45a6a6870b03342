# Entry from the SBI in S-mode: a0 is the hart, a1 the device tree (Linux's contract, arch/riscv/boot.rst); and the trap entry.

#if __riscv_xlen == 64
#define STORE sd
#define LOAD ld
#define WORD 8
#else
#define STORE sw
#define LOAD lw
#define WORD 4
#endif

.section .text.start, "ax"
.global _start
_start:
    csrci   sstatus, 2  # SIE
    csrw    sie, zero
    csrw    satp, zero
    la      t0, bss_start
    la      t1, bss_end
1:  bgeu    t0, t1, 2f
    STORE   zero, 0(t0)
    addi    t0, t0, WORD
    j       1b
2:  la      sp, stack_top
    la      t0, boot_hart
    STORE   a0, 0(t0)
    la      t0, trap_entry
    csrw    stvec, t0
    mv      a0, a1
    call    tiny_main
3:  wfi
    j       3b

# Interrupts stay off inside, so sepc and sstatus need not be kept; an exception inside does not come back.
.text
.balign 4
.global trap_entry
trap_entry:
    addi    sp, sp, -16 * WORD
    STORE   ra, 0 * WORD(sp)
    STORE   t0, 1 * WORD(sp)
    STORE   t1, 2 * WORD(sp)
    STORE   t2, 3 * WORD(sp)
    STORE   t3, 4 * WORD(sp)
    STORE   t4, 5 * WORD(sp)
    STORE   t5, 6 * WORD(sp)
    STORE   t6, 7 * WORD(sp)
    STORE   a0, 8 * WORD(sp)
    STORE   a1, 9 * WORD(sp)
    STORE   a2, 10 * WORD(sp)
    STORE   a3, 11 * WORD(sp)
    STORE   a4, 12 * WORD(sp)
    STORE   a5, 13 * WORD(sp)
    STORE   a6, 14 * WORD(sp)
    STORE   a7, 15 * WORD(sp)
    csrr    a0, scause
    csrr    a1, sepc
    csrr    a2, stval
    call    riscv_trap
    LOAD    ra, 0 * WORD(sp)
    LOAD    t0, 1 * WORD(sp)
    LOAD    t1, 2 * WORD(sp)
    LOAD    t2, 3 * WORD(sp)
    LOAD    t3, 4 * WORD(sp)
    LOAD    t4, 5 * WORD(sp)
    LOAD    t5, 6 * WORD(sp)
    LOAD    t6, 7 * WORD(sp)
    LOAD    a0, 8 * WORD(sp)
    LOAD    a1, 9 * WORD(sp)
    LOAD    a2, 10 * WORD(sp)
    LOAD    a3, 11 * WORD(sp)
    LOAD    a4, 12 * WORD(sp)
    LOAD    a5, 13 * WORD(sp)
    LOAD    a6, 14 * WORD(sp)
    LOAD    a7, 15 * WORD(sp)
    addi    sp, sp, 16 * WORD
    sret

.bss
.balign 16
    .skip   16384
stack_top:
