# Entry on the small board, in the 64-bit mode with all interruptions off and the device tree's address in r2; and their entries.

.section .text.start, "ax"
.global _start
_start:
    larl    %r3, bss_start
    larl    %r4, bss_end
1:  clgrjnl %r3, %r4, 2f
    mvghi   0(%r3), 0
    aghi    %r3, 8
    j       1b
2:  larl    %r15, stack_top
    aghi    %r15, -160
    larl    %r3, new_psws           # of external, supervisor-call and program interruptions
    mvc     0x1b0(48), 0(%r3)
    larl    %r3, control0
    lctlg   %c0, %c0, 0(%r3)
    brasl   %r14, tiny_main
3:  larl    %r3, halt
    lpswe   0(%r3)

# Interruptions stay off inside; the old PSWs are not written again before they are loaded.
.text
external_entry:
    stg     %r15, 0x208
    aghi    %r15, -320
    stmg    %r0, %r14, 160(%r15)
    brasl   %r14, goldfish_interrupt
    lmg     %r0, %r14, 160(%r15)
    lg      %r15, 0x208
    ni      0x131, 0xfd             # whoever waited goes on
    lpswe   0x130

fault_entry:
    llgf    %r2, 0x8c
    lg      %r3, 0x158
    aghi    %r15, -160
    brasl   %r14, s390x_fault
    j       3b

.section .rodata
.balign 8
new_psws:
    .quad   0x0000000180000000, external_entry
    .quad   0x0000000180000000, fault_entry
    .quad   0x0000000180000000, fault_entry
halt:
    .quad   0x0002000180000000, 0
control0:
    .quad   0x200                   # the service signal

.bss
.balign 16
    .skip   16384
stack_top:
