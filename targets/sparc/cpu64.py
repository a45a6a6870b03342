"""An UltraSPARC II: its registers, its state in a stream, its traps and interrupts.

QEMU's entry code, which is part of the library, enters traps and interrupts. Chapter numbers are those of The SPARC
Architecture Manual, Version 9.

TICK stands still and SOFTINT makes no interrupts: the board has a timer, and its interrupt controller drives a level of its
own. An interrupt that PIL held back is taken at the next jump that is not a plain branch, or a millisecond later; under
--icount at once. Accesses to nothing trap, but leave no AFSR and AFAR. SHUTDOWN, which the library does not have, waits for an
interrupt here and not for a reset: the CPU has no other way to wait.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar

from emu.clock import Clock
from emu.engine.core import Engine
from emu.engine.counting import Gate
from emu.engine.holes import Access
from emu.errors import EngineError, GuestError, StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, u8, u16, u32, u64, u64s
from targets.realmemory import Nothing, RealMemory

WINDOWS = 8
WINDOW_REGISTERS = 16  # outs and locals; the ins are the outs of the window before
OUTS = 8
MAX_TL = 5
TRAP_LEVELS = 8  # that the library has room for
TLB_ENTRIES = 64  # of instructions, and of data

# Trap types (table 7-1)
INSTRUCTION_ACCESS_ERROR, DATA_ACCESS_ERROR = 0x0A, 0x32
ILLEGAL_INSTRUCTION, PRIVILEGED_OPCODE, FP_DISABLED = 0x10, 0x11, 0x20
PIL = 0xF
INTERRUPT_LEVEL = 8  # of the board's only line
INTERRUPT_TRAP = 0x40
LOOK_AGAIN = 1_000_000  # ns after which the library is made to look at an interrupt that PIL holds back

# PSTATE (5.2.1; AG, IG and MG are UltraSPARC's)
PSTATE_IE, PSTATE_PRIV = 0x002, 0x004
PSTATE_LEGAL = 0xF3F
BANKS = {0x001: 1, 0x400: 2, 0x800: 3}  # AG, MG, IG; with none of them, or more than one, the normal globals
BANK_NAMES = ("normal", "ag", "mg", "ig")
GLOBALS = 8

SHUTDOWN = 0x81B0_1000  # UltraSPARC User's Manual, 13.5
CANSAVE_MAX = WINDOWS - 2

PLAIN = (
    "npc",
    "y",
    "tba",
    "pil",
    "asi",
    "canrestore",
    "otherwin",
    "wstate",
    "cleanwin",
    "fprs",
    "gsr",
    "tick_cmpr",
    "stick_cmpr",
    "softint",
    "lsu",
)
LISTS = ("trap_stack", "immu", "dmmu", "itlb", "dtlb", "scratch", "ivec")


@dataclass(slots=True, kw_only=True)
class Sparc64State(State):
    """Everything a guest can see of its CPU. The level of the interrupt line comes with its controller."""

    VMSTATE: ClassVar[VMState] = VMState("sparc64-cpu", version=1, minimum=1)
    pc: int = u64()
    npc: int = u64(4)  # not behind the pc in a delay slot
    globals: list[int] = u64s(len(BANK_NAMES) * GLOBALS)  # normal, alternate, MMU's, interrupts'
    windows: list[int] = u64s(WINDOWS * WINDOW_REGISTERS)  # o0..o7, l0..l7 of window 0, then of window 1, ...
    f: list[int] = u64s(32)  # pairs, the even register in the upper half
    cwp: int = u8(max=WINDOWS - 1)
    cansave: int = u8(max=CANSAVE_MAX)
    canrestore: int = u8(max=7)
    otherwin: int = u8(max=7)
    cleanwin: int = u8(max=7)
    wstate: int = u8(max=0x3F)
    y: int = u64()
    ccr: int = u8()
    asi: int = u8()
    fprs: int = u8(max=7)
    fsr: int = u64()
    gsr: int = u64()
    pstate: int = u16(0x014, max=PSTATE_LEGAL)
    pil: int = u8(max=15)
    tba: int = u64()
    tl: int = u8(max=TRAP_LEVELS - 1)
    trap_stack: list[int] = u64s(TRAP_LEVELS * 4)  # TPC, TNPC, TSTATE, TT of each level
    softint: int = u32()
    tick_cmpr: int = u64()
    stick_cmpr: int = u64()
    lsu: int = u64()
    immu: list[int] = u64s(16)
    dmmu: list[int] = u64s(16)
    itlb: list[int] = u64s(2 * TLB_ENTRIES)  # pairs of tag and entry
    dtlb: list[int] = u64s(2 * TLB_ENTRIES)
    scratch: list[int] = u64s(8)  # which this CPU does not have, but the library
    ivec: list[int] = u64s(4)  # the interrupt vector's status and data
    asleep: bool = flag()  # in SHUTDOWN

    def check(self) -> None:
        """Register 0 of each set of globals is 0, and PSTATE has bits that do not exist."""
        for name, first in zip(BANK_NAMES, self.globals[::GLOBALS], strict=True):
            if first:
                raise StateError(f"sparc64-cpu.globals has {first:#x} in {name} g0, must be 0")
        if self.pstate & ~PSTATE_LEGAL:
            raise StateError(f"sparc64-cpu.pstate is {self.pstate:#x}, must be within {PSTATE_LEGAL:#x}")


class Sparc64Cpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    STATE: ClassVar[type[State]] = Sparc64State

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.memory: RealMemory = Nothing()  # until its board gives it its own
        names = (*PLAIN, "fsr", "cwp", "cansave", "pstate", "tl")
        self._fields = {name: engine.field(name) for name in names}
        self._g = [engine.field(f"g{n}") for n in range(GLOBALS)]
        self._f = [engine.field(f"f{n}") for n in range(32)]
        self._windows = [engine.field(f"w{n}") for n in range(WINDOWS * WINDOW_REGISTERS + OUTS)]
        self._banks = [engine.view(name).cast("Q") for name in BANK_NAMES]
        self._lists = {name: engine.view(name).cast("Q") for name in LISTS}
        pointer, number, u64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64
        self._do_interrupt = engine.function("sparc_cpu_do_interrupt", None, pointer)
        self._get_ccr = engine.function("cpu_get_ccr", u64, pointer)
        self._put_ccr = engine.function("cpu_put_ccr", None, pointer, u64)
        self._set_cwp = engine.function("cpu_set_cwp", None, pointer, number)
        self._load_fsr = engine.function("helper_ldxfsr", u64, pointer, u64, u64)
        self._line = False
        self._clock = clock
        self._look_again = clock.timer(lambda: None)  # that the slice ends is enough
        self.interrupt = IrqLine(self._set_interrupt)
        engine.on_exception(self._exception)
        engine.on_interrupt(self._take_interrupt, Gate(("pstate", PSTATE_IE), ("pil", PIL), INTERRUPT_LEVEL))
        engine.on_unmapped(self._access_fault)
        self._power_on = self.save()

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU is in SHUTDOWN with no interrupt above PIL: one wakes it even while PSTATE.IE is off."""
        return self.engine.halted and not self._pending()

    def run(self) -> None:
        """Run one slice."""
        self.engine.run()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    # targets.goldfish.GoldfishCpu

    def enter(self, pc: int, tree: int) -> None:
        """As a boot PROM would: privileged, trap level 0, interrupts and MMU off, with the device tree's address in o0."""
        self.engine.pc = pc
        self._windows[self._fields["cwp"].value * WINDOW_REGISTERS].value = tree

    # Interrupts and traps

    def _set_interrupt(self, level: bool) -> None:
        self._line = level
        self.engine.set_interrupt(level)

    def _pending(self) -> bool:
        return self._line and self._fields["pil"].value < INTERRUPT_LEVEL

    def _take_interrupt(self) -> bool:
        """Not left to the library, which ends the process where that is a trap too many."""
        if not self._fields["pstate"].value & PSTATE_IE:
            return False
        if not self._pending():
            if not self.engine.counted and self._look_again.deadline is None:
                self._look_again.arm(self._clock.now() + LOOK_AGAIN)  # writing PIL ends no block
            return False
        self._exception(INTERRUPT_TRAP + INTERRUPT_LEVEL)
        return True

    def _exception(self, number: int) -> None:
        """Enter trap `number`; one at the last trap level puts the CPU in error_state until it is reset (7.2.1)."""
        fields, pc = self._fields, self.engine.pc
        if number in (ILLEGAL_INSTRUCTION, FP_DISABLED) and self._instruction(pc) == SHUTDOWN:
            if fields["pstate"].value & PSTATE_PRIV:
                self.engine.pc = fields["npc"].value
                self.engine.halted = True
                self.engine.end_slice()
                return
            number = PRIVILEGED_OPCODE
        if fields["tl"].value >= MAX_TL:
            raise EngineError(f"CPU in error_state at pc {pc:#x}: trap {number:#x} at trap level {fields['tl'].value}")
        # A spill goes this many windows down; the library lets a guest write any number.
        fields["cansave"].value = min(fields["cansave"].value, CANSAVE_MAX)
        self.engine.deliver(number, self._do_interrupt)

    def _instruction(self, pc: int) -> int:
        """The instruction at `pc`, or 0 where there is no memory."""
        address = self.engine.translate(pc)
        try:
            return 0 if address is None else int.from_bytes(self.memory.read(address, 4), "big")
        except GuestError:
            return 0

    def _access_fault(self, access: Access, _address: int) -> int:
        """The trap for an access to a physical address where there is nothing."""
        return INSTRUCTION_ACCESS_ERROR if access is Access.FETCH else DATA_ACCESS_ERROR

    # Registers and state

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people; the window and the globals are the current ones."""
        state = self.save()
        named = {name: getattr(state, name) for name in ("pc", "npc", "ccr", "y", "pstate", "tl", "tba", "pil")}
        named |= {f"g{n}": register.value for n, register in enumerate(self._g)}
        window = state.cwp * WINDOW_REGISTERS
        for kind, first in (("o", 0), ("l", 8), ("i", -WINDOW_REGISTERS)):
            named |= {f"{kind}{n}": state.windows[(window + first + n) % len(state.windows)] for n in range(8)}
        windowed = ("cwp", "cansave", "canrestore", "otherwin", "cleanwin", "wstate")
        return named | {name: getattr(state, name) for name in (*windowed, "asi", "fprs", "fsr", "gsr")}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> Sparc64State:
        """Read every register; bits that a guest wrote and no CPU has are left out."""
        fields = self._fields
        banks = [bank.tolist() for bank in self._banks]
        banks[self._bank()] = [register.value for register in self._g]
        for bank in banks:
            bank[0] = 0
        return Sparc64State(
            **{name: fields[name].value & _mask(name) for name in (*PLAIN, "fsr", "pstate")},
            trap_stack=self._lists["trap_stack"].tolist(),
            immu=self._lists["immu"].tolist(),
            dmmu=self._lists["dmmu"].tolist(),
            itlb=self._lists["itlb"].tolist(),
            dtlb=self._lists["dtlb"].tolist(),
            scratch=self._lists["scratch"].tolist(),
            ivec=self._lists["ivec"].tolist(),
            pc=self.engine.pc,
            globals=[value for bank in banks for value in bank],
            windows=self._save_windows(),
            f=[register.value for register in self._f],
            cwp=(WINDOWS - 1 - fields["cwp"].value) % WINDOWS,
            cansave=min(fields["cansave"].value, CANSAVE_MAX),
            ccr=int(self._get_ccr(self.engine.env)) & 0xFF,
            tl=fields["tl"].value % TRAP_LEVELS,
            asleep=self.engine.halted,
        )

    def _save_windows(self) -> list[int]:
        """All windows in the architecture's order, which is not the library's."""
        registers = [register.value for register in self._windows]
        if self._fields["cwp"].value == WINDOWS - 1:
            registers[:OUTS] = registers[-OUTS:]  # where the library has them as long as this is the window
        windows = [registers[n * WINDOW_REGISTERS :][:WINDOW_REGISTERS] for n in range(WINDOWS)]
        return [value for window in reversed(windows) for value in window]

    def load(self, state: Sparc64State) -> None:
        """Write every register."""
        env, fields = self.engine.env, self._fields
        self._set_cwp(env, 0)
        for cwp in range(WINDOWS):
            first, at = (WINDOWS - 1 - cwp) * WINDOW_REGISTERS, cwp * WINDOW_REGISTERS
            for offset in range(WINDOW_REGISTERS):
                self._windows[first + offset].value = state.windows[at + offset]
        self._set_cwp(env, WINDOWS - 1 - state.cwp)
        for register, value in zip(self._f, state.f, strict=True):
            register.value = value
        for name, values in self._lists.items():
            for at, value in enumerate(getattr(state, name)):
                values[at] = value
        fields["pstate"].value = state.pstate
        for number, bank in enumerate(self._banks):
            for at in range(GLOBALS):
                bank[at] = state.globals[number * GLOBALS + at]
        for register, value in zip(self._g, self._banks[self._bank()], strict=True):
            register.value = value
        self._put_ccr(env, state.ccr)
        self._load_fsr(env, state.fsr, state.fsr)
        self.engine.pc = state.pc
        for name in (*PLAIN, "fsr", "cansave", "tl"):
            fields[name].value = getattr(state, name)
        self.engine.halted = state.asleep
        self.engine.flush_tlb()

    def _bank(self) -> int:
        """Which set of globals PSTATE has chosen."""
        return BANKS.get(self._fields["pstate"].value & sum(BANKS), 0)


_BITS = {
    "pil": 0xF,
    "asi": 0xFF,
    "canrestore": 7,
    "otherwin": 7,
    "cleanwin": 7,
    "wstate": 0x3F,
    "fprs": 7,
    "pstate": PSTATE_LEGAL,
}


def _mask(name: str) -> int:
    """The bits that a register has."""
    return _BITS.get(name, (1 << 64) - 1)
