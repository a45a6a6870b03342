"""An RV64GC hart: its registers, its state in a stream, its traps and interrupts.

Unicorn executes instructions and checks privileges; delivering exceptions is left to its user, so they go to QEMU's own entry
code, which is part of the library. Interrupts are delivered by the library itself once they are pending in mip.
Privileged architecture 1.10 with PMP; no Sstc, no AIA, no hypervisor extension.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.clock import Clock
from emu.engine.core import Engine
from emu.engine.holes import Access
from emu.engine.registers import registers
from emu.errors import StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, u8, u32, u64, u64s

TIMEBASE = 10_000_000  # Hz, as QEMU's virt
NS_PER_TICK = 1_000_000_000 // TIMEBASE


class Priv(IntEnum):
    """Privilege modes (privileged spec 1.2)."""

    U = 0
    S = 1
    M = 3


class Irq(IntEnum):
    """Bits of mip and mie (3.1.9)."""

    SSIP = 1
    MSIP = 3
    STIP = 5
    MTIP = 7
    SEIP = 9
    MEIP = 11


ACCESS_FAULT = {Access.FETCH: 1, Access.LOAD: 5, Access.STORE: 7}
ECALL = 8  # exception number of ECALL in every mode; QEMU's entry code makes it 8, 9 or 11 by privilege

# Number of every CSR that is saved (table 2.2 ff.). Read and written through the library's own access path, which masks and
# flushes as for a guest's write. In load order: pmpcfg behind pmpaddr, because a locked entry takes no address.
CSRS: dict[str, int] = {
    "mstatus": 0x300,
    "medeleg": 0x302,
    "mideleg": 0x303,
    "mie": 0x304,
    "mtvec": 0x305,
    "mcounteren": 0x306,
    "mscratch": 0x340,
    "mepc": 0x341,
    "mcause": 0x342,
    "mtval": 0x343,
    "stvec": 0x105,
    "scounteren": 0x106,
    "sscratch": 0x140,
    "sepc": 0x141,
    "scause": 0x142,
    "stval": 0x143,
    "satp": 0x180,
    **{f"pmpaddr{n}": 0x3B0 + n for n in range(16)},
    "pmpcfg0": 0x3A0,  # pmpcfg2 takes no writes in this engine: entries 8 to 15 stay off
}

# Bits a CSR can have set; others would be dropped on load, so a state that has them is not one of ours.
LEGAL: dict[str, int] = {
    "mstatus": 0x8000_00C0_601E_79AA,
    "medeleg": 0xB0_BFFF,
    "mideleg": 0x666,
    "mie": 0xEEE,
    "mtvec": ~0x2,
    "stvec": ~0x2,
}
SATP_MODES = (0, 8, 9, 10)  # bare, Sv39, Sv48, Sv57
FCSR = 0x003
ALL_BITS = (1 << 64) - 1

_ReadTime = ctypes.CFUNCTYPE(ctypes.c_uint64)

MIP_MASK = 0xFFF  # the bits that may be set at all
MIP_BITS = sum(1 << bit for bit in Irq)


@dataclass(slots=True, kw_only=True)
class RiscvState(State):
    """Everything a guest can see of its hart. Not saved: cycle and instret counters, which Unicorn takes from the host."""

    VMSTATE: ClassVar[VMState] = VMState("riscv64-cpu", version=1, minimum=1)
    pc: int = u64()
    x: list[int] = u64s(32)
    f: list[int] = u64s(32)
    fcsr: int = u32(max=0xFF)
    priv: int = u8(Priv.M, max=Priv.M)
    mip: int = u64(max=MIP_MASK)
    csrs: list[int] = u64s(len(CSRS))
    reservation: int = u64((1 << 64) - 1)  # LR's address, all ones when there is none
    reserved_value: int = u64()
    asleep: bool = flag()  # in WFI

    def check(self) -> None:
        """Modes that do not exist would end the process inside the library."""
        if self.priv not in tuple(Priv):
            raise StateError(f"riscv64-cpu.priv is {self.priv}, must be 0, 1 or 3")
        if self.x[0]:
            raise StateError(f"riscv64-cpu.x[0] is {self.x[0]:#x}, must be 0")
        for name, value in zip(CSRS, self.csrs, strict=True):
            if value & ~LEGAL.get(name, ALL_BITS):
                raise StateError(f"riscv64-cpu.{name} is {value:#x}, must be within {LEGAL[name] & ALL_BITS:#x}")
        satp = self.csrs[list(CSRS).index("satp")]
        if satp >> 60 not in SATP_MODES:
            raise StateError(f"riscv64-cpu.satp has mode {satp >> 60}, must be one of {SATP_MODES}")
        if self.mip & ~MIP_BITS:
            raise StateError(f"riscv64-cpu.mip is {self.mip:#x}, must be within {MIP_BITS:#x}")


class RiscvCpu:
    """One hart on the engine. Runs on the vCPU thread, `stop` apart."""

    STATE: ClassVar[type[State]] = RiscvState

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.on_supervisor_call: Callable[[], None] | None = None  # firmware of our own; None: the trap goes to M-mode
        ids = registers("riscv64")
        self._x = [ids[f"x{n}"] for n in range(32)]
        self._f = [ids[f"f{n}"] for n in range(32)]
        self._pc = engine.field("pc")
        self._priv = engine.field("priv")
        self._mip = engine.field("mip")
        self._mie = engine.field("mie")
        self._reservation = engine.field("load_res")
        self._reserved_value = engine.field("load_val")
        self._do_interrupt = engine.function("riscv_cpu_do_interrupt", None, ctypes.c_void_p)
        self._update_mip = engine.function(
            "riscv_cpu_update_mip", ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32
        )
        self._set_rdtime = engine.function("riscv_cpu_set_rdtime_fn", None, ctypes.c_void_p, _ReadTime)
        self.show_time(lambda: clock.now() // NS_PER_TICK)
        self._csr_value = ctypes.c_uint64()
        u64 = ctypes.c_uint64
        self._csrrw = engine.function(
            "riscv_csrrw_debug", ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, u64, u64
        )
        self._bad_address = engine.field("badaddr")
        engine.on_exception(self._exception)
        engine.on_unmapped(self._access_fault)
        self._power_on = self.save()

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the hart is in WFI with no interrupt pending that mie lets through (3.3.3)."""
        return self.engine.halted and not self._mip.value & self._mie.value

    def run(self) -> None:
        """Run one slice."""
        self.engine.run()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    @property
    def pc(self) -> int:
        """The program counter."""
        return int(self._pc.value)

    @pc.setter
    def pc(self, value: int) -> None:
        self._pc.value = value

    @property
    def priv(self) -> Priv:
        """The privilege mode."""
        return Priv(self._priv.value)

    @priv.setter
    def priv(self, value: Priv) -> None:
        self._priv.value = value

    def show_time(self, ticks: Callable[[], int]) -> None:
        """Have the `time` CSR show what `ticks` returns, in ticks of the timebase, modulo 2^64; guest time until told."""
        self._rdtime = _ReadTime(ticks)  # the library points to it
        self._set_rdtime(self.engine.env, self._rdtime)

    # Interrupts

    def line(self, irq: Irq) -> IrqLine:
        """The wire that makes `irq` pending."""
        return IrqLine(lambda level: self.set_pending(irq, level))

    def set_pending(self, irq: Irq, level: bool) -> None:
        """Set or clear one bit of mip."""
        bit = 1 << irq
        self._update_mip(self.engine.cpu, bit, bit if level else 0)
        if level:
            self.engine.kick()

    def is_pending(self, irq: Irq) -> bool:
        """Whether the bit is set in mip."""
        return bool(self._mip.value >> irq & 1)

    def _exception(self, number: int) -> None:
        if number == ECALL and self.on_supervisor_call is not None and self._priv.value == Priv.S:
            self.on_supervisor_call()
            self._pc.value += 4
            return
        self._do_interrupt(self.engine.cpu)

    def _access_fault(self, access: Access, address: int) -> int:
        """The exception for an access to a physical address where there is nothing (table 3.6).

        stval gets the physical address, which is all the engine knows; the specification allows 0 as well.
        """
        self._bad_address.value = address
        return ACCESS_FAULT[access]

    # Registers and state

    def read(self, number: int) -> int:
        """Integer register x`number`."""
        return self.engine.read_register(self._x[number])

    def write(self, number: int, value: int) -> None:
        """Write integer register x`number`."""
        self.engine.write_register(self._x[number], value)

    def read_csr(self, number: int) -> int:
        """A CSR as M-mode sees it; 0 when it does not exist."""
        self._csr_value.value = 0
        self._access_csr(number, 0, 0)
        return int(self._csr_value.value)

    def write_csr(self, number: int, value: int) -> None:
        """Write a CSR as M-mode would."""
        self._access_csr(number, value, ALL_BITS)

    def _access_csr(self, number: int, value: int, mask: int) -> None:
        # In M-mode: mstatus.TVM hides satp from S-mode even on this path.
        priv, self._priv.value = self._priv.value, Priv.M
        self._csrrw(self.engine.env, number, ctypes.addressof(self._csr_value), value, mask)
        self._priv.value = priv

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        named = {"pc": self.pc, "priv": self.priv}
        named |= {f"x{n}": self.read(n) for n in range(32)}
        named |= {name: self.read_csr(number) for name, number in CSRS.items()}
        return named | {"mip": self._mip.value}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> RiscvState:
        """Read every register."""
        return RiscvState(
            pc=self.pc,
            x=[self.read(n) for n in range(32)],
            f=[self.engine.read_register(f) for f in self._f],
            fcsr=self.read_csr(FCSR),
            priv=int(self.priv),
            mip=self._mip.value & MIP_MASK,
            csrs=[self.read_csr(number) for number in CSRS.values()],
            reservation=self._reservation.value,
            reserved_value=self._reserved_value.value,
            asleep=self.engine.halted,
        )

    def load(self, state: RiscvState) -> None:
        """Write every register."""
        self.write_csr(FCSR, state.fcsr)  # before mstatus: it marks the floating point state dirty
        for number, value in zip(CSRS.values(), state.csrs, strict=True):
            self.write_csr(number, value)
        for number in range(1, 32):
            self.write(number, state.x[number])
        for register, value in zip(self._f, state.f, strict=True):
            self.engine.write_register(register, value)
        self._update_mip(self.engine.cpu, MIP_MASK, state.mip)
        self._reservation.value = state.reservation
        self._reserved_value.value = state.reserved_value
        self.engine.halted = state.asleep
        self.pc = state.pc
        self.priv = Priv(state.priv)
        self.engine.flush_tlb()
