# Entry from the SBI in S-mode: a0 is the hart, a1 the device tree (Linux's contract, arch/riscv/boot.rst); and the trap entry.

.section .text.start, "ax"
.global _start
_start:
    csrci   sstatus, 2  # SIE
    csrw    sie, zero
    csrw    satp, zero
    la      t0, bss_start
    la      t1, bss_end
1:  bgeu    t0, t1, 2f
    sd      zero, 0(t0)
    addi    t0, t0, 8
    j       1b
2:  la      sp, stack_top
    la      t0, boot_hart
    sd      a0, 0(t0)
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
    addi    sp, sp, -128
    sd      ra, 0(sp)
    sd      t0, 8(sp)
    sd      t1, 16(sp)
    sd      t2, 24(sp)
    sd      t3, 32(sp)
    sd      t4, 40(sp)
    sd      t5, 48(sp)
    sd      t6, 56(sp)
    sd      a0, 64(sp)
    sd      a1, 72(sp)
    sd      a2, 80(sp)
    sd      a3, 88(sp)
    sd      a4, 96(sp)
    sd      a5, 104(sp)
    sd      a6, 112(sp)
    sd      a7, 120(sp)
    csrr    a0, scause
    csrr    a1, sepc
    csrr    a2, stval
    call    riscv_trap
    ld      ra, 0(sp)
    ld      t0, 8(sp)
    ld      t1, 16(sp)
    ld      t2, 24(sp)
    ld      t3, 32(sp)
    ld      t4, 40(sp)
    ld      t5, 48(sp)
    ld      t6, 56(sp)
    ld      a0, 64(sp)
    ld      a1, 72(sp)
    ld      a2, 80(sp)
    ld      a3, 88(sp)
    ld      a4, 96(sp)
    ld      a5, 104(sp)
    ld      a6, 112(sp)
    ld      a7, 120(sp)
    addi    sp, sp, 128
    sret

.bss
.balign 16
    .skip   16384
stack_top:
