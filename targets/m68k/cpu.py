"""A Motorola 68040: its registers, its state in a stream, its exceptions and interrupts.

QEMU's entry code, which is part of the library, enters exceptions and carries out RTE; the library takes interrupts by itself
when their level is above the mask in SR. Section numbers are those of the M68040 User's Manual (M68040UM/AD). There is no
tracing: T1 and T0 of SR are kept, and do nothing.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.engine.core import Engine
from emu.engine.holes import Access
from emu.errors import EngineError, StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, u8, u16, u32, u32s, u64s

ACCESS_FAULT = 2  # vector (8.2.1)
INTERRUPT_LEVEL = 1  # of the board's only line
AUTOVECTOR = 24  # of level 0 (8.2.9)

SR_SUPERVISOR, SR_MASTER, SR_MASK, SR_CONDITION_CODES = 0x2000, 0x1000, 0x0700, 0x001F
SR_LEGAL = 0xF71F
STACK_POINTERS = ("msp", "usp", "isp")  # in the order of the library's `current_sp`

# Special status word of an access fault (8.4.6.2)
SSW_ATC, SSW_READ = 0x0400, 0x0100
SSW_DATA, SSW_CODE, SSW_SUPERVISOR = 1, 2, 4

PLAIN = (
    "pc",
    "fpsr",
    "mmu_ar",
    "mmu_ssw",
    "tcr",
    "urp",
    "srp",
    "dtt0",
    "dtt1",
    "itt0",
    "itt1",
    "mmusr",
    "vbr",
    "cacr",
    "sfc",
    "dfc",
)


class Stack(IntEnum):
    """Values of the library's `current_sp`: which stack pointer a7 is."""

    MASTER = 0
    USER = 1
    INTERRUPT = 2


@dataclass(slots=True, kw_only=True)
class M68kState(State):
    """Everything a guest can see of its CPU. The level of the interrupt line comes with its controller."""

    VMSTATE: ClassVar[VMState] = VMState("m68k-cpu", version=1, minimum=1)
    pc: int = u32()
    sr: int = u16(0x2700, max=SR_LEGAL)  # with the condition codes
    d: list[int] = u32s(8)
    a: list[int] = u32s(7)
    usp: int = u32()
    isp: int = u32()
    msp: int = u32()
    fp_mantissa: list[int] = u64s(8)
    fp_exponent: list[int] = u32s(8, max=0xFFFF)  # and sign
    fpcr: int = u16()
    fpsr: int = u32()
    vbr: int = u32()
    cacr: int = u32()
    sfc: int = u8(max=7)
    dfc: int = u8(max=7)
    tcr: int = u16()
    urp: int = u32()
    srp: int = u32()
    itt0: int = u32()
    itt1: int = u32()
    dtt0: int = u32()
    dtt1: int = u32()
    mmusr: int = u32()
    mmu_ar: int = u32()  # of the last access fault
    mmu_ssw: int = u32(max=0xFFFF)
    asleep: bool = flag()  # in STOP

    def check(self) -> None:
        """SR has bits that do not exist."""
        if self.sr & ~SR_LEGAL:
            raise StateError(f"m68k-cpu.sr is {self.sr:#x}, must be within {SR_LEGAL:#x}")


