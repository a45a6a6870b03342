"""A TriCore 1.3.1 CPU: its registers, its state in a stream, its traps and interrupts.

The library enters the traps that its instructions cause, and leaves interrupts on; the rest of them, interrupts and bus errors
are entered here. Chapter numbers are those of the TriCore V1.3.1 Architecture Manual, volume 1.

What the library does not have: SYSCALL does nothing. There is no protection: neither ranges (DPR, CPR) nor I/O privilege
(PSW.IO) keep anything from anybody. The cycle and instruction counters stand still. An interrupt that ENABLE lets through is
taken at the next jump that is not a plain one, or a millisecond later; under --icount at once.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.clock import Clock
from emu.engine.core import Engine
from emu.engine.counting import Gate
from emu.engine.holes import Access
from emu.errors import EngineError, GuestError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, u32, u32s
from targets.realmemory import Nothing, RealMemory

INTERRUPT_PRIORITY = 1  # of the board's only line
LOOK_AGAIN = 1_000_000  # ns after which the library is made to look at an interrupt that is masked

# PSW (3.3) and ICR (5.3)
PSW_IS, PSW_CDE, PSW_IO_SUPERVISOR = 0x200, 0x80, 0x800
PSW_CLEARED = 0x3D7F  # PRS, IO, GW, CDC of whoever was interrupted
PSW_PLAIN = 0x07FF_FFFF  # all but the status bits
STATUS = {"v": 30, "sv": 29, "av": 28, "sav": 27}  # bits of PSW; C is bit 31
ICR_IE, ICR_CCPN, ICR_PIPN = 0x100, 0xFF, 0xFF_0000

# Context management (4.4): a link has a segment and a number of 64-byte areas in it
LINK = 0xF_FFFF
PCXI_PIE, PCXI_UL = 1 << 23, 1 << 22
UPPER_CONTEXT = struct.Struct("<16I")
UPPER = ("a10", "a11", "d8", "d9", "d10", "d11", "a12", "a13", "a14", "a15", "d12", "d13", "d14", "d15")
SYSCON_FCDSF = 1

VECTOR = 5  # log2 of the bytes between two vectors
TRAP_VECTORS = 0xE0  # the bits of BTV that a trap's class goes into
PLAIN = ("pcxi", "syscon", "biv", "btv", "isp", "icr", "fcx", "lcx", "compat")
LISTS = ("protection", "mmu", "integrity", "debug")


class Trap(IntEnum):
    """Classes of traps (6.2)."""

    CONTEXT = 3
    BUS = 4


class ContextTrap(IntEnum):
    """Identification numbers of class 3."""

    FREE_LIST_DEPLETED = 1  # FCD
    FREE_LIST_UNDERFLOW = 4  # FCU


BUS_ERRORS = {Access.FETCH: 1, Access.LOAD: 2, Access.STORE: 3}  # PSE, DSE, DAE: identification numbers of class 4


@dataclass(slots=True, kw_only=True)
class TriCoreState(State):
    """Everything a guest can see of its CPU. The level of the interrupt line comes with its controller."""

    VMSTATE: ClassVar[VMState] = VMState("tricore-cpu", version=1, minimum=1)
    pc: int = u32()
    d: list[int] = u32s(16)
    a: list[int] = u32s(16)
    psw: int = u32()  # with the status bits
    pcxi: int = u32()
    syscon: int = u32()
    biv: int = u32()
    btv: int = u32()
    isp: int = u32()
    icr: int = u32()
    fcx: int = u32()
    lcx: int = u32()
    compat: int = u32()
    protection: list[int] = u32s(72)
    mmu: list[int] = u32s(6)
    integrity: list[int] = u32s(9)
    debug: list[int] = u32s(15)
    asleep: bool = flag()  # in idle mode


class TriCoreCpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    STATE: ClassVar[type[State]] = TriCoreState

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.memory: RealMemory = Nothing()  # until its board gives it its own
        names = (*PLAIN, *UPPER, "psw", "psw_c", "trap_depth", *(f"psw_{name}" for name in STATUS))
        self._fields = {name: engine.field(name) for name in names}
        self._d = [engine.field(f"d{n}") for n in range(16)]
        self._a = [engine.field(f"a{n}") for n in range(16)]
        self._lists = {name: engine.view(name).cast("I") for name in LISTS}
        self._psw_write = engine.function("psw_write", None, ctypes.c_void_p, ctypes.c_uint32)
        self._line = self._idle = False
        self._clock = clock
        self._look_again = clock.timer(lambda: None)  # that the slice ends is enough
        self.interrupt = IrqLine(self._set_interrupt)
        engine.on_exception(self._bus_error)
        engine.on_interrupt(self._take_interrupt, Gate(("icr", ICR_IE), ("icr", ICR_CCPN), INTERRUPT_PRIORITY))
        engine.on_resume(self._trap_entered)
        engine.on_unmapped(lambda access, _address: BUS_ERRORS[access])
        self._power_on = self.save()

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU is in idle mode with no interrupt there: one wakes it even while they are off."""
        return self.engine.halted and not self._line

    def run(self) -> None:
        """Run one slice."""
        self._idle = False
        self.engine.run()
        self.engine.halted = self._idle

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    def idle(self) -> None:
        """Enter idle mode at the end of the block under way; in a callback."""
        self._idle = True
        self.engine.end_slice()

    # targets.goldfish.GoldfishCpu

    def enter(self, pc: int, tree: int) -> None:
        """As after a reset, interrupts off, with the device tree's address in a4."""
        self.engine.pc = pc
        self._a[4].value = tree

    # Interrupts and traps

    def _set_interrupt(self, level: bool) -> None:
        if level or self._line:
            self._show_pending(level)
        self._line = level
        self.engine.set_interrupt(level)

    def _show_pending(self, level: bool) -> None:
        icr = self._fields["icr"]
        icr.value = icr.value & ~ICR_PIPN | (INTERRUPT_PRIORITY << 16 if level else 0)

    def _take_interrupt(self) -> bool:
        """Enter the handler, if the interrupt is enabled and of a priority above the current one (5.4)."""
        fields = self._fields
        icr = fields["icr"].value
        if not icr & ICR_IE or icr & ICR_CCPN >= INTERRUPT_PRIORITY:
            if not self.engine.counted and self._look_again.deadline is None:
                self._look_again.arm(self._clock.now() + LOOK_AGAIN)  # ENABLE ends no block
            return False
        self._idle = False
        if self._enter(fields["biv"].value | INTERRUPT_PRIORITY << VECTOR):
            fields["icr"].value = fields["icr"].value & ~ICR_CCPN | INTERRUPT_PRIORITY
        return True

    def _bus_error(self, number: int) -> None:
        """Enter the trap for an access to a physical address where there is nothing."""
        if self._enter(self._vector(Trap.BUS)):
            self._d[15].value = number

    def _trap_entered(self) -> None:
        """Turn interrupts off behind a trap that the library entered: at a vector, and they were on before (6.3.1)."""
        fields = self._fields
        fields["trap_depth"].value = 0
        at_vector = self.engine.pc | TRAP_VECTORS == fields["btv"].value | TRAP_VECTORS
        if at_vector and fields["icr"].value & ICR_IE and fields["pcxi"].value & PCXI_PIE:
            fields["icr"].value &= ~ICR_IE

    def _vector(self, trap: Trap) -> int:
        return self._fields["btv"].value | trap << VECTOR

    def _enter(self, handler: int) -> bool:
        """Save the upper context and go to `handler` (4.5); whether it is that, and not the trap for want of contexts."""
        free = self._fields["fcx"].value & LINK
        if not free:
            self._go(self._vector(Trap.CONTEXT))
            self._d[15].value = ContextTrap.FREE_LIST_UNDERFLOW
            return False
        self._save_upper(free)
        self._go(handler)
        if free != self._fields["lcx"].value & LINK:
            return True
        # The last of them: once it is used, that is told, by a trap that finds some in reserve.
        self._fields["syscon"].value |= SYSCON_FCDSF
        if reserve := self._fields["fcx"].value & LINK:
            self._save_upper(reserve)
        self._go(self._vector(Trap.CONTEXT))
        self._d[15].value = ContextTrap.FREE_LIST_DEPLETED if reserve else ContextTrap.FREE_LIST_UNDERFLOW
        return False

    def _save_upper(self, link: int) -> None:
        fields = self._fields
        area = (link >> 16) << 28 | (link & 0xFFFF) << 6
        icr, pcxi = fields["icr"].value, fields["pcxi"].value
        context = UPPER_CONTEXT.pack(pcxi, self._psw(), *(fields[name].value for name in UPPER))
        try:
            following = int.from_bytes(self.memory.read(area, 4), "little")
            self.memory.write(area, context)
        except GuestError as exc:
            raise EngineError(f"CPU cannot go on at pc {self.engine.pc:#x}: its context save area is not in memory") from exc
        pie = PCXI_PIE if icr & ICR_IE else 0
        fields["pcxi"].value = (icr & ICR_CCPN) << 24 | pie | PCXI_UL | pcxi & 0x30_0000 | link
        fields["fcx"].value = fields["fcx"].value & ~LINK | following & LINK

    def _go(self, handler: int) -> None:
        """To a handler: supervisor, on the interrupt stack, interrupts off."""
        fields, psw = self._fields, self._fields["psw"].value
        fields["a11"].value = self.engine.pc
        if not psw & PSW_IS:
            fields["a10"].value = fields["isp"].value
        fields["psw"].value = psw & ~PSW_CLEARED | PSW_IS | PSW_CDE | PSW_IO_SUPERVISOR
        fields["icr"].value &= ~ICR_IE
        self.engine.pc = handler

    # Registers and state

    def _psw(self) -> int:
        """PSW with the status bits. Not by the library's own function, which loses a bit of the rounding mode."""
        fields = self._fields
        psw = fields["psw"].value & PSW_PLAIN | bool(fields["psw_c"].value) << 31
        for name, bit in STATUS.items():
            psw |= fields[f"psw_{name}"].value >> 31 << bit
        return psw

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        state = self.save()
        named = {"pc": state.pc, "psw": state.psw}
        for kind, values in (("d", state.d), ("a", state.a)):
            named |= {f"{kind}{n}": value for n, value in enumerate(values)}
        return named | {name: getattr(state, name) for name in PLAIN}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> TriCoreState:
        """Read every register."""
        if self._line:
            self._show_pending(True)  # the library lets MTCR write ICR.PIPN, which is the hardware's (5.3)
        return TriCoreState(
            **{name: self._fields[name].value for name in PLAIN},
            pc=self.engine.pc,
            psw=self._psw(),
            d=[register.value for register in self._d],
            a=[register.value for register in self._a],
            protection=self._lists["protection"].tolist(),
            mmu=self._lists["mmu"].tolist(),
            integrity=self._lists["integrity"].tolist(),
            debug=self._lists["debug"].tolist(),
            asleep=self.engine.halted,
        )

    def load(self, state: TriCoreState) -> None:
        """Write every register."""
        self._line = False  # until the devices drive it
        for name in PLAIN:
            self._fields[name].value = getattr(state, name)
        for registers, values in ((self._d, state.d), (self._a, state.a)):
            for register, value in zip(registers, values, strict=True):
                register.value = value
        for name, words in self._lists.items():
            for at, value in enumerate(getattr(state, name)):
                words[at] = value
        self._psw_write(self.engine.env, state.psw)
        self.engine.pc = state.pc
        self.engine.halted = state.asleep
        self.engine.flush_tlb()
