"""SYSCALL and SYSENTER, which Unicorn leaves to its user (AMD64 manual volume 3; Intel SDM volume 2).

SYSCALL of 64-bit code is the engine's (emu/engine/x86syscall.py). The library adds the instruction's length to the pc after the
hook, so the pc is set that much lower.
"""

from __future__ import annotations

import struct

from emu.engine.core import Engine
from emu.engine.registers import registers
from emu.engine.x86 import X86Hooks

CS, SS = 1, 2  # in the order of the descriptors
LENGTH = 2  # of both instructions; a prefix before them is the guest's mistake
RCX, RSP, R11 = 1, 4, 11
MASK64 = (1 << 64) - 1

CC_OP_EFLAGS = 1
ARITHMETIC_FLAGS, DIRECTION, RF, VM, IF = 0x8D5, 1 << 10, 1 << 16, 1 << 17, 1 << 9
CODE64, CODE32, DATA32 = 0x00A0_9B00, 0x00C0_9B00, 0x00C0_9300  # flat, DPL 0: second words of descriptors
CPL, CS32, SS32, ADDSEG, LMA, CS64 = 3, 1 << 4, 1 << 5, 1 << 6, 1 << 14, 1 << 15  # hflags
_DESCRIPTOR = struct.Struct("<IxxxxQII")


class CallGates:
    """The two instructions."""

    def __init__(self, engine: Engine, regs: memoryview, segments: memoryview) -> None:
        self._engine = engine
        self._regs = regs
        self._segments = segments
        self._pc, self._eflags, self._hflags = engine.field("pc"), engine.field("eflags"), engine.field("hflags")
        self._cc_src, self._cc_op, self._df = engine.field("cc_src"), engine.field("cc_op"), engine.field("df")
        self._eflags_id = registers(engine.isa)["eflags"]
        self._star, self._cstar = engine.field("star"), engine.field("cstar")
        self._fmask = engine.field("fmask")
        self._sysenter = [engine.field(f"sysenter_{name}") for name in ("cs", "esp", "eip")]

    def install(self, hooks: X86Hooks) -> None:
        """Have the engine call."""
        hooks.on_system_call(self.syscall)
        hooks.on_instruction("sysenter", self.sysenter)

    def syscall(self) -> None:
        """To CSTAR from compatibility code; outside long mode to STAR's address."""
        long_mode = self._hflags.value & LMA
        flags = self._engine.read_register(self._eflags_id)
        selector = self._star.value >> 32 & 0xFFFC
        self._regs[RCX] = self._pc.value + LENGTH & 0xFFFF_FFFF
        if long_mode:
            self._regs[R11] = flags & ~RF
            flags &= ~(self._fmask.value | RF)
            self._cc_src.value, self._cc_op.value = flags & ARITHMETIC_FLAGS, CC_OP_EFLAGS
            self._df.value = 0xFFFF_FFFF if flags & DIRECTION else 1
            self._eflags.value = flags & ~(ARITHMETIC_FLAGS | DIRECTION)
            target = self._cstar.value
        else:
            self._eflags.value &= ~(IF | RF | VM)
            target = self._star.value & 0xFFFF_FFFF
        self._enter(selector, target, 64 if long_mode else 32)

    def sysenter(self) -> None:
        """To SYSENTER_EIP with the stack at SYSENTER_ESP."""
        selector, stack, target = (field.value for field in self._sysenter)
        long_mode = self._hflags.value & LMA
        self._eflags.value &= ~(IF | RF | VM)
        self._regs[RSP] = stack
        self._enter(selector & 0xFFFC, target, 64 if long_mode else 32)

    def _enter(self, selector: int, target: int, bits: int) -> None:
        self._set(CS, selector, CODE64 if bits == 64 else CODE32)
        self._set(SS, selector + 8, DATA32)
        hflags = self._hflags.value & ~(CPL | ADDSEG | CS64) | CS32 | SS32
        self._hflags.value = hflags | (CS64 if bits == 64 else 0)
        self._pc.value = target - LENGTH & (MASK64 if bits == 64 else 0xFFFF_FFFF)

    def _set(self, number: int, selector: int, flags: int) -> None:
        _DESCRIPTOR.pack_into(self._segments, number * _DESCRIPTOR.size, selector & 0xFFFF, 0, 0xFFFF_FFFF, flags)
