"""An RV32GC or RV64GC hart: its registers, its traps and interrupts; state.py has what differs by width.

Unicorn executes instructions and checks privileges; delivering exceptions is left to its user, so they go to QEMU's own entry
code, which is part of the library. Interrupts are delivered by the library itself once they are pending in mip.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from emu.clock import Clock
from emu.engine.core import Engine
from emu.engine.holes import Access
from emu.engine.registers import registers
from emu.engine.riscvcounters import count_time
from emu.irq import IrqLine
from targets.riscv.state import MIP_MASK, STATES, Irq, Priv, Riscv64State

TIMEBASE = 10_000_000  # Hz, as QEMU's virt
NS_PER_TICK = 1_000_000_000 // TIMEBASE

ACCESS_FAULT = {Access.FETCH: 1, Access.LOAD: 5, Access.STORE: 7}
ECALL = 8  # exception number of ECALL in every mode; QEMU's entry code makes it 8, 9 or 11 by privilege

FCSR = 0x003

# The names of the calling convention (RISC-V ABIs Specification, 1).
_SAVED, _ARGUMENTS = [f"s{n}" for n in range(2, 12)], [f"a{n}" for n in range(8)]
X_NAMES = ["zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", *_ARGUMENTS, *_SAVED, "t3", "t4", "t5", "t6"]
F_NAMES = [f"f{name}" for name in ("t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "s0", "s1", *_ARGUMENTS, *_SAVED)]
F_NAMES += ["ft8", "ft9", "ft10", "ft11"]

_ReadTime = ctypes.CFUNCTYPE(ctypes.c_uint64)


class RiscvCpu:
    """One hart on the engine. Runs on the vCPU thread, `stop` apart."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.on_supervisor_call: Callable[[], None] | None = None  # firmware of our own; None: the trap goes to M-mode
        self.STATE = STATES[engine.isa]
        self.width = self.STATE.WIDTH
        ids = registers(engine.isa)
        self._x = [ids[f"x{n}"] for n in range(32)]
        self._f = [engine.field(f"f{n}") for n in range(32)]
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
        count_time(engine.layout.suffix, engine.layout.env["time"][0], NS_PER_TICK, wide=self.width.xlen == 64)
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
        """Have the `time` CSR show what `ticks` returns, in ticks of the timebase, modulo 2^64; guest time until told.

        The cycle and instret counters show the same in nanoseconds.
        """
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
        self._access_csr(number, value, self.width.all_bits)

    def _access_csr(self, number: int, value: int, mask: int) -> None:
        # In M-mode: mstatus.TVM hides satp from S-mode even on this path.
        priv, self._priv.value = self._priv.value, Priv.M
        self._csrrw(self.engine.env, number, ctypes.addressof(self._csr_value), value, mask)
        self._priv.value = priv

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        named = {"pc": self.pc, "priv": int(self.priv)}
        named |= {f"x{n}/{name}": self.read(n) for n, name in enumerate(X_NAMES)}
        named |= {name: self.read_csr(number) for name, number in self.width.csrs.items()}
        named |= {"mip": self._mip.value, "fcsr": self.read_csr(FCSR)}
        return named | {f"f{n}/{name}": field.value for (n, name), field in zip(enumerate(F_NAMES), self._f, strict=True)}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> Riscv64State:
        """Read every register."""
        return self.STATE(
            pc=self.pc,
            x=[self.read(n) for n in range(32)],
            f=[field.value for field in self._f],
            fcsr=self.read_csr(FCSR),
            priv=int(self.priv),
            mip=self._mip.value & MIP_MASK,
            csrs=[self.read_csr(number) for number in self.width.csrs.values()],
            reservation=self._reservation.value,
            reserved_value=self._reserved_value.value,
            asleep=self.engine.halted,
        )

    def load(self, state: Riscv64State) -> None:
        """Write every register."""
        self.write_csr(FCSR, state.fcsr)  # before mstatus: it marks the floating point state dirty
        for number, value in zip(self.width.csrs.values(), state.csrs, strict=True):
            self.write_csr(number, value)
        for number in range(1, 32):
            self.write(number, state.x[number])
        for field, value in zip(self._f, state.f, strict=True):
            field.value = value
        self._update_mip(self.engine.cpu, MIP_MASK, state.mip)
        self._reservation.value = state.reservation
        self._reserved_value.value = state.reserved_value
        self.engine.halted = state.asleep
        self.pc = state.pc
        self.priv = Priv(state.priv)
        self.engine.flush_tlb()
