# Entry on the small board, interrupts off, the device tree's address in %a4; the vectors; and what of arch.h C cannot say.
# C has its registers as images/tricore/riscv.py says: arguments in %d10, %d11, %d12, and %d0 is 0.

.section .text
_start:
    mov %d0, 0
    mov.d %d10, %a4
    movh %d1, hi:bss_start
    addi %d1, %d1, lo:bss_start
    movh %d2, hi:bss_end
    addi %d2, %d2, lo:bss_end
clear:
    jge.u %d1, %d2, cleared
    mov.a %a15, %d1
    st.w [%a15] 0, %d0
    addi %d1, %d1, 4
    j clear
cleared:
    movh.a %a10, hi:stack_top
    lea %a10, [%a10] lo:stack_top

# A list of context save areas, each with a link to the next; the last three are for the trap that says there are no more.
    movh %d1, hi:contexts
    addi %d1, %d1, lo:contexts
    jl link_to
    mtcr $fcx, %d2
    movh %d5, hi:contexts_end
    addi %d5, %d5, lo:contexts_end
    addi %d5, %d5, -64
chain:
    mov.a %a15, %d1
    addi %d1, %d1, 64
    jl link_to
    st.w [%a15] 0, %d2
    jne %d1, %d5, chain
    addi %d1, %d1, -192
    jl link_to
    mtcr $lcx, %d2
    mtcr $icr, %d0
    movh %d1, hi:trap_vectors
    addi %d1, %d1, lo:trap_vectors
    mtcr $btv, %d1
    movh %d1, hi:interrupt_vectors
    addi %d1, %d1, lo:interrupt_vectors
    mtcr $biv, %d1
    isync
    jl tiny_main
forever:
    jl arch_irq_wait
    j forever

# %d2: the link word for the address in %d1, its segment and bits 21 to 6. Takes %d3.
link_to:
    sh.c %d2, %d1, -28
    sh.c %d2, %d2, 16
    sh.c %d3, %d1, 10
    sh.c %d3, %d3, -16
    or %d2, %d2, %d3
    ji %a11

# A trap is a bug of the program: class, trap identification number, address.
.align 256
trap_vectors:
    mov %d10, 0
    j trap
.align 32
    mov %d10, 1
    j trap
.align 32
    mov %d10, 2
    j trap
.align 32
    mov %d10, 3
    j trap
.align 32
    mov %d10, 4
    j trap
.align 32
    mov %d10, 5
    j trap
.align 32
    mov %d10, 6
    j trap
.align 32
    mov %d10, 7
trap:
    mov.r %d11, %d15
    mov.d %d12, %a11
    j tricore_trap

# The board's interrupt has priority 1. The CPU has saved the upper context.
.align 64
interrupt_vectors:
    nop
.align 32
    svlcx
    jl tricore_interrupt
    rslcx
    rfe

arch_irq_off:
    disable
    ji %a11

arch_irq_on:
    enable
    ji %a11

# An interrupt wakes the CPU from idle mode (SCU_PMCSR.REQSLP) while interrupts are off, and is taken once they are on.
arch_irq_wait:
    movh.a %a15, 0xf000
    mov %d1, 1
    lea %a15, [%a15] 0x5b0
    st.w [%a15] 0, %d1
    movh.a %a15, hi:awake
    lea %a15, [%a15] lo:awake
    enable
    ji %a15
awake:
    disable
    ji %a11

arch_barrier:
    dsync
    ji %a11

.section .bss
.align 64
contexts:
.space 4096
contexts_end:
.space 16384
stack_top:
