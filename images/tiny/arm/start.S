@ Entry in SVC mode with the MMU off: r2 is the device tree (Linux's contract, arch/arm/booting.rst); and the vectors.

.section .text.start, "ax"
.arch_extension virt
.global _start
_start:
    cpsid   aif
    ldr     r0, =bss_start
    ldr     r1, =bss_end
    mov     r3, #0
1:  cmp     r0, r1
    strlo   r3, [r0], #4
    blo     1b
    ldr     sp, =stack_top
    ldr     r0, =vectors
    mcr     p15, 0, r0, c12, c0, 0  @ VBAR
    mov     r0, r2
    bl      tiny_main
2:  wfi
    b       2b

@ Both are kept on the stack of SVC mode, where this program is whenever it is interrupted; exceptions do not come back.
.macro interrupt
    sub     lr, lr, #4
    srsdb   sp!, #0x13
    cps     #0x13
    push    {r0-r3, r12, lr}
    and     r1, sp, #4
    sub     sp, sp, r1
    push    {r1, r2}
    bl      armvirt_interrupt
    pop     {r1, r2}
    add     sp, sp, r1
    pop     {r0-r3, r12, lr}
    rfeia   sp!
.endm

.macro failure number, offset
    mov     r0, #\number
    sub     r1, lr, #\offset
    mrc     p15, 0, r2, c6, c0, 0   @ DFAR
    ldr     sp, =stack_top
    b       trap
.endm

.text
.balign 32
vectors: @ B1.8.1
    b       reset
    b       undefined
    b       call
    b       prefetch
    b       data
    b       reset
    b       irq
    b       reset

reset:
    failure 0, 0
undefined:
    failure 1, 4
call:
    failure 2, 4
prefetch:
    failure 3, 4
data:
    failure 4, 8
irq:
    interrupt

.global hypervisor_call
hypervisor_call:
    hvc     #0
    bx      lr

.bss
.balign 16
    .skip   16384
stack_top:
