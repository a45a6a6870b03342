# Entry by the 32-bit boot protocol (Linux, arch/x86/boot.rst, 1.12): esi is the zero page; and the trap entries.

.section .text.start, "ax"
.global _start
_start:
    cli
    cld
    mov     $stack_top, %esp
    mov     $bss_start, %edi
    mov     $bss_end, %ecx
    sub     %edi, %ecx
    xor     %eax, %eax
    rep     stosb
    push    %esi
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
    push    %eax
    push    %ecx
    push    %edx
    cld
    push    20(%esp)
    push    16(%esp)
    call    x86_trap
    add     $8, %esp
    pop     %edx
    pop     %ecx
    pop     %eax
    add     $8, %esp
    iret

# Loads the descriptor table its argument points to and makes the first descriptor the code segment, the second all others.
.global load_segments
load_segments:
    mov     4(%esp), %eax
    lgdt    (%eax)
    mov     $16, %eax
    mov     %eax, %ss
    mov     %eax, %ds
    mov     %eax, %es
    ljmp    $8, $1f
1:  ret

.bss
.balign 16
    .skip   16384
stack_top:
