"""Has a RISC-V hart's cycle and instret counters, and mcycle and minstret, show its own time.

The library takes them from the host's time stamp counter: they were not the guest's, ran while it stood still, and jumped when
it moved. Its table of CSRs is led to a few instructions of ours, which ask the function that the hart's `time` CSR has, and
multiply. As in `codewatch`, it is the library that changes, once for each ISA.
"""

from __future__ import annotations

import ctypes
from functools import cache

from emu.engine.stubs import address_of, executable

COUNTERS = (0xB00, 0xB02, 0xC00, 0xC02)  # CSR numbers; their upper halves on RV32 are UPPER higher
UPPER = 0x80

_Operations = ctypes.c_void_p * 4  # predicate, read, write, modify
READ = 1


def _read_counter(time: int, scale: int, *, wide: bool) -> bytes:
    """int read(env, csr number, target_ulong *value), for a `time` function pointer at this offset in env."""
    return bytes.fromhex(
        "53 4154 4883ec08"  # push rbx, r12; sub rsp, 8
        "89f3 4989d4"  # mov ebx, esi; mov r12, rdx
        f"488b87 {time.to_bytes(4, 'little').hex()}"  # mov rax, [rdi + time]
        "4885c0 7402"  # test rax, rax; jz scale
        "ffd0"  # call rax
        f"4869c0 {scale.to_bytes(4, 'little').hex()}"  # scale: imul rax, rax, scale
        "f6c380 7404"  # test bl, UPPER; jz store
        "48c1e820"  # shr rax, 32
        f"{'49' if wide else '41'}890424"  # store: mov [r12], rax (eax)
        "31c0 4883c408 415c 5b c3"  # xor eax, eax; add rsp, 8; pop r12, rbx; ret
    )


@cache
def count_time(suffix: str, time: int, scale: int, *, wide: bool) -> None:
    """Have the counters of the ISA with this `suffix` show `scale` times what the function at offset `time` of env returns.

    `wide` is for registers of 64 bits. A hart without such a function shows 0.
    """
    pointer, number = ctypes.c_void_p, ctypes.c_int
    get, put = (
        ctypes.PYFUNCTYPE(None, number, pointer)(address_of(f"riscv_{verb}_csr_ops_{suffix}")) for verb in ("get", "set")
    )
    read = executable(_read_counter(time, scale, wide=wide))
    operations = _Operations()
    for counter in COUNTERS if wide else (*COUNTERS, *(counter + UPPER for counter in COUNTERS)):
        get(counter, ctypes.addressof(operations))
        operations[READ] = read
        put(counter, ctypes.addressof(operations))
