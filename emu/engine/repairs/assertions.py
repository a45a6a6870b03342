"""Has an assertion of the library's that a guest breaks be an exception.

Where QEMU's code holds something for impossible it calls abort(), which is the end of the process; a guest gets there by an odd
address space identifier, for one. The library's call of abort is led to a few instructions that leave the slice by `abort`'s
exception instead, if a slice is what this thread is in. As in `codewatch` it is a slot of the global offset table that changes,
for all ISAs at once: the begin of CPUState and the function that leaves a slice are alike for each.
"""

from __future__ import annotations

import ctypes
import threading

from emu.engine.layout import AbortCall, CoreLayout
from emu.engine.library import library_build
from emu.engine.repairs.abort import ABORTED
from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError


class Running(threading.local):
    """What this thread runs."""

    cpu = 0  # the address of the CPUState whose slice it is in


RUNNING = Running()
_cpu_of_this_thread = ctypes.CFUNCTYPE(ctypes.c_uint64)(lambda: RUNNING.cpu)
_caught: list[int] = []  # the code that is called instead, once there is


def catch_assertions(core: CoreLayout, suffix: str, call: AbortCall) -> None:
    """Make the change, once; EngineError when the table is not of this library. `suffix` and `call` are those of any ISA."""
    if _caught:
        return
    slot = ctypes.c_uint64.from_address(address_of(f"cpu_abort_{suffix}") - call.function + core.abort_slot)
    libc_abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value or 0
    if slot.value != libc_abort:
        raise EngineError(f"this library says it is {library_build()}, but it calls abort by another slot")
    leave = (
        b"\x48\x89\xc7"  # mov rdi, rax
        b"\xc7\x87"  # mov dword [rdi + exception_index], ABORTED
        + core.cpu_exception_index.to_bytes(4, "little")
        + ABORTED.to_bytes(4, "little")
        + jump_to(address_of(f"cpu_loop_exit_{suffix}"))
    )
    callback = ctypes.cast(_cpu_of_this_thread, ctypes.c_void_p).value or 0
    ask = (
        b"\x48\x83\xec\x08"  # sub rsp, 8
        b"\x48\xb8" + callback.to_bytes(8, "little") + b"\xff\xd0"  # movabs rax, callback; call rax
        b"\x48\x83\xc4\x08"  # add rsp, 8
        b"\x48\x85\xc0"  # test rax, rax
    )
    _caught.append(executable(ask + b"\x74" + bytes([len(leave)]) + leave + jump_to(libc_abort)))  # jz behind `leave`
    slot.value = _caught[0]
