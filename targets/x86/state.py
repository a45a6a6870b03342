"""What a guest can see of its x86 CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from emu.errors import StateError
from migration.vmstate import State, VMState, blob, flag, struct, structs, u16, u32, u64, u64s

REGS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
DESCRIPTORS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr")
ALL_BITS = (1 << 64) - 1

# Control registers and model-specific ones, by their field in the engine, with the bits that can be set.
CONTROL: dict[str, int] = {
    "cr0": 0xE005_003F,
    "cr2": ALL_BITS,
    "cr3": ALL_BITS,
    "cr4": 0x77_FFFF,
    "efer": 0x4D01,  # SCE, LME, LMA, NXE, FFXSR
    "xcr0": 0x7,
    "star": ALL_BITS,
    "lstar": ALL_BITS,
    "cstar": ALL_BITS,
    "fmask": ALL_BITS,
    "kernel_gs_base": ALL_BITS,
    "sysenter_cs": 0xFFFF,
    "sysenter_esp": ALL_BITS,
    "sysenter_eip": ALL_BITS,
    "pat": 0x0707_0707_0707_0707,
    "tsc_aux": ALL_BITS,
    "misc_enable": ALL_BITS,
}
EFLAGS = 0x3F_7FD7
# QEMU's digest of the mode: CPL, interrupt shadow, CS32, SS32, ADDSEG, PE, MP, EM, TS, LMA, CS64, OSFXSR, SMAP, breakpoints.
HFLAGS = 0x01C0_CEFB
CS64, LMA, PE = 1 << 15, 1 << 14, 1 << 7
EFER_LMA = 1 << 10


@dataclass(slots=True, kw_only=True)
class DescriptorState(State):
    """A segment register with its hidden part, or a descriptor table register."""

    VMSTATE: ClassVar[VMState] = VMState("x86-descriptor", version=1, minimum=1)
    selector: int = u32(max=0xFFFF)
    base: int = u64()
    limit: int = u32()
    flags: int = u32()  # the descriptor's second word


@dataclass(slots=True, kw_only=True)
class FpuState(State):
    """x87 and SSE."""

    VMSTATE: ClassVar[VMState] = VMState("x86-fpu", version=1, minimum=1)
    fpstt: int = u32(max=7)  # top of the stack
    fpus: int = u16()  # status without it
    fpuc: int = u16()  # control
    fpop: int = u16()  # of the last instruction: opcode, its own address, its operand's
    fpip: int = u64()
    fpdp: int = u64()
    mxcsr: int = u32(max=0xFFFF)
    tags: bytes = blob(bytes(8), min_len=8, max_len=8)  # 1: empty
    registers: bytes = blob(bytes(80), min_len=80, max_len=80)  # ten bytes each, by number and not by distance from the top
    xmm: bytes = blob(bytes(256), min_len=256, max_len=256)


@dataclass(slots=True, kw_only=True)
class X86State(State):
    """Everything a guest can see. Not there, and so not saved: MTRRs, machine check banks, MPX bounds, SVM."""

    VMSTATE: ClassVar[VMState] = VMState("x86-cpu", version=1, minimum=1)
    pc: int = u64()
    eflags: int = u64(max=EFLAGS)
    hflags: int = u32(max=HFLAGS)
    regs: list[int] = u64s(len(REGS))
    descriptors: list[DescriptorState] = structs(DescriptorState, min_len=len(DESCRIPTORS), max_len=len(DESCRIPTORS))
    control: list[int] = u64s(len(CONTROL))
    dr: list[int] = u64s(8)
    fpu: FpuState = struct(FpuState)
    asleep: bool = flag()  # in HLT

    def check(self) -> None:
        """Modes that do not exist are refused, for the translator relies on them."""
        for name, value in zip(CONTROL, self.control, strict=True):
            if value & ~CONTROL[name]:
                raise StateError(f"x86-cpu.{name} is {value:#x}, must be within {CONTROL[name]:#x}")
        control = dict(zip(CONTROL, self.control, strict=True))
        for name, value, legal in (("hflags", self.hflags, HFLAGS), ("eflags", self.eflags, EFLAGS)):
            if value & ~legal:
                raise StateError(f"x86-cpu.{name} is {value:#x}, must be within {legal:#x}")
        if bool(self.hflags & PE) != bool(control["cr0"] & 1):
            raise StateError(f"x86-cpu.hflags is {self.hflags:#x}, its PE must be that of cr0 {control['cr0']:#x}")
        if bool(self.hflags & LMA) != bool(control["efer"] & EFER_LMA):
            raise StateError(f"x86-cpu.hflags is {self.hflags:#x}, its LMA must be that of efer {control['efer']:#x}")
        if self.hflags & CS64 and not self.hflags & LMA:
            raise StateError(f"x86-cpu.hflags is {self.hflags:#x}, 64-bit code needs long mode")
        if any(self.fpu.tags[at] > 1 for at in range(8)):
            raise StateError(f"x86-fpu.tags is {self.fpu.tags.hex()}, must be 0 or 1 each")
