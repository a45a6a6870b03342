"""A LEON3: its registers, its state in a stream, its traps and interrupts.

QEMU's entry code, which is part of the library, enters traps; the library takes interrupts by itself when their level is above
PSR.PIL and traps are enabled. Chapter and figure numbers are those of The SPARC Architecture Manual, Version 8.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar

from emu.engine.core import Engine
from emu.engine.holes import Access
from emu.errors import EngineError, StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, u32, u32s, u64s

WINDOWS = 8
WINDOW_REGISTERS = 16  # outs and locals; the ins are the outs of the next window
OUTS = 8

INSTRUCTION_ACCESS, DATA_ACCESS = 0x01, 0x09  # trap types (table 7-1)
INTERRUPT_LEVEL = 8  # of the board's only line
INTERRUPT_TRAP = 0x10

# PSR (figure 4-3)
PSR_CWP = 0x1F
PSR_LEGAL = 0xFFF0_1FFF  # impl, ver, icc; EF, PIL, S, PS, ET, CWP

# SRMMU fault status (H.6): access type, fault type, the address is valid
FSR_SUPERVISOR, FSR_FETCH, FSR_STORE = 1 << 5, 1 << 6, 1 << 7
FSR_BUS_ERROR, FSR_ADDRESS_VALID = 5 << 2, 1 << 1
MMU_FAULT_STATUS, MMU_FAULT_ADDRESS = 3, 4

PLAIN = ("npc", "y", "wim", "tbr", "cache_control")


@dataclass(slots=True, kw_only=True)
class SparcState(State):
    """Everything a guest can see of its CPU. The level of the interrupt line comes with its controller."""

    VMSTATE: ClassVar[VMState] = VMState("sparc-cpu", version=1, minimum=1)
    pc: int = u32()
    npc: int = u32(4)  # not behind the pc in a delay slot
    g: list[int] = u32s(8)
    windows: list[int] = u32s(WINDOWS * WINDOW_REGISTERS)  # o0..o7, l0..l7 of window 0, then of window 1, ...
    f: list[int] = u64s(16)  # pairs, the even register in the upper half
    psr: int = u32(max=PSR_LEGAL)
    wim: int = u32(max=(1 << WINDOWS) - 1)
    tbr: int = u32()
    y: int = u32()
    fsr: int = u32()
    mmu: list[int] = u32s(32)
    cache_control: int = u32()
    asleep: bool = flag()  # in power-down

    def check(self) -> None:
        """A window that does not exist would be memory of the process."""
        if self.psr & PSR_CWP >= WINDOWS:
            raise StateError(f"sparc-cpu.psr has window {self.psr & PSR_CWP}, there are {WINDOWS}")
        if self.psr & ~PSR_LEGAL:
            raise StateError(f"sparc-cpu.psr is {self.psr:#x}, must be within {PSR_LEGAL:#x}")
        if self.g[0]:
            raise StateError(f"sparc-cpu.g[0] is {self.g[0]:#x}, must be 0")


class SparcCpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    STATE: ClassVar[type[State]] = SparcState

    def __init__(self, engine: Engine) -> None:
        self.name = "cpu0"
        self.engine = engine
        names = (*PLAIN, "fsr", "cwp", "psret", "psrpil", "psrs", "interrupt_index")
        self._fields = {name: engine.field(name) for name in names}
        self._g = [engine.field(f"g{n}") for n in range(8)]
        self._f = [engine.field(f"f{n}") for n in range(16)]
        self._mmu = [engine.field(f"mmu{n}") for n in range(32)]
        self._windows = [engine.field(f"w{n}") for n in range(WINDOWS * WINDOW_REGISTERS + OUTS)]
        pointer, u32 = ctypes.c_void_p, ctypes.c_uint32
        self._do_interrupt = engine.function("sparc_cpu_do_interrupt", None, pointer)
        self._get_psr = engine.function("cpu_get_psr", u32, pointer)
        self._put_psr = engine.function("cpu_put_psr", None, pointer, u32)
        self._set_cwp = engine.function("cpu_set_cwp", None, pointer, ctypes.c_int)
        self._load_fsr = engine.function("helper_ldfsr", u32, pointer, u32, u32)
        self.interrupt = IrqLine(self._set_interrupt)
        engine.on_exception(self._exception)
        engine.on_unmapped(self._access_fault)
        self._power_on = self.save()

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU is in power-down with no interrupt above PSR.PIL: one wakes it even while traps are off."""
        if not self.engine.halted:
            return False
        return not self._fields["interrupt_index"].value or self._fields["psrpil"].value >= INTERRUPT_LEVEL

    def run(self) -> None:
        """Run one slice."""
        self.engine.run()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    # targets.goldfish.GoldfishCpu

    def enter(self, pc: int, tree: int) -> None:
        """As after a reset, traps off, with the device tree's address in o0."""
        self.engine.pc = pc
        self._windows[self._fields["cwp"].value * WINDOW_REGISTERS].value = tree

    # Interrupts and traps

    def _set_interrupt(self, level: bool) -> None:
        self._fields["interrupt_index"].value = INTERRUPT_TRAP + INTERRUPT_LEVEL if level else 0
        self.engine.set_interrupt(level)

    def _exception(self, number: int) -> None:
        """Enter trap `number`; a trap while traps are off puts the CPU in error mode until it is reset (chapter 7, Traps)."""
        if not self._fields["psret"].value:
            raise EngineError(f"CPU in error mode at pc {self.engine.pc:#x}: trap {number:#x} while traps are off")
        self.engine.deliver(number, self._do_interrupt)

    def _access_fault(self, access: Access, address: int) -> int:
        """The trap for an access to a physical address where there is nothing; the fault address is the physical one."""
        status = FSR_BUS_ERROR | FSR_ADDRESS_VALID
        status |= {Access.LOAD: 0, Access.FETCH: FSR_FETCH, Access.STORE: FSR_STORE}[access]
        if self._fields["psrs"].value:
            status |= FSR_SUPERVISOR
        self._mmu[MMU_FAULT_STATUS].value = status
        self._mmu[MMU_FAULT_ADDRESS].value = address
        return INSTRUCTION_ACCESS if access is Access.FETCH else DATA_ACCESS

    # Registers and state

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people; the window is the current one."""
        state = self.save()
        named = {"pc": state.pc, "npc": state.npc, "psr": state.psr, "wim": state.wim, "tbr": state.tbr, "y": state.y}
        window = (state.psr & PSR_CWP) * WINDOW_REGISTERS
        named |= {f"g{n}": value for n, value in enumerate(state.g)}
        for kind, first in (("o", 0), ("l", 8), ("i", 16)):
            named |= {f"{kind}{n}": state.windows[(window + first + n) % len(state.windows)] for n in range(8)}
        return named | {"fsr": state.fsr}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> SparcState:
        """Read every register."""
        registers = [register.value for register in self._windows]
        windows, ins_of_last = registers[:-OUTS], registers[-OUTS:]
        if self._fields["cwp"].value == WINDOWS - 1:
            windows[:OUTS] = ins_of_last  # where the library has them as long as this is the window
        return SparcState(
            **{name: self._fields[name].value for name in (*PLAIN, "fsr")},
            pc=self.engine.pc,
            g=[register.value for register in self._g],
            windows=windows,
            f=[register.value for register in self._f],
            psr=self._get_psr(self.engine.env),
            mmu=[register.value for register in self._mmu],
            asleep=self.engine.halted,
        )

    def load(self, state: SparcState) -> None:
        """Write every register."""
        env = self.engine.env
        self._set_cwp(env, 0)
        for registers, values in (
            (self._g, state.g),
            (self._windows[:-OUTS], state.windows),
            (self._f, state.f),
            (self._mmu, state.mmu),
        ):
            for register, value in zip(registers, values, strict=True):
                register.value = value
        self._put_psr(env, state.psr)
        self._load_fsr(env, state.fsr, state.fsr)
        self._fields["fsr"].value = state.fsr
        self.engine.pc = state.pc
        for name in PLAIN:
            self._fields[name].value = getattr(state, name)
        self.engine.halted = state.asleep
        self.engine.flush_tlb()
