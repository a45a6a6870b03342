"""A Cortex-A15 (ARM DDI 0406, DDI 0438): its registers and its state in a stream.

Guests start in SVC mode of the non-secure world. HYP and monitor mode exist, but are this program: nothing ever runs there.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar

from devices.generic_timer import FREQUENCY, Comparator, GenericTimer
from emu.engine.core import Engine
from emu.engine.registers import registers
from emu.engine.systemregister import key32, key32_wide, serve_register
from emu.errors import StateError
from migration.vmstate import State, VMState, flag, u32, u32s, u64s
from targets.arm.cpu import ArmCpu

MASK32 = (1 << 32) - 1
ALL_BITS = (1 << 64) - 1
BREAKPOINTS, WATCHPOINTS = 6, 4
BANKS = 8  # of r13, r14 and SPSR; the current mode's own place among them is stale

# Every system register a guest can set, by its own name; in stream order.
SYSTEM: tuple[str, ...] = (
    "sctlr",
    "cpacr",
    "ttbr0",
    "ttbr1",
    "ttbcr",
    "dacr",
    "ifsr",
    "dfsr",
    "far",
    "par",
    "mair",
    "vbar",
    "contextidr",
    "tpidrurw",
    "tpidruro",
    "tpidrprw",
    "csselr",
    "cntkctl",
    "dbgdscr",
    "oslsr",
    *(f"dbgbvr{n}" for n in range(BREAKPOINTS)),
    *(f"dbgbcr{n}" for n in range(BREAKPOINTS)),
    *(f"dbgwvr{n}" for n in range(WATCHPOINTS)),
    *(f"dbgwcr{n}" for n in range(WATCHPOINTS)),
)
WIDE = dict.fromkeys(("ttbr0", "ttbr1", "far", "par", "mair"), ALL_BITS)
# Bits a register can have set; the library would use others without looking at them.
LEGAL: dict[str, int] = {
    **dict.fromkeys(SYSTEM, MASK32),
    **WIDE,
    "csselr": 0xF,
    "vbar": MASK32 & ~0x1F,
    "oslsr": 0xA,
}

MODES = (0x10, 0x11, 0x12, 0x13, 0x17, 0x1B, 0x1F)  # usr, fiq, irq, svc, abt, und, sys (B1.3.1)
CPSR_MODE = 0x1F
CPSR_MASK = 0xFE0F_FFFF  # all but what is reserved and Jazelle
CPSR_START = 0x1C0 | 0x13  # SVC, all exceptions masked
CPSR_RAW = 2  # QEMU's CPSRWriteRaw: believe everything, switch no banks
FPSCR_MASK = 0xFFF7_009F
FPEXC_MASK = 1 << 30  # EN

SCR_NS, SCR_FW, SCR_AW, SCR_HCE = 1 << 0, 1 << 4, 1 << 5, 1 << 8
NSACR_VFP = 0b11 << 10  # coprocessors 10 and 11 are everybody's

NO_MACHINE_NUMBER = MASK32

COUNTERS = ((0, 14), (1, 14))  # CNTPCT, CNTVCT: op1, crm
PHYSICAL_TIMER, VIRTUAL_TIMER = (2, 2), (3, 3)  # crm of TVAL and CTL, op1 of CVAL


@dataclass(slots=True, kw_only=True)
class ArmState(State):
    """Everything a guest can see of its CPU. Not saved: the performance monitors, which count the host's time and of which the
    device tree says nothing."""

    VMSTATE: ClassVar[VMState] = VMState("arm-cpu", version=1, minimum=1)
    pc: int = u32()
    r: list[int] = u32s(15)
    cpsr: int = u32(CPSR_START)
    spsr: int = u32()
    banked_r13: list[int] = u32s(BANKS)
    banked_r14: list[int] = u32s(BANKS)
    banked_spsr: list[int] = u32s(BANKS)
    usr_r8_12: list[int] = u32s(5)
    fiq_r8_12: list[int] = u32s(5)
    d: list[int] = u64s(32)
    fpscr: int = u32(max=FPSCR_MASK)
    fpexc: int = u32()
    system: list[int] = u64s(len(SYSTEM))
    exclusive: list[int] = u64s(2)  # LDREX's address, all ones when there is none, and the value it read
    interrupt: bool = flag()  # the line's level
    asleep: bool = flag()  # in WFI

    def check(self) -> None:
        """Modes that the guest cannot be in would end in code that knows nothing of it."""
        if self.cpsr & CPSR_MODE not in MODES:
            raise StateError(f"arm-cpu.cpsr has mode {self.cpsr & CPSR_MODE:#x}, must be one of {MODES}")
        if self.pc & (1 if self.cpsr & 1 << 5 else 3):
            raise StateError(f"arm-cpu.pc is {self.pc:#x}, which is no address of an instruction")
        for name, value, mask in (
            ("cpsr", self.cpsr, CPSR_MASK),
            ("fpscr", self.fpscr, FPSCR_MASK),
            ("fpexc", self.fpexc, FPEXC_MASK),
        ):
            if value & ~mask:
                raise StateError(f"arm-cpu.{name} is {value:#x}, must be within {mask:#x}")
        for name, value in zip(SYSTEM, self.system, strict=True):
            if value & ~LEGAL[name]:
                raise StateError(f"arm-cpu.{name} is {value:#x}, must be within {LEGAL[name]:#x}")


class Arm32Cpu(ArmCpu):
    """The CPU of target arm."""

    STATE: ClassVar[type[State]] = ArmState

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        field = engine.field
        self._fpscr = registers("arm")["fpscr"]
        self._r = [field(f"r{n}") for n in range(15)]
        self._spsr, self._fpexc = field("spsr"), field("fpexc")
        self._banked_r13 = [field(f"banked_r13_{n}") for n in range(BANKS)]
        self._banked_r14 = [field(f"banked_r14_{n}") for n in range(BANKS)]
        self._banked_spsr = [field(f"banked_spsr{n}") for n in range(BANKS)]
        self._usr_r = [field(f"usr_r{n}") for n in range(8, 13)]
        self._fiq_r = [field(f"fiq_r{n}") for n in range(8, 13)]
        self._d = [field(f"d{n}") for n in range(32)]
        self._system = [field(name) for name in SYSTEM]
        self._ttbcr, self._ttbcr_mask, self._ttbcr_base_mask = (field(f"ttbcr{part}") for part in ("", "_mask", "_base_mask"))
        self._exclusive = [field(f"exclusive_{part}") for part in ("address", "value")]
        word = ctypes.c_uint32
        self._cpsr_read = engine.function("cpsr_read", word, ctypes.c_void_p)
        self._cpsr_write = engine.function("cpsr_write", None, ctypes.c_void_p, word, word, ctypes.c_int)
        field("scr").value = SCR_NS | SCR_FW | SCR_AW | SCR_HCE
        field("nsacr").value = NSACR_VFP
        field("cntfrq").value = FREQUENCY
        self._power_on = self.save()
        self._power_on.cpsr = CPSR_START
        self.reset()

    def connect_timer(self, timer: GenericTimer) -> None:
        """Let the guest at the timer's registers."""
        for counter in COUNTERS:
            serve_register(self.engine, key32_wide(*counter), timer.count)
        for place, comparator in ((PHYSICAL_TIMER, timer.physical), (VIRTUAL_TIMER, timer.virtual)):
            _serve_comparator(self.engine, place, comparator)

    @property
    def cpsr(self) -> int:
        """The current program status register."""
        return self._cpsr_read(self.engine.env)

    @property
    def in_user_mode(self) -> bool:
        """Whether the CPU is in USR mode."""
        return not self.cpsr & 0xF

    def enter(self, tree: int) -> None:
        """Set the registers for a guest that finds a device tree at `tree`."""
        self.write(1, NO_MACHINE_NUMBER)
        self.write(2, tree)

    def read(self, number: int) -> int:
        """R`number`, of the current mode; not the pc."""
        return self._r[number].value

    def write(self, number: int, value: int) -> None:
        """Write R`number`; bits above 31 are dropped."""
        self._r[number].value = value & MASK32

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        state = self.save()
        named = {"pc": state.pc, "cpsr": state.cpsr, "spsr": state.spsr}
        named |= {f"r{n}": value for n, value in enumerate(state.r)}
        named |= {"fpscr": state.fpscr, "fpexc": state.fpexc}
        return named | dict(zip(SYSTEM, state.system, strict=True))

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> ArmState:
        """Read every register."""
        return ArmState(
            pc=self.pc,
            r=[r.value for r in self._r],
            cpsr=self.cpsr,
            spsr=self._spsr.value,
            banked_r13=[r.value for r in self._banked_r13],
            banked_r14=[r.value for r in self._banked_r14],
            banked_spsr=[spsr.value & MASK32 for spsr in self._banked_spsr],
            usr_r8_12=[r.value for r in self._usr_r],
            fiq_r8_12=[r.value for r in self._fiq_r],
            d=[d.value for d in self._d],
            fpscr=self.engine.read_register(self._fpscr),
            fpexc=self._fpexc.value,
            system=[register.value for register in self._system],
            exclusive=[part.value for part in self._exclusive],
            interrupt=self._interrupt_level,
            asleep=self.engine.halted,
        )

    def load(self, state: ArmState) -> None:
        """Write every register."""
        self._cpsr_write(self.engine.env, state.cpsr, MASK32, CPSR_RAW)
        for fields, values in (
            (self._r, state.r),
            (self._banked_r13, state.banked_r13),
            (self._banked_r14, state.banked_r14),
            (self._banked_spsr, state.banked_spsr),
            (self._usr_r, state.usr_r8_12),
            (self._fiq_r, state.fiq_r8_12),
            (self._d, state.d),
            (self._system, state.system),
            (self._exclusive, state.exclusive),
        ):
            for field, value in zip(fields, values, strict=True):
                field.value = value
        self._spsr.value, self._fpexc.value = state.spsr, state.fpexc
        split = self._ttbcr.value & 7  # N: how much of the address space is TTBR0's (B4.1.153)
        self._ttbcr_mask.value = ~(MASK32 >> split) & MASK32
        self._ttbcr_base_mask.value = ~(0x3FFF >> split) & MASK32
        self.engine.write_register(self._fpscr, state.fpscr)
        self._set_interrupt(state.interrupt)
        self.engine.halted = state.asleep
        self.pc = state.pc
        self._settle()


def _serve_comparator(engine: Engine, place: tuple[int, int], comparator: Comparator) -> None:
    crm, op1 = place
    serve_register(engine, key32(0, 14, crm, 0), comparator.read_tval, comparator.write_tval)
    serve_register(engine, key32(0, 14, crm, 1), comparator.read_ctl, comparator.write_ctl)
    serve_register(engine, key32_wide(op1, 14), comparator.read_cval, comparator.write_cval)
