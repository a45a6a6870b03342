"""Has translated blocks look for an exit request by an instruction of their own.

Each block of Unicorn's begins with a call of `helper_check_exit_request`, which nearly always finds nothing and returns. QEMU
compares in place. The code that the translator has made (`tb_gen_code` -> `tcg_gen_code`) is therefore changed before it is
used, where it begins with that call and nothing else: to a comparison, and a call only where there is a request. The call ends
where the one it stands for ended, for the library finds the guest's pc by the return address.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

from emu.engine.layout import TranslationCalls
from emu.engine.library import library_build
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError

# What a block begins with: movabs rdi, uc; xor esi, esi; call helper_check_exit_request, or call [rip + its address]
# What it is to begin with: cmp dword [rbp + requests], 0; jge behind; xor edi, edi; nop; call the stub in the same way
DETOUR = bytes.fromhex(
    "56"  # push rsi                                int tcg_gen_code(context, block)
    "48b8 1111111111111111 ffd0"  # movabs rax, tcg_gen_code; call rax
    "5e"  # pop rsi
    "85c0 0f8884000000"  # test eax, eax; js end              a buffer that is full
    "488b5655"  # mov rdx, [rsi + code]
    "66813a48bf 7579"  # cmp word [rdx], ...; jne end          is it a movabs rdi,
    "66817a0a33f6 7571"  # cmp word [rdx + 10], ...; jne end     a xor esi, esi?
    "49b9 3333333333333333"  # movabs r9, the stub
    "49ba 2222222222222222"  # movabs r10, helper_check_exit_request
    "49bb 4444444444444444"  # movabs r11, the first 8 bytes
    "66817a0cff15 7430"  # cmp word [rdx + 12], ...; je far    a call by an address behind the block
    "807a0ce8 7545"  # cmp byte [rdx + 12], ...; jne end         or else of what is near?
    "4c8d4211"  # lea r8, [rdx + 17]
    "48634a0d 4c01c1"  # movsxd rcx, dword [rdx + 13]; add rcx, r8
    "4c39d1 7535"  # cmp rcx, r10; jne end                    of this function?
    "4d29c1 4963c9"  # sub r9, r8; movsxd rcx, r9d
    "4c39c9 752a"  # cmp rcx, r9; jne end                     is the stub near?
    "44894a0d"  # mov [rdx + 13], r9d
    "c74208 0831ff90"  # mov dword [rdx + 8], the next 4 bytes
    "4c891a c3"  # mov [rdx], r11; ret
    "48634a0e 488d4c0a12"  # far: movsxd rcx, dword [rdx + 14]; lea rcx, [rdx + rcx + 18]
    "4c3911 750d"  # cmp [rcx], r10; jne end                  of this function?
    "4c8909"  # mov [rcx], r9
    "c74208 0931ff90"  # mov dword [rdx + 8], the next 4 bytes
    "4c891a c3"  # mov [rdx], r11; end: ret
)
STUB = bytes.fromhex(
    "4885ff 7509"  # test rdi, rdi; jne to the jump         a call that was left as it was goes by the same address
    "488bbd 00000000"  # mov rdi, [rbp + uc]
    "31f6"  # xor esi, esi
)


@cache
def check_in_place(suffix: str, calls: TranslationCalls, word: int, requests: int, uc: int) -> None:
    """Make the change for the ISA whose functions have this `suffix`; EngineError when the table is not of this library.

    `word` is the size in bytes of an address of the guest's. `requests` and `uc` are offsets from the CPU's state: of a number
    that is negative when there is a request, and of the CPU's handle.
    """
    generate, helper = address_of(f"tcg_gen_code_{suffix}"), address_of(f"helper_check_exit_request_{suffix}")
    base = generate - calls.generate
    slot = ctypes.c_uint64.from_address(base + calls.generate_slot)
    if base % mmap.PAGESIZE or slot.value != generate:
        raise EngineError(f"this library says it is {library_build()}, but it calls its code generator by another slot")
    stub = executable(STUB.replace(bytes(4), uc.to_bytes(4, "little", signed=True)) + jump_to(helper))
    begin = b"\x83\xbd" + requests.to_bytes(4, "little", signed=True) + b"\x00\x7d"
    where = 16 + 2 * word  # tc.ptr of a TranslationBlock, behind pc, cs_base and some numbers
    code = DETOUR.replace(b"\x48\x8b\x56\x55", b"\x48\x8b\x56" + bytes([where]))
    for mark, value in ((0x11, generate), (0x22, helper), (0x33, stub), (0x44, int.from_bytes(begin, "little"))):
        code = code.replace(bytes([mark]) * 8, value.to_bytes(8, "little"))
    slot.value = executable(code)
