# Entry by the 64-bit boot protocol (Linux, arch/x86/boot.rst, 1.15): rsi is the zero page; and the trap entries.

.section .text.start, "ax"
.global _start
_start:
    cli
    cld
    lea     stack_top(%rip), %rsp
    mov     %rsi, %rbx
    lea     bss_start(%rip), %rdi
    lea     bss_end(%rip), %rcx
    sub     %rdi, %rcx
    xor     %eax, %eax
    rep     stosb
    mov     %rbx, %rdi
    call    tiny_main
1:  cli
    hlt
    jmp     1b

# One entry for each vector, 16 bytes apart: the error code, or 0 in its place, and the vector.
.text
.balign 16
.global trap_entries
trap_entries:
.set vector, 0
.rept 48
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
    push    $0
    .endif
    push    $vector
    jmp     trap
    .set vector, vector + 1
.endr

# Interrupts stay off inside.
trap:
    push    %rax
    push    %rcx
    push    %rdx
    push    %rsi
    push    %rdi
    push    %r8
    push    %r9
    push    %r10
    push    %r11
    cld
    mov     72(%rsp), %rdi
    mov     88(%rsp), %rsi
    call    x86_trap
    pop     %r11
    pop     %r10
    pop     %r9
    pop     %r8
    pop     %rdi
    pop     %rsi
    pop     %rdx
    pop     %rcx
    pop     %rax
    add     $16, %rsp
    iretq

# Loads the descriptor table in rdi and makes its first descriptor the code segment, its second all others.
.global load_segments
load_segments:
    lgdt    (%rdi)
    mov     $16, %eax
    mov     %eax, %ss
    mov     %eax, %ds
    mov     %eax, %es
    pop     %rax
    push    $8
    push    %rax
    lretq

.bss
.balign 16
    .skip   16384
stack_top:
