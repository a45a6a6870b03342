"""A MIPS CPU: its registers, its exceptions and interrupts.

Unicorn executes instructions; exceptions go to QEMU's own entry code, which is part of the library. It looks for interrupts in
Cause and Status itself. Count stands still in this engine and Compare raises nothing: the board has a timer.
"""

from __future__ import annotations

import ctypes

from emu.clock import Clock
from emu.engine.core import Engine
from emu.engine.holes import Access
from emu.irq import IrqLine
from targets.mips.state import CP0, STATES, Mips64State, Mode

IBE, DBE = 15, 28  # the engine's numbers of the bus errors, on a fetch and on data
BUS_ERROR = {Access.FETCH: IBE, Access.LOAD: DBE, Access.STORE: DBE}
PENDING = 0xFF00  # Cause.IP and Status.IM
INTERRUPT = 1 << 10  # Cause.IP2: the first interrupt line
KSEG0 = 0x8000_0000
UNMAPPED = 0x1FFF_FFFF  # the bits of a kseg0 address that are physical
WAIT_WAKES = 1 << 16  # Config7.WII: WAIT ends at an interrupt that Status.IE holds back
FCSR = 31
FCSR_CAUSE = 0x3F << 12
TLB_WINDOW = ("Index", "EntryHi", "PageMask", "EntryLo0", "EntryLo1")  # what TLBR and TLBWI go through
DEVICE_TREE = -2  # a0 of a kernel that gets one (UHI reference manual)


class MipsCpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    def __init__(self, engine: Engine, _clock: Clock) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.STATE = STATES[engine.isa]
        self._model = self.STATE.MODEL
        self._r = [engine.field(f"r{n}") for n in range(32)]
        self._hi = [engine.field(f"hi{n}") for n in range(4)]
        self._lo = [engine.field(f"lo{n}") for n in range(4)]
        self._f = [engine.field(f"f{n}") for n in range(32)]
        self._cp0 = {name: engine.field(name) for name in CP0}
        self._named = {name: engine.field(name) for name in ("pc", "dsp_control", "btarget", "bcond", "lladdr", "llval")}
        self._fcsr, self._random = engine.field("fcsr"), engine.field("Random")
        self._hflags = engine.field("hflags")
        self._status, self._cause = self._cp0["Status"], self._cp0["Cause"]
        word = ctypes.c_uint64 if self._model.all_bits >> 32 else ctypes.c_uint32
        self._do_interrupt = engine.function("mips_cpu_do_interrupt", None, ctypes.c_void_p)
        self._store_status = engine.function("cpu_mips_store_status", None, ctypes.c_void_p, word)
        self._store_fcsr = engine.function("helper_ctc1", None, ctypes.c_void_p, word, ctypes.c_uint32, ctypes.c_uint32)
        self._read_tlb = engine.function("r4k_helper_tlbr", None, ctypes.c_void_p)
        self._write_tlb = engine.function("r4k_helper_tlbwi", None, ctypes.c_void_p)
        self.interrupt = IrqLine(self._interrupt)
        self._cp0["EBase"].value &= ~0x3FF  # the CPU's number, which the engine counts from -1
        engine.field("Config7").value |= WAIT_WAKES
        engine.on_exception(self._exception)
        engine.on_unmapped(self._bus_error)
        engine.set_interrupt(True)
        self._power_on = self.save()

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU is in WAIT and no interrupt that Status.IM lets through is pending."""
        return self.engine.halted and not self._cause.value & self._status.value & PENDING

    def run(self) -> None:
        """Run one slice."""
        self.engine.run()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    # targets.goldfish.GoldfishCpu

    def enter(self, pc: int, tree: int) -> None:
        """Start a kernel as after reset (Status.ERL: kuseg is physical memory), the device tree's kseg0 address in a1."""
        self._named["pc"].value = pc
        self._r[4].value = DEVICE_TREE
        self._r[5].value = tree + KSEG0 - (1 << 32)  # sign-extended

    def _interrupt(self, level: bool) -> None:
        self._cause.value = self._cause.value | INTERRUPT if level else self._cause.value & ~INTERRUPT
        if level:
            self.engine.kick()

    def _exception(self, _number: int) -> None:
        self._do_interrupt(self.engine.cpu)

    def _bus_error(self, access: Access, _address: int) -> int:
        """The exception for an access to a physical address where there is nothing; BadVAddr stays (6.2.23)."""
        return BUS_ERROR[access]

    # Registers and state

    def read(self, number: int) -> int:
        """General register `number`."""
        return int(self._r[number].value)

    def write(self, number: int, value: int) -> None:
        """Write general register `number`."""
        self._r[number].value = value

    def read_cp0(self, name: str) -> int:
        """A register of coprocessor 0."""
        return int(self._cp0[name].value)

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        named = {"pc": self.engine.pc}
        named |= {f"r{n}": self.read(n) for n in range(32)}
        named |= {"hi": self._hi[0].value, "lo": self._lo[0].value}
        return named | {name: field.value for name, field in self._cp0.items()}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> Mips64State:
        """Read every register."""
        tlb = self._save_tlb()
        return self.STATE(
            **{name: field.value for name, field in self._named.items()},
            r=[field.value for field in self._r],
            hi=[field.value for field in self._hi],
            lo=[field.value for field in self._lo],
            f=[field.value for field in self._f],
            fcsr=self._fcsr.value,
            cp0=[self._cp0[name].value & self._model.bits[name] for name in CP0],
            mode=self._hflags.value & Mode.ALL,
            tlb_entry_hi=[entry["EntryHi"] for entry in tlb],
            tlb_page_mask=[entry["PageMask"] for entry in tlb],
            tlb_entry_lo0=[entry["EntryLo0"] for entry in tlb],
            tlb_entry_lo1=[entry["EntryLo1"] for entry in tlb],
            asleep=self.engine.halted,
            random=self._random.value,
        )

    def load(self, state: Mips64State) -> None:
        """Write every register."""
        tlb = zip(state.tlb_entry_hi, state.tlb_page_mask, state.tlb_entry_lo0, state.tlb_entry_lo1, strict=True)
        for index, entry in enumerate(tlb):
            for name, value in zip(TLB_WINDOW, (index, *entry), strict=True):
                self._cp0[name].value = value
            self._write_tlb(self.engine.env)
        for name, value in zip(CP0, state.cp0, strict=True):
            self._cp0[name].value = self._cp0[name].value & ~self._model.bits[name] | value
        for name, field in self._named.items():
            field.value = getattr(state, name)
        for fields, values in ((self._r, state.r), (self._hi, state.hi), (self._lo, state.lo), (self._f, state.f)):
            for field, value in zip(fields, values, strict=True):
                field.value = value
        self._store_fcsr(self.engine.env, state.fcsr & ~FCSR_CAUSE, FCSR, 0)  # a cause that is enabled would be an exception
        self._fcsr.value, self._random.value = state.fcsr, state.random
        self._hflags.value = state.mode
        self._store_status(self.engine.env, self._status.value)  # has the engine work out the rest of its hflags
        self.engine.halted = state.asleep
        self.engine.flush_tlb()

    def _save_tlb(self) -> list[dict[str, int]]:
        window = {name: self._cp0[name].value for name in TLB_WINDOW}
        entries: list[dict[str, int]] = []
        for index in range(self._model.tlb):
            self._cp0["Index"].value = index
            self._read_tlb(self.engine.env)
            entries.append({name: self._cp0[name].value for name in TLB_WINDOW})
        for name, value in window.items():
            self._cp0[name].value = value
        return entries
