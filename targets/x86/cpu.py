"""An x86 CPU, with or without long mode: its registers, its state in a stream, its interrupts.

Unicorn executes instructions and checks privileges; exceptions are delivered by QEMU's own entry code inside the library. An
interrupt goes the way that code has for a virtual machine's (CPU_INTERRUPT_VIRQ): once EFLAGS.IF and the interrupt shadow let
it through, the library loads the vector from a physical address. Ours is behind all addresses the guest has, and to load it is
the interrupt acknowledge cycle. SYSCALL, SYSENTER and RDTSC are stubs in Unicorn: syscall.py and `_read_tsc`.

The features are those of qemu64 and qemu32 less what is not there (local APIC, MTRRs, machine check, SVM), and no-execute.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable
from typing import ClassVar

from emu.clock import Clock
from emu.engine.core import Engine
from emu.engine.registers import registers
from emu.engine.x86 import X86Hooks
from emu.irq import IrqLine
from migration.vmstate import State
from targets.x86.state import CONTROL, DESCRIPTORS, REGS, DescriptorState, FpuState, X86State
from targets.x86.syscall import CallGates

VIRQ = 0x100  # CPU_INTERRUPT_VIRQ
ACKNOWLEDGE = 1 << 44  # the page of the acknowledge register
VECTOR = 0x64  # where the library looks for the vector: vmcb.control.int_vector

INTERRUPT_FLAG = 1 << 9
ARITHMETIC_FLAGS = 0x8D5  # OF, SF, ZF, AF, PF, CF
DIRECTION = 1 << 10
CC_OP_EFLAGS = 1
NO_EXCEPTION, DOUBLE_FAULT = 0xFFFF_FFFF, 8

FEATURES_1_EDX_ABSENT = 1 << 7 | 1 << 9 | 1 << 12 | 1 << 14  # MCE, APIC, MTRR, MCA
SEP = 1 << 11  # SYSENTER: absent in the 32-bit CPU, whose kernels then use INT 0x80
NX, SVM = 1 << 20, 1 << 2
TSC_ADJUST, INVARIANT_TSC = 1 << 1, 1 << 8  # the time stamp counter never stops and needs no watching
MASK32 = (1 << 32) - 1

_DESCRIPTOR = struct.Struct("<IxxxxQII")  # SegmentCache


class X86Cpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    STATE: ClassVar[type[State]] = X86State

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        acknowledge: Callable[[], int],
        on_triple_fault: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`acknowledge` returns the vector of the interrupt that `interrupt` asks for.

        `on_end` is called after a HLT with interrupts off: nothing but a reset wakes the CPU then, for no board raises an NMI.
        """
        self.name = "cpu0"
        self.engine = engine
        self.long_mode = engine.isa == "x86_64"
        self._clock = clock
        self._acknowledge = acknowledge
        self._on_triple_fault = on_triple_fault
        self._on_end = on_end
        self._intr = False
        self._eflags_id = registers(engine.isa)["eflags"]
        self._fields = {name: engine.field(name) for name in CONTROL}
        self._eflags, self._hflags = engine.field("eflags"), engine.field("hflags")
        self._cc_src, self._cc_op, self._df = engine.field("cc_src"), engine.field("cc_op"), engine.field("df")
        self._old_exception = engine.field("old_exception")
        self._regs = engine.view("regs").cast("Q")
        self._segments = engine.view("segments")
        self._dr = engine.view("dr").cast("Q")
        self._fpu = {name: engine.field(name) for name in ("fpstt", "fpus", "fpuc", "fpop", "fpip", "fpdp", "mxcsr")}
        self._fptags, self._fpregs, self._xmm = engine.view("fptags"), engine.view("fpregs"), engine.view("xmm")
        pointer = ctypes.c_void_p
        self._fpu_changed = engine.function("update_fp_status", None, pointer)
        self._mxcsr_changed = engine.function("update_mxcsr_status", None, pointer)
        self._set_dr7 = engine.function("cpu_x86_update_dr7", None, pointer, ctypes.c_uint32)
        self._choose_features()
        self.hooks = X86Hooks(engine)
        self.hooks.deliver_exceptions()
        engine.map_mmio(ACKNOWLEDGE, mmap.PAGESIZE, self._read_vector, lambda _offset, _size, _value: None)
        engine.field("vm_vmcb").value = ACKNOWLEDGE
        self.hooks.on_instruction("rdtsc", self._read_tsc)
        self.hooks.on_instruction("rdtscp", self._read_tscp)
        CallGates(engine, self._regs, self._segments).install(self.hooks)
        self._power_on = self.save()

    def _choose_features(self) -> None:
        field = self.engine.field
        field("features_1_edx").value &= ~(FEATURES_1_EDX_ABSENT | (0 if self.long_mode else SEP))
        field("features_7_ebx").value |= TSC_ADJUST
        field("features_8000_0001_edx").value |= NX
        field("features_8000_0001_ecx").value &= ~SVM
        field("features_8000_0007_edx").value |= INVARIANT_TSC
        field("mcg_cap").value = 0

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU is in HLT with no interrupt that IF lets through."""
        return self.engine.halted and not (self._intr and self._eflags.value & INTERRUPT_FLAG)

    def run(self) -> None:
        """Run one slice. A fault while a double fault is delivered is a triple fault (SDM volume 3, 6.15)."""
        self.engine.run()
        if self._old_exception.value == DOUBLE_FAULT:
            self._on_triple_fault()
        elif self.engine.halted and not self._eflags.value & INTERRUPT_FLAG:
            self._on_end()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    @property
    def pc(self) -> int:
        """The instruction pointer."""
        return self.engine.pc

    # Interrupts

    @property
    def interrupt(self) -> IrqLine:
        """The INTR pin."""
        return IrqLine(self._set_intr)

    def _set_intr(self, level: bool) -> None:
        self._intr = level
        self.engine.set_request(VIRQ, level)
        if level:
            self.engine.kick()

    def _read_vector(self, offset: int, _size: int) -> int:
        return self._acknowledge() if offset == VECTOR else 0

    # Time

    def _tsc(self) -> int:
        """The time stamp counter: guest time in ns."""
        return self._clock.now()

    def _read_tsc(self) -> None:
        tsc = self._tsc()
        self._regs[REGS.index("rax")], self._regs[REGS.index("rdx")] = tsc & MASK32, tsc >> 32

    def _read_tscp(self) -> None:
        self._read_tsc()
        self._regs[REGS.index("rcx")] = self._fields["tsc_aux"].value & MASK32

    # Registers and state

    def read(self, name: str) -> int:
        """A general register, by its 64-bit name."""
        return self._regs[REGS.index(name)]

    def write(self, name: str, value: int) -> None:
        """Write a general register."""
        self._regs[REGS.index(name)] = value

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        state = self.save()
        named = {"rip": state.pc, "eflags": state.eflags} | dict(zip(REGS, state.regs, strict=True))
        named |= {name: descriptor.selector for name, descriptor in zip(DESCRIPTORS, state.descriptors, strict=True)}
        return named | dict(zip(CONTROL, state.control, strict=True))

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> X86State:
        """Read every register."""
        at = range(0, len(self._segments), _DESCRIPTOR.size)
        descriptors = [_DESCRIPTOR.unpack_from(self._segments, offset) for offset in at]
        return X86State(
            pc=self.pc,
            eflags=self.engine.read_register(self._eflags_id),
            hflags=self._hflags.value,
            regs=list(self._regs),
            descriptors=[
                DescriptorState(selector=selector, base=base, limit=limit, flags=flags)
                for selector, base, limit, flags in descriptors
            ],
            control=[field.value for field in self._fields.values()],
            dr=list(self._dr),
            fpu=FpuState(
                **{name: field.value for name, field in self._fpu.items()},
                tags=bytes(self._fptags),
                registers=b"".join(bytes(self._fpregs[at : at + 10]) for at in range(0, 128, 16)),
                xmm=b"".join(bytes(self._xmm[at : at + 16]) for at in range(0, 16 * 64, 64)),
            ),
            asleep=self.engine.halted,
        )

    def load(self, state: X86State) -> None:
        """Write every register."""
        self._regs[:] = memoryview(struct.pack("<16Q", *state.regs)).cast("B").cast("Q")
        packed = (_DESCRIPTOR.pack(d.selector, d.base, d.limit, d.flags) for d in state.descriptors)
        self._segments[:] = b"".join(packed)
        for field, value in zip(self._fields.values(), state.control, strict=True):
            field.value = value
        self._set_dr7(self.engine.env, 0x400)
        self._dr[:7] = memoryview(struct.pack("<7Q", *state.dr[:7])).cast("B").cast("Q")
        self._set_dr7(self.engine.env, state.dr[7])
        self._load_fpu(state.fpu)
        self._cc_src.value, self._cc_op.value = state.eflags & ARITHMETIC_FLAGS, CC_OP_EFLAGS
        self._df.value = MASK32 if state.eflags & DIRECTION else 1
        self._eflags.value = state.eflags  # from which the library takes the two above at the begin of a slice
        self._hflags.value = state.hflags
        self._old_exception.value = NO_EXCEPTION
        self.engine.halted = state.asleep
        self.engine.pc = state.pc
        self.engine.flush_tlb()

    def _load_fpu(self, fpu: FpuState) -> None:
        for name, field in self._fpu.items():
            field.value = getattr(fpu, name)
        self._fptags[:] = fpu.tags
        for number in range(8):
            self._fpregs[16 * number : 16 * number + 10] = fpu.registers[10 * number : 10 * number + 10]
        for number in range(16):
            self._xmm[64 * number : 64 * number + 16] = fpu.xmm[16 * number : 16 * number + 16]
        self._fpu_changed(self.engine.env)
        self._mxcsr_changed(self.engine.env)
