"""Has a guest that the library gives up on be an exception.

QEMU ends its process where a guest does what its code has no answer for: by `cpu_abort` at a trap while traps are off or at a
control register that does not exist; by the C library's `abort` or `exit` where an assertion of its own fails, which happens in
translations of instructions that no assembler writes. Here these calls are led to a few instructions that leave the slice with
an exception of our own, or as the layout table has it for the ISA (an x86's shutdown). As in `codewatch` it is slots of the
global offset table that change, that of `cpu_abort` once for each ISA, the others once for all.

`abort` and `exit` do not say for which CPU they are called. So each thread keeps where its slice can be left, and on a thread
where none runs they end the process as ever.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

from emu.engine.layout import AbortCall, CoreLayout
from emu.engine.library import library_build
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError

ABORTED = 0xFFFF  # exception number; the last one that is not QEMU's own (EXCP_INTERRUPT)

LEAVE_OR = bytes.fromhex(
    "57 bf 00000000"  # push rdi; mov edi, key
    "48b8 0000000000000000 ffd0"  # movabs rax, pthread_getspecific; call rax
    "5f"  # pop rdi
    "4885c0 7406"  # test rax, rax; jz behind the jump
    "488b38 ff6008"  # mov rdi, [rax]; jmp [rax + 8]
)
KEY, GET = slice(2, 6), slice(8, 16)


@cache
def catch_aborts(suffix: str, call: AbortCall, stores: tuple[tuple[int, int], ...]) -> int:
    """Make the change for the ISA whose functions have this `suffix`; EngineError when the table is not of this library.

    `stores` are offsets in CPUState and the 32-bit values to leave the slice with, the exception's number among them. Returns
    the address of the code that leaves the slice of the CPUState that is its argument.
    """
    abort = address_of(f"cpu_abort_{suffix}")
    entry = ctypes.c_uint64.from_address(abort - call.function + call.slot)
    if entry.value != abort:
        raise EngineError(f"this library says it is {library_build()}, but it calls cpu_abort by another slot")
    code = b"".join(
        b"\xc7\x87" + offset.to_bytes(4, "little") + value.to_bytes(4, "little")  # mov dword [rdi + offset], value
        for offset, value in stores
    )
    entry.value = executable(code + jump_to(address_of(f"cpu_loop_exit_{suffix}")))
    return entry.value


class WayOut:
    """Where `abort` and `exit` find out of a slice of one CPU, from the thread that runs it."""

    def __init__(self, core: CoreLayout, cpu: int, leave: int) -> None:
        """`leave` is the address that `catch_aborts` gives."""
        self._key = _thread_key(core)
        self._way = (ctypes.c_uint64 * 2)(cpu, leave)
        self._address = ctypes.addressof(self._way)
        set_specific = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
        self._set = set_specific(("pthread_setspecific", ctypes.PyDLL(None)))

    def open(self) -> None:
        """A slice begins on this thread."""
        self._set(self._key, self._address)

    def close(self) -> None:
        """It is over."""
        self._set(self._key, None)


@cache
def _thread_key(core: CoreLayout) -> int:
    """Lead both calls; the key under which each thread keeps its way out."""
    base = address_of("uc_emu_start") - core.emu_start
    if base % mmap.PAGESIZE:
        raise EngineError(f"this library says it is {library_build()}, but its functions are somewhere else")
    libc = ctypes.CDLL(None)
    key = ctypes.c_uint()
    if libc.pthread_key_create(ctypes.byref(key), None):
        raise EngineError("this host gives no key for what each thread keeps")
    code = bytearray(LEAVE_OR)
    code[KEY] = key.value.to_bytes(4, "little")
    code[GET] = (ctypes.cast(libc.pthread_getspecific, ctypes.c_void_p).value or 0).to_bytes(8, "little")
    for name, slot in zip(("abort", "exit"), core.end_slots, strict=True):
        end = ctypes.cast(libc[name], ctypes.c_void_p).value or 0
        ctypes.c_uint64.from_address(base + slot).value = executable(bytes(code) + jump_to(end))
    return key.value
