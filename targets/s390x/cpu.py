"""A z/Architecture CPU: its registers, its state in a stream, its interruptions.

The library has no entry code for this ISA, so PSWs are swapped here. Section numbers are those of the z/Architecture Principles
of Operation (SA22-7832). The CPU's own timers keep their values and make no interruptions: the board has a timer.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar

from emu.engine.core import Engine
from emu.engine.holes import Access
from emu.errors import EngineError, GuestError, StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, u32, u32s, u64, u64s
from targets.realmemory import Nothing, RealMemory

PSW_EXTERNAL, PSW_WAIT, PSW_64_BIT = 1 << 56, 1 << 49, 0x1_8000_0000  # masks of bits 7, 14, 31 and 32 (4.2)
CR0_SERVICE_SIGNAL = 1 << 9
SERVICE_SIGNAL = 0x2401  # external interruption code (6.4) of the board's only line

SVC, PROGRAM = 2, 3  # exception numbers of the library
ADDRESSING = 5  # program interruption code
# Those that nullify: the instruction is to be executed again (6.2.4.1).
NULLIFYING = {0x10, 0x11, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x2B, 0x2C, 0x38, 0x39, 0x3A, 0x3B}
ILEN_LIMIT = 6  # what the library has beyond that means that it does not know

LOWCORE = 0x2000  # bytes
EXTERNAL_OLD, SVC_OLD, PROGRAM_OLD = 0x130, 0x140, 0x150  # PSWs (3.3.1); the new ones lie behind
OLD_TO_NEW = 0x80
EXTERNAL_CODE, SVC_CODE, PROGRAM_CODE = 0x84, 0x88, 0x8C

FPC_RESERVED = 0x0303_0088
FPC_ROUNDING = (0, 1, 2, 3, 7)

EXECUTE_LENGTHS = (4, 6)  # EXECUTE's, EXECUTE RELATIVE LONG's

PLAIN = ("prefix", "ckc", "cputm", "todpr")


@dataclass(slots=True, kw_only=True)
class S390xState(State):
    """Everything a guest can see of its CPU. The TOD clock stands still at 0."""

    VMSTATE: ClassVar[VMState] = VMState("s390x-cpu", version=2, minimum=1)
    psw_mask: int = u64()  # with the condition code; a CPU that waits has the bit set
    psw_address: int = u64()
    r: list[int] = u64s(16)
    v: list[int] = u64s(64)  # halves; the first of 0 to 15 are the floating point registers
    a: list[int] = u32s(16)
    c: list[int] = u64s(16)
    gscb: list[int] = u64s(4)
    fpc: int = u32()
    prefix: int = u64(max=0x7FFF_E000)
    ckc: int = u64()
    cputm: int = u64()
    todpr: int = u32()
    executed: int = u64(since=2)  # between EXECUTE and the instruction it executes: that one, and EXECUTE's length

    def check(self) -> None:
        """A floating point control word with bits that do not exist would be an exception between two slices."""
        if self.executed and self.executed & 0xF not in EXECUTE_LENGTHS:
            raise StateError(f"s390x-cpu.executed is {self.executed:#x}, must end in one of {EXECUTE_LENGTHS}")
        if self.fpc & FPC_RESERVED or self.fpc & 7 not in FPC_ROUNDING:
            raise StateError(f"s390x-cpu.fpc is {self.fpc:#x}, which has reserved bits or rounding modes")
        if self.prefix % LOWCORE:
            raise StateError(f"s390x-cpu.prefix is {self.prefix:#x}, must be a multiple of {LOWCORE:#x}")


class S390xCpu:
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    STATE: ClassVar[type[State]] = S390xState

    def __init__(self, engine: Engine) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.memory: RealMemory = Nothing()  # until its board gives it its own
        names = (*PLAIN, "fpc", "psw_mask", "ex_value", "pgm_code", "pgm_ilen", "svc_code", "svc_ilen")
        self._fields = {name: engine.field(name) for name in names}
        self._r = [engine.field(f"r{n}") for n in range(16)]
        self._v = [engine.field(f"v{n}") for n in range(64)]
        self._a = [engine.field(f"a{n}") for n in range(16)]
        self._c = [engine.field(f"c{n}") for n in range(16)]
        self._gscb = [engine.field(f"gscb{n}") for n in range(4)]
        pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
        self._get_psw_mask = engine.function("get_psw_mask", u64, pointer)
        self._load_psw = engine.function("load_psw", None, pointer, u64, u64)
        self._set_fpc = engine.function("helper_sfpc", None, pointer, u64)
        self._line = False
        self.interrupt = IrqLine(self._set_interrupt)
        engine.on_exception(self._exception)
        engine.on_interrupt(self._take_interrupt)
        engine.on_unmapped(self._addressing)
        self._power_on = self.save()

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the PSW says to wait and no interruption that is enabled is there."""
        return self.engine.halted and not self._deliverable()

    def run(self) -> None:
        """Run one slice."""
        if self.engine.halted:
            self._take_interrupt()
        if not self._fields["psw_mask"].value & PSW_WAIT:
            self.engine.run()
        else:  # an interruption to a PSW that waits: time goes on, if it is counted, for it may be taken over and over
            self.engine.counter.exception()
        self.engine.halted = bool(self._fields["psw_mask"].value & PSW_WAIT)

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    # targets.goldfish.GoldfishCpu

    def enter(self, pc: int, tree: int) -> None:
        """In the 64-bit mode, supervisor state, all interruptions off, the device tree's address in r2."""
        self._load_psw(self.engine.env, PSW_64_BIT, pc)
        self._r[2].value = tree

    # Interruptions

    def _set_interrupt(self, level: bool) -> None:
        self._line = level
        self.engine.set_interrupt(level)

    def _deliverable(self) -> bool:
        enabled = self._fields["psw_mask"].value & PSW_EXTERNAL and self._c[0].value & CR0_SERVICE_SIGNAL
        return self._line and bool(enabled)

    def _take_interrupt(self) -> bool:
        """Take an external interruption, if one is there and enabled; not between EXECUTE and its target."""
        if not self._deliverable() or self._fields["ex_value"].value:
            return False
        self._swap(EXTERNAL_OLD, EXTERNAL_CODE, bytes(2) + SERVICE_SIGNAL.to_bytes(2, "big"), self.engine.pc)
        return True

    def _exception(self, number: int) -> None:
        fields, pc = self._fields, self.engine.pc
        if number == SVC:
            length, code = fields["svc_ilen"].value, fields["svc_code"].value
            self._swap(SVC_OLD, SVC_CODE, length.to_bytes(2, "big") + code.to_bytes(2, "big"), pc + length)
        elif number == PROGRAM:
            length, code = fields["pgm_ilen"].value, fields["pgm_code"].value & 0xFFFF
            if length > ILEN_LIMIT:
                length = self._instruction_length(pc)
            after = pc if code in NULLIFYING else pc + length
            self._swap(PROGRAM_OLD, PROGRAM_CODE, length.to_bytes(2, "big") + code.to_bytes(2, "big"), after)
        else:
            raise EngineError(f"CPU cannot go on at pc {pc:#x}: interruption {number} of the library")

    def _swap(self, old: int, code_at: int, code: bytes, address: int) -> None:
        """Store code and old PSW, load the new one (6.1); a prefix area that is not in memory is a check-stop."""
        env, prefix = self.engine.env, self._fields["prefix"].value
        mask = self._get_psw_mask(env)
        try:
            self.memory.write(prefix + code_at, code)
            self.memory.write(prefix + old, mask.to_bytes(8, "big") + address.to_bytes(8, "big"))
            new = self.memory.read(prefix + old + OLD_TO_NEW, 16)
        except GuestError as exc:
            raise EngineError(
                f"CPU in the check-stop state at pc {self.engine.pc:#x}: its prefix area is not in memory"
            ) from exc
        self._load_psw(env, int.from_bytes(new[:8], "big"), int.from_bytes(new[8:], "big"))
        if self._fields["psw_mask"].value & PSW_WAIT:
            self.engine.end_slice()

    def _addressing(self, _access: Access, _address: int) -> int:
        """The interruption for an access to an absolute address where there is nothing."""
        self._fields["pgm_code"].value = ADDRESSING
        self._fields["pgm_ilen"].value = self._instruction_length(self.engine.pc)
        return PROGRAM

    def _instruction_length(self, pc: int) -> int:
        """By the first two bits of the instruction (5.2.1), as far as it is where its address says, else 2."""
        try:
            first = self.memory.read(pc, 1)[0]
        except GuestError:
            return 2
        return (2, 4, 4, 6)[first >> 6]

    # Registers and state

    def registers(self) -> dict[str, int]:
        """Every register by its name, for people."""
        state = self.save()
        named = {"psw_mask": state.psw_mask, "psw_address": state.psw_address}
        for kind, values in (("r", state.r), ("a", state.a), ("c", state.c)):
            named |= {f"{kind}{n}": value for n, value in enumerate(values)}
        return named | {name: getattr(state, name) for name in (*PLAIN, "fpc")}

    def reset(self) -> None:
        """Back to the state after power-on."""
        self.load(self._power_on)

    def save(self) -> S390xState:
        """Read every register."""
        return S390xState(
            **{name: self._fields[name].value for name in (*PLAIN, "fpc")},
            psw_mask=self._get_psw_mask(self.engine.env),
            psw_address=self.engine.pc,
            executed=self._fields["ex_value"].value,
            r=[register.value for register in self._r],
            v=[register.value for register in self._v],
            a=[register.value for register in self._a],
            c=[register.value for register in self._c],
            gscb=[register.value for register in self._gscb],
        )

    def load(self, state: S390xState) -> None:
        """Write every register."""
        for registers, values in (
            (self._r, state.r),
            (self._v, state.v),
            (self._a, state.a),
            (self._c, state.c),
            (self._gscb, state.gscb),
        ):
            for register, value in zip(registers, values, strict=True):
                register.value = value
        for name in PLAIN:
            self._fields[name].value = getattr(state, name)
        self._set_fpc(self.engine.env, state.fpc)
        self._load_psw(self.engine.env, state.psw_mask, state.psw_address)
        self._fields["ex_value"].value = state.executed
        self.engine.halted = bool(state.psw_mask & PSW_WAIT)
        self.engine.flush_tlb()
