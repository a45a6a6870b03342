"""System registers of an ARM CPU whose values the machine makes up, such as the generic timer's.

The library looks a register up in a table, by a key made of its encoding, when it translates an access, and calls the entry's
functions when the access is executed. Who may access it, at which exception level, stays as the table has it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.engine.core import Engine
from emu.errors import EngineError

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

MASK64 = (1 << 64) - 1
READ_FUNCTION, WRITE_FUNCTION = 80, 88  # of ARMCPRegInfo
KEY_AA64 = 1 << 28 | 0x13 << 16
KEY_AA32 = 1 << 29 | 15 << 16

_Read = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
_Write = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)


def key64(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The key of an AArch64 register, from the fields of MRS and MSR (QEMU's ENCODE_AA64_CP_REG)."""
    return KEY_AA64 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


def key32(op1: int, crn: int, crm: int, op2: int) -> int:
    """The key of an AArch32 register of coprocessor 15 as the non-secure world sees it, from the fields of MRC and MCR."""
    return KEY_AA32 | crn << 11 | crm << 7 | op1 << 3 | op2


def key32_wide(op1: int, crm: int) -> int:
    """The same of one with 64 bits, from the fields of MRRC and MCRR."""
    return KEY_AA32 | 1 << 15 | crm << 7 | op1 << 3


def serve_register(engine: Engine, key: int, read: Callable[[], int], write: Callable[[int], None] | None = None) -> None:
    """Have the register `key` read and, unless it is read-only, written by functions of ours; EngineError if it is not there.

    They run on the vCPU thread inside a slice, and `pc` is not exact in them. What they raise ends the slice.
    """
    find = engine.function("get_arm_cp_reginfo", ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32)
    entry = find(engine.field("system_registers").value, key)
    if not entry:
        raise EngineError(f"{engine.isa} has no system register with key {key:#x}")

    def on_read(_env: int, _entry: int) -> int:
        try:
            return read() & MASK64
        except BaseException as exc:
            engine.fail(exc)
            return 0

    def on_write(_env: int, _entry: int, value: int) -> None:
        try:
            assert write is not None
            write(value)
        except BaseException as exc:
            engine.fail(exc)

    _place(engine, entry + READ_FUNCTION, _Read(on_read))
    if write is not None:
        _place(engine, entry + WRITE_FUNCTION, _Write(on_write))


def _place(engine: Engine, slot: int, function: CFuncPtr) -> None:
    engine.keep(function)
    ctypes.c_void_p.from_address(slot).value = ctypes.cast(function, ctypes.c_void_p).value
