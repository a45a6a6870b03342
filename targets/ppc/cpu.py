"""A PowerPC CPU, 7400 or POWER10: its registers, its exceptions and interrupts.

Unicorn executes instructions and walks page tables; exceptions go to QEMU's own entry code, which is part of the library. It
delivers an interrupt by itself once it is pending and MSR.EE is set. Time base and decrementer are plain registers that stand
still and raise nothing: the board has a timer. (The engine's own read the host's clock through a pointer that is NULL.)
"""

from __future__ import annotations

import ctypes

from emu.clock import Clock
from emu.engine.core import CPU_INTERRUPT_HARD, Engine
from emu.engine.holes import Access
from emu.errors import EngineError
from emu.irq import IrqLine
from targets.ppc.state import STATES, Ppc64State, PpcState

MACHINE_CHECK, HV_EMULATION = 1, 96  # the engine's numbers; the second is an illegal instruction, which becomes a program one
EXTERNAL = 1 << 3  # of the engine's pending interrupts
MSR_EE, MSR_ME, MSR_POW = 1 << 15, 1 << 12, 1 << 18
ROUNDING = 0x7  # FPSCR: RN and NI
EPAPR_MAGIC = 0x6550_4150  # r6 of a kernel that gets a device tree (ePAPR 5.4.1)
MSR_SF, MSR_HV = 1 << 63, 1 << 60
LPCR_EEE, LPCR_HEIC = 1 << 14, 1 << 4  # an external interrupt ends STOP, and does not interrupt the hypervisor


class PpcCpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    def __init__(self, engine: Engine, _clock: Clock) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.STATE = STATES[engine.isa]
        self._model = model = self.STATE.MODEL
        self._words = {name: engine.field(name) for name in model.words}
        self._lists = {name: [engine.field(f"{name}{n}") for n in range(count)] for name, count in model.lists.items()}
        self._sprs = {name: engine.field(f"spr{number}") for name, number in model.sprs.items()}
        self._vectors = [engine.field(f"vector{n}") for n in range(102)]
        self._msr = engine.field("msr")
        self._fpscr = engine.field("fpscr")
        self._pending = engine.field("pending_interrupts")
        self._wide = bool(model.all_bits >> 32)
        word, pointer = ctypes.c_uint64 if self._wide else ctypes.c_uint32, ctypes.c_void_p
        u32, u64 = ctypes.c_uint32, ctypes.c_uint64
        self._do_interrupt = engine.function("ppc_cpu_do_interrupt", None, pointer)
        self._store_msr = engine.function("ppc_store_msr", None, pointer, word)
        self._store_fpscr = engine.function("helper_store_fpscr", None, pointer, u64, u32)
        self._store_vscr = engine.function("helper_mtvscr", None, pointer, u32)
        self._load_vscr = engine.function("helper_mfvscr", u32, pointer)
        if self._wide:
            self._store_slb = engine.function("ppc_store_slb", ctypes.c_int, pointer, u64, u64, u64)
        self._stop_time()
        self.interrupt = IrqLine(self._interrupt)
        engine.on_exception(self._exception)
        engine.on_unmapped(self._bus_error)
        self._power_on = self.save()

    def _stop_time(self) -> None:
        """Have what would count read and written as SPRG0, by those who may."""
        plain, nobody = self._model.sprs["SPRG0"], self.engine.field(f"user_read{self._model.sprs['SPRG0']}").value
        for name in self._model.time:
            for who in ("user_", "", "hyper_"):
                for access in ("read", "write"):
                    callback = self.engine.field(f"{who}{access}{self._model.sprs[name]}")
                    if callback.value not in (0, nobody):
                        callback.value = self.engine.field(f"{access}{plain}").value

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU saves power and there is no interrupt it can take."""
        return self.engine.halted and not (self._pending.value & EXTERNAL and self._wakes())

    def _wakes(self) -> bool:
        """Whether an external interrupt ends the sleep that the CPU is in."""
        if not self._wide:
            return bool(self._msr.value & MSR_EE)
        lpcr = self._sprs["LPCR"].value
        return not self._words["resume_as_sreset"].value or bool(lpcr & LPCR_EEE and not lpcr & LPCR_HEIC)

    def run(self) -> None:
        """Run one slice."""
        self.engine.run()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    # targets.goldfish.GoldfishCpu

    def enter(self, pc: int, tree: int) -> None:
        """Start a kernel as ePAPR has it: the device tree's address in r3, exception vectors from 0 on."""
        self._store_msr(self.engine.env, (MSR_SF | MSR_HV) & self._model.msr_bits)
        self._words["pc"].value = pc
        self._lists["r"][3].value = tree
        self._lists["r"][6].value = EPAPR_MAGIC

    def _interrupt(self, level: bool) -> None:
        self._pending.value = EXTERNAL if level else 0
        if level:
            self.engine.set_request(CPU_INTERRUPT_HARD, True)
            self.engine.kick()

    def _exception(self, number: int) -> None:
        if number != HV_EMULATION and self._vectors[number].value == self._model.all_bits:
            raise EngineError(f"CPU cannot go on at pc {self.engine.pc:#x}: exception {number} has no vector")
        if not self.engine.deliver(number, self._do_interrupt):
            raise EngineError(f"CPU cannot go on at pc {self.engine.pc:#x}: exception {number} has no way in")

    def _bus_error(self, access: Access, address: int) -> int:
        """The exception for an access to a physical address where there is nothing; without MSR.ME the CPU stops for good."""
        if not self._msr.value & MSR_ME:
            raise EngineError(
                f"CPU cannot go on at pc {self.engine.pc:#x}: checkstop, a {access.value} at physical address {address:#x}, "
                "where nothing is, while MSR.ME is 0"
            )
        return MACHINE_CHECK

    # Registers and state

    def read(self, number: int) -> int:
        """General register `number`."""
        return int(self._lists["r"][number].value)

    def write(self, number: int, value: int) -> None:
        """Write general register `number`."""
        self._lists["r"][number].value = value

    def read_spr(self, name: str) -> int:
        """A special purpose register."""
        return int(self._sprs[name].value)

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        named = {name: field.value for name, field in self._words.items()} | {"msr": self._msr.value}
        named |= {f"{name}{n}": field.value for name, fields in self._lists.items() for n, field in enumerate(fields)}
        return named | {name: field.value for name, field in self._sprs.items()}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> PpcState | Ppc64State:
        """Read every register."""
        state = self.STATE(
            msr=self._msr.value,
            sprs=[field.value for field in self._sprs.values()],
            fpscr=self._fpscr.value,
            vscr=self._load_vscr(self.engine.env),
            asleep=self.engine.halted,
        )
        for name, field in self._words.items():
            setattr(state, name, field.value)
        for name, fields in self._lists.items():
            setattr(state, name, [field.value for field in fields])
        return state

    def load(self, state: PpcState | Ppc64State) -> None:
        """Write every register."""
        for name, field in self._words.items():
            field.value = getattr(state, name)
        for name, fields in self._lists.items():
            for field, value in zip(fields, getattr(state, name), strict=True):
                field.value = value
        for field, value in zip(self._sprs.values(), state.sprs, strict=True):
            field.value = value
        if isinstance(state, Ppc64State):
            for slot, (esid, vsid) in enumerate(zip(state.slb_esid, state.slb_vsid, strict=True)):
                self._store_slb(self.engine.cpu, slot, esid, vsid)  # which finds the sizes of its pages
        self._fpscr.value = 0
        self._store_fpscr(self.engine.env, state.fpscr & ROUNDING, 1)  # without the enables: they could be an exception
        self._fpscr.value = state.fpscr
        self._store_vscr(self.engine.env, state.vscr)
        self._msr.value = self._msr.value & ~MSR_HV | state.msr & MSR_HV  # which the next line leaves as it is
        self._store_msr(self.engine.env, state.msr & ~MSR_POW)  # POW would put the CPU to sleep
        self._msr.value = state.msr
        self.engine.halted = state.asleep
        self.engine.flush_tlb()
