"""Lets a counted slice end between EXECUTE and the instruction that it executes.

z/Architecture's EXECUTE builds an instruction, which the library keeps in a field of the CPU and translates as a block of its
own. That block drops the field first of all, before the counter (counting.py) may end the slice, and QEMU's table of what was
known at each instruction does not have it; but the block does. So on the way out it is put back.
"""

from __future__ import annotations

from functools import cache

from emu.engine.stubs import address_of, executable, jump_to

FIELD = slice(-4, None)
KEEP = bytes.fromhex(
    "57 56 4883ec08"  # push rdi, rsi; sub rsp, 8   leave(cpu, place in translated code)
    "488b87a8810000"  # mov rax, [rdi + 0x81a8]     uc_struct of the CPU
    "488bb800030000"  # mov rdi, [rax + 0x300]      its translator
    "48b8 0000000000000000"  # movabs rax, tcg_tb_lookup
    "ffd0"  # call rax                 the block
    "4883c408 5e 5f"  # add rsp, 8; pop rsi, rdi
    "488b4808"  # mov rcx, [rax + 8]       its cs_base: the field's value when it was translated
    "48898f 00000000"  # mov [rdi + field], rcx
)
LOOKUP = slice(22, 30)


@cache
def leave_with_executed(suffix: str, field: int, leave: int) -> int:
    """The address of a function like `leave`, cpu_loop_exit_restore, that also restores the 64 bits at `field` of CPUState."""
    code = bytearray(KEEP)
    code[LOOKUP] = address_of(f"tcg_tb_lookup_{suffix}").to_bytes(8, "little")
    code[FIELD] = field.to_bytes(4, "little")
    return executable(bytes(code) + jump_to(leave))
