"""A Cortex-A57 (ARM DDI 0487; DDI 0488): its registers and its state in a stream.

Guests start at EL1, in AArch64 state. EL2 and EL3 exist, as they say, but are this program: nothing ever runs there. Programs
at EL0 can be 32-bit ones. In AArch32 state the library keeps R0 to R15 apart; here they are where the architecture shows them
to AArch64 (D1.20.1): in X0 to X14 and the pc, with the banked registers of modes that no guest can be in behind them.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar

from devices.generic_timer import FREQUENCY, Comparator, GenericTimer
from emu.engine.core import Engine
from emu.engine.registers import registers
from emu.engine.systemregister import key64, serve_register
from emu.errors import StateError
from migration.vmstate import State, VMState, flag, u32, u64, u64s
from targets.arm.cpu import ArmCpu

ALL_BITS, WORD = (1 << 64) - 1, (1 << 32) - 1
BREAKPOINTS, WATCHPOINTS = 6, 4

# Every system register a guest can set, by its own name; in stream order.
SYSTEM: tuple[str, ...] = (
    "sctlr_el1",
    "cpacr_el1",
    "ttbr0_el1",
    "ttbr1_el1",
    "tcr_el1",
    "mair_el1",
    "vbar_el1",
    "elr_el1",
    "spsr_el1",
    "esr_el1",
    "far_el1",
    "par_el1",
    "contextidr_el1",
    "tpidr_el0",
    "tpidrro_el0",
    "tpidr_el1",
    "csselr_el1",
    "cntkctl_el1",
    "mdscr_el1",
    "oslsr_el1",
    *(f"dbgbvr{n}_el1" for n in range(BREAKPOINTS)),
    *(f"dbgbcr{n}_el1" for n in range(BREAKPOINTS)),
    *(f"dbgwvr{n}_el1" for n in range(WATCHPOINTS)),
    *(f"dbgwcr{n}_el1" for n in range(WATCHPOINTS)),
)
# Bits a register can have set; the library would use others without looking at them.
LEGAL: dict[str, int] = {"csselr_el1": 0xF, "cpacr_el1": 0xFFFF_FFFF, "vbar_el1": ALL_BITS & ~0x1F, "oslsr_el1": 0xA}

SP_SELECT = 1
MODES = (0b0000, 0b0100, 0b0101)  # EL0t, EL1t, EL1h (C5.2.18)
USER32 = 0b10000  # EL0 in AArch32 state (G8.2.33)
PSTATE_MODE, PSTATE_LEVEL, AARCH32, THUMB = 0x1F, 0xF, 1 << 4, 1 << 5
PSTATE32_MASK = 0xFE0F_FFFF  # NZCV, Q, IT, GE, E, AIF, T, mode
CPSR_ALL, CPSR_RAW = 0xFFFF_FFFF, 2  # of cpsr_write: which bits, and that no mode is left or entered (CPSRWriteRaw)
PSTATE_MASK = 0xF030_03C0 | PSTATE_MODE  # NZCV, SS, IL, DAIF, mode
PSTATE_START = 0x3C0 | 0b0101  # EL1h, all exceptions masked
FPCR_MASK, FPSR_MASK = 0x07F7_0000, 0xF800_009F

HCR_RW = 1 << 31  # EL1 is AArch64
SCR_NS, SCR_HCE, SCR_RW, SCR_RES1 = 1 << 0, 1 << 8, 1 << 10, 0x30

COUNTERS = ((3, 3, 14, 0, 1), (3, 3, 14, 0, 2))  # CNTPCT_EL0, CNTVCT_EL0
FEATURES = (3, 0, 0, 4, 0)  # ID_AA64PFR0_EL1
AARCH32_AT_EL0 = 0x2212  # and AArch64 everywhere; EL2 and EL3 exist, floating point and SIMD are there
PHYSICAL_TIMER, VIRTUAL_TIMER = (3, 3, 14, 2), (3, 3, 14, 3)
TVAL, CTL, CVAL = 0, 1, 2  # op2


@dataclass(slots=True, kw_only=True)
class Arm64State(State):
    """Everything a guest can see of its CPU. Not saved: the performance monitors, which count the host's time and of which the
    device tree says nothing."""

    VMSTATE: ClassVar[VMState] = VMState("arm64-cpu", version=1, minimum=1)
    pc: int = u64()
    x: list[int] = u64s(31)
    sp_el0: int = u64()
    sp_el1: int = u64()
    pstate: int = u32(PSTATE_START)  # in AArch32 state as CPSR
    v: list[int] = u64s(64)  # lower and upper half of each register
    fpcr: int = u32()
    fpsr: int = u32()
    system: list[int] = u64s(len(SYSTEM))
    exclusive: list[int] = u64s(3)  # LDXR's address, all ones when there is none, and the value it read
    interrupt: bool = flag()  # the line's level
    asleep: bool = flag()  # in WFI

    def check(self) -> None:
        """Modes that the guest cannot be in would end in code that knows nothing of it."""
        mask = PSTATE32_MASK if self.pstate & AARCH32 else PSTATE_MASK
        if self.pstate & ~mask:
            raise StateError(f"arm64-cpu.pstate is {self.pstate:#x}, must be within {mask:#x}")
        if self.pstate & PSTATE_MODE not in (*MODES, USER32):
            raise StateError(f"arm64-cpu.pstate has mode {self.pstate & PSTATE_MODE:#x}, must be one of {(*MODES, USER32)}")
        if self.pstate & AARCH32:
            self._check32()
        for name, value, mask in (("fpcr", self.fpcr, FPCR_MASK), ("fpsr", self.fpsr, FPSR_MASK)):
            if value & ~mask:
                raise StateError(f"arm64-cpu.{name} is {value:#x}, must be within {mask:#x}")
        for name, value in zip(SYSTEM, self.system, strict=True):
            if value & ~LEGAL.get(name, ALL_BITS):
                raise StateError(f"arm64-cpu.{name} is {value:#x}, must be within {LEGAL[name]:#x}")

    def _check32(self) -> None:
        for number, value in enumerate(self.x):
            if value > WORD:
                raise StateError(f"arm64-cpu.x[{number}] is {value:#x}, must be at most {WORD:#x} in AArch32 state")
        unit = 2 if self.pstate & THUMB else 4
        if self.pc > WORD or self.pc % unit:
            raise StateError(
                f"arm64-cpu.pc is {self.pc:#x}, must be a multiple of {unit} and at most {WORD:#x} in AArch32 state"
            )


class Arm64Cpu(ArmCpu):
    """The CPU of target arm64."""

    STATE: ClassVar[type[State]] = Arm64State

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        field = engine.field
        ids = registers("arm64")
        self._pstate, self._fpcr, self._fpsr = ids["pstate"], ids["fpcr"], ids["fpsr"]
        self._aarch64, self._r15 = field("aarch64"), field("r15")
        pointer, word = ctypes.c_void_p, ctypes.c_uint32
        self._read_cpsr = engine.function("cpsr_read", word, pointer)
        self._write_cpsr = engine.function("cpsr_write", None, pointer, word, word, ctypes.c_int)
        self._show_to_64 = engine.function("aarch64_sync_32_to_64", None, pointer)  # X0 to X30 and pc from R0 to R15
        self._take_from_64 = engine.function("aarch64_sync_64_to_32", None, pointer)
        self._x = [field(f"x{n}") for n in range(31)]
        self._v = [field(f"v{n}{half}") for n in range(32) for half in ("", "_high")]
        self._sp, self._sp_el0, self._sp_el1 = field("sp"), field("sp_el0"), field("sp_el1")
        self._system = [field(name) for name in SYSTEM]
        self._exclusive = [field(f"exclusive_{part}") for part in ("address", "value", "high")]
        field("scr_el3").value = SCR_NS | SCR_RES1 | SCR_HCE | SCR_RW
        field("hcr_el2").value = HCR_RW
        field("cntfrq_el0").value = FREQUENCY
        serve_register(engine, key64(*FEATURES), lambda: AARCH32_AT_EL0)
        self._power_on = self.save()
        self._power_on.pstate = PSTATE_START
        self.reset()

    def connect_timer(self, timer: GenericTimer) -> None:
        """Let the guest at the timer's registers."""
        for counter in COUNTERS:
            serve_register(self.engine, key64(*counter), timer.count)
        for place, comparator in ((PHYSICAL_TIMER, timer.physical), (VIRTUAL_TIMER, timer.virtual)):
            _serve_comparator(self.engine, place, comparator)

    @property
    def pc(self) -> int:
        """The program counter."""
        return int(self._pc.value if self._aarch64.value else self._r15.value)

    @pc.setter
    def pc(self, value: int) -> None:
        (self._pc if self._aarch64.value else self._r15).value = value

    @property
    def pstate(self) -> int:
        """PSTATE as SPSR shows it."""
        return self.engine.read_register(self._pstate) if self._aarch64.value else self._read_cpsr(self.engine.env)

    @property
    def in_user_mode(self) -> bool:
        """Whether the CPU is at EL0."""
        return not self.pstate & PSTATE_LEVEL

    def enter(self, tree: int) -> None:
        """Set the registers for a guest that finds a device tree at `tree`."""
        self.write(0, tree)

    def read(self, number: int) -> int:
        """X`number`."""
        return self._x[number].value

    def write(self, number: int, value: int) -> None:
        """Write X`number`."""
        self._x[number].value = value

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        state = self.save()
        named = {"pc": state.pc, "pstate": state.pstate, "sp_el0": state.sp_el0, "sp_el1": state.sp_el1}
        named |= {f"x{n}": value for n, value in enumerate(state.x)}
        named |= {"fpcr": state.fpcr, "fpsr": state.fpsr}
        return named | dict(zip(SYSTEM, state.system, strict=True))

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> Arm64State:
        """Read every register."""
        pstate = self.pstate
        if pstate & AARCH32:
            self._show_to_64(self.engine.env)
        uses_sp_el1 = bool(pstate & SP_SELECT)
        uses_sp_el0 = not pstate & (SP_SELECT | AARCH32)
        return Arm64State(
            pc=self.pc,
            x=[x.value for x in self._x],
            sp_el0=self._sp.value if uses_sp_el0 else self._sp_el0.value,
            sp_el1=self._sp.value if uses_sp_el1 else self._sp_el1.value,
            pstate=pstate,
            v=[v.value for v in self._v],
            fpcr=self.engine.read_register(self._fpcr),
            fpsr=self.engine.read_register(self._fpsr),
            system=[register.value for register in self._system],
            exclusive=[part.value for part in self._exclusive],
            interrupt=self._interrupt_level,
            asleep=self.engine.halted,
        )

    def load(self, state: Arm64State) -> None:
        """Write every register."""
        in_aarch32 = bool(state.pstate & AARCH32)
        self._aarch64.value = not in_aarch32
        if in_aarch32:
            self._write_cpsr(self.engine.env, state.pstate, CPSR_ALL, CPSR_RAW)
        else:
            self.engine.write_register(self._pstate, state.pstate)
        for fields, values in (
            (self._x, state.x),
            (self._v, state.v),
            (self._system, state.system),
            (self._exclusive, state.exclusive),
        ):
            for field, value in zip(fields, values, strict=True):
                field.value = value
        self._sp_el0.value, self._sp_el1.value = state.sp_el0, state.sp_el1
        self._sp.value = state.sp_el1 if state.pstate & SP_SELECT else state.sp_el0
        self.engine.write_register(self._fpcr, state.fpcr)
        self.engine.write_register(self._fpsr, state.fpsr)
        self._set_interrupt(state.interrupt)
        self.engine.halted = state.asleep
        self.pc = self._pc.value = state.pc
        if in_aarch32:
            self._take_from_64(self.engine.env)
        self._settle()


def _serve_comparator(engine: Engine, place: tuple[int, int, int, int], comparator: Comparator) -> None:
    serve_register(engine, key64(*place, TVAL), comparator.read_tval, comparator.write_tval)
    serve_register(engine, key64(*place, CTL), comparator.read_ctl, comparator.write_ctl)
    serve_register(engine, key64(*place, CVAL), comparator.read_cval, comparator.write_cval)