class M68kCpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    STATE: ClassVar[type[State]] = M68kState

    def __init__(self, engine: Engine) -> None:
        self.name = "cpu0"
        self.engine = engine
        names = [*PLAIN, *STACK_POINTERS, "sr", "current_sp", "fpcr", "mmu_fault", "pending_level", "pending_vector"]
        self._fields = {name: engine.field(name) for name in names}
        self._d = [engine.field(f"d{n}") for n in range(8)]
        self._a = [engine.field(f"a{n}") for n in range(7)]
        self._a7 = engine.field("a7")
        self._fp_mantissa = [engine.field(f"fp{n}_mantissa") for n in range(8)]
        self._fp_exponent = [engine.field(f"fp{n}_exponent") for n in range(8)]
        pointer, u32 = ctypes.c_void_p, ctypes.c_uint32
        self._do_interrupt = engine.function("m68k_cpu_do_interrupt", None, pointer)
        self._get_ccr = engine.function("cpu_m68k_get_ccr", u32, pointer)
        self._set_ccr = engine.function("cpu_m68k_set_ccr", None, pointer, u32)
        self._set_fpcr = engine.function("cpu_m68k_set_fpcr", None, pointer, u32)
        self.interrupt = IrqLine(self._set_interrupt)
        engine.on_exception(self._exception)
        engine.on_unmapped(self._access_fault)
        self._power_on = self.save()

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU is in STOP with no interrupt above its mask."""
        return self.engine.halted and self._fields["pending_level"].value <= (self._fields["sr"].value & SR_MASK) >> 8

    def run(self) -> None:
        """Run one slice."""
        self.engine.run()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    # targets.goldfish.GoldfishCpu

    def enter(self, pc: int, tree: int) -> None:
        """As a boot ROM would: in supervisor mode, interrupts masked, the device tree's address in a0."""
        self.engine.pc = pc
        self._a[0].value = tree

    # Interrupts and exceptions

    def _set_interrupt(self, level: bool) -> None:
        self._fields["pending_level"].value = INTERRUPT_LEVEL if level else 0
        self._fields["pending_vector"].value = AUTOVECTOR + INTERRUPT_LEVEL
        self.engine.set_interrupt(level)

    def _exception(self, number: int) -> None:
        """Enter exception `number`, a vector; or carry out RTE, which the library has among the exceptions.

        Where the stack or the vector cannot be accessed the CPU takes an access fault instead, and where that cannot be entered
        either it is halted by a double bus fault until it is reset (8.2.1).
        """
        pc, sr = self.engine.pc, self._status()
        if self.engine.deliver(number, self._do_interrupt):
            return
        self._fields["mmu_fault"].value = 0
        self.engine.pc = pc
        self._set_status(sr)
        if number != ACCESS_FAULT and self.engine.deliver(ACCESS_FAULT, self._do_interrupt):
            return
        self._fields["mmu_fault"].value = 0
        self.engine.pc = pc
        raise EngineError(f"CPU halted at pc {pc:#x}: double bus fault, neither stack nor vector table can be accessed")

    def _access_fault(self, access: Access, address: int) -> int:
        """The exception for an access to a physical address where there is nothing.

        The fault address is the physical one, which is all the engine knows; the size in the status word stays a long's.
        """
        status = SSW_ATC | (SSW_CODE if access is Access.FETCH else SSW_DATA)
        if self._fields["sr"].value & SR_SUPERVISOR:
            status |= SSW_SUPERVISOR
        if access is not Access.STORE:
            status |= SSW_READ
        self._fields["mmu_ssw"].value = status
        self._fields["mmu_ar"].value = address
        return ACCESS_FAULT

    # Registers and state

    def _status(self) -> int:
        """SR; the library computes the condition codes when they are asked for, and keeps bits that no 68040 has."""
        return int(self._fields["sr"].value | self._get_ccr(self.engine.env)) & SR_LEGAL

    def _set_status(self, sr: int) -> None:
        """Write SR, and have a7 be the stack pointer that goes with it."""
        self._fields[STACK_POINTERS[self._fields["current_sp"].value]].value = self._a7.value
        self._fields["sr"].value = sr & ~SR_CONDITION_CODES
        self._set_ccr(self.engine.env, sr & SR_CONDITION_CODES)
        stack = Stack.USER if not sr & SR_SUPERVISOR else Stack.MASTER if sr & SR_MASTER else Stack.INTERRUPT
        self._fields["current_sp"].value = stack
        self._a7.value = self._fields[STACK_POINTERS[stack]].value

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        state = self.save()
        named = {"pc": state.pc, "sr": state.sr}
        named |= {f"d{n}": value for n, value in enumerate(state.d)}
        named |= {f"a{n}": value for n, value in enumerate((*state.a, self._a7.value))}
        named |= {name: getattr(state, name) for name in (*STACK_POINTERS, *PLAIN[1:], "fpcr")}
        return named

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> M68kState:
        """Read every register."""
        fields = self._fields
        fields[STACK_POINTERS[fields["current_sp"].value]].value = self._a7.value
        return M68kState(
            **{name: fields[name].value for name in (*PLAIN, *STACK_POINTERS, "fpcr")},
            sr=self._status(),
            d=[register.value for register in self._d],
            a=[register.value for register in self._a],
            fp_mantissa=[register.value for register in self._fp_mantissa],
            fp_exponent=[register.value for register in self._fp_exponent],
            asleep=self.engine.halted,
        )

    def load(self, state: M68kState) -> None:
        """Write every register."""
        for name in PLAIN:
            self._fields[name].value = getattr(state, name)
        for registers, values in (
            (self._d, state.d),
            (self._a, state.a),
            (self._fp_mantissa, state.fp_mantissa),
            (self._fp_exponent, state.fp_exponent),
        ):
            for register, value in zip(registers, values, strict=True):
                register.value = value
        self._set_status(state.sr)
        for name in STACK_POINTERS:
            self._fields[name].value = getattr(state, name)
        self._a7.value = self._fields[STACK_POINTERS[self._fields["current_sp"].value]].value
        self._set_fpcr(self.engine.env, state.fpcr)
        self._fields["mmu_fault"].value = 0
        self.engine.halted = state.asleep
        self.engine.flush_tlb()
