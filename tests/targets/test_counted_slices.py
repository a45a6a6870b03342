"""Wherever a counted slice ends, the CPU's state is whole: what an instruction leaves for the next one is in it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from emu.board import BoardCpu
from emu.engine.core import Engine
from migration.vmstate import dump, parse
from targets.arm.cpu32 import CPSR_START, Arm32Cpu
from targets.arm.cpu64 import Arm64Cpu
from targets.m68k.cpu import M68kCpu
from targets.mips.cpu import MipsCpu
from targets.ppc.cpu import PpcCpu
from targets.riscv.cpu import RiscvCpu
from targets.s390x.cpu import PSW_64_BIT, S390xCpu
from targets.sparc.cpu import SparcCpu
from targets.sparc.cpu64 import Sparc64Cpu
from targets.tricore.cpu import TriCoreCpu
from targets.x86.cpu import X86Cpu
from targets.x86.state import DescriptorState
from tests.devices.fakes import FakeClock
from tests.targets.bench import differences

RAM, SIZE = 0x4000_0000, 16 * mmap.PAGESIZE
DATA = RAM + 0x8000
THUMB, USER = 1 << 5, 0x1D0  # of CPSR: the instruction set, the mode of 32-bit programs
INSTRUCTIONS = 60  # to the end of each program, which is a jump to itself


@dataclass(frozen=True)
class Program:
    """A few instructions that leave each other flags, condition blocks, delay slots, reservations and half done repetitions."""

    code: str  # hex
    build: Callable[[Engine], BoardCpu]
    state: dict[str, object]  # that it starts with
    base: int = RAM
    isa: str | None = None  # None: its name


def x86(engine: Engine) -> BoardCpu:
    return X86Cpu(engine, FakeClock(), acknowledge=lambda: 0, on_triple_fault=lambda: None, on_end=lambda: None)


def timed(cpu: Callable[[Engine, FakeClock], BoardCpu]) -> Callable[[Engine], BoardCpu]:
    return lambda engine: cpu(engine, FakeClock())


# mov r0, #3; 1: ldrex; add; strex; cmp; addeq; stmdb sp!; ldmia sp!; subs; adcs; bne 1b; b .
ARM_CODE = "0300a0e3 9f2f98e1 012082e2 923f88e1 020050e3 01408402 0f002de9 f000bde8 010050e2 0090b9e0 f5ffff1a feffffea"
ARM_REGISTERS = [0] * 8 + [DATA] + [0] * 4 + [DATA, 0]
# movs r0, #3; 1: cmp; itete eq; addeq; addne; moveq; movne; it mi; addmi; subs; bpl 1b; adc; b .
THUMB_CODE = "0320 0228 0bbf 0131 0132 0723 0924 48bf 0135 0138 f5d5 46f10006 fee7"
# li 3; addiu; bnel (taken, then not); its slot; ...; beq; its slot; bal; its slot; b .; its slot; jr ra; its slot: lw
MIPS_CODE = (
    """24080003 25290001 55090002 254a0001 256b0001 11280003 258c0001 04110003 25ad0001 1000ffff 25ce0001 03e00008 8faf0000"""
)
MIPS_LITTLE = "".join(bytes.fromhex(word)[::-1].hex() for word in MIPS_CODE.split())
MIPS_STATE: dict[str, object] = {"pc": 0, "r": [0] * 32}
# li r3, 3; mtctr; 1: lwarx; addi; stwcx.; addic.; adde; cmpwi cr1; crand; mfcr; bdnz 1b; blt; b .
PPC_CODE = (
    "38600003 7c6903a6 7c804828 38840001 7c80492d 34a5ffff 7cc62914 2c840002 4c011202 7ce00026 4200ffe0 41800004 48000000"
)
PPC_STATE: dict[str, object] = {"pc": RAM, "r": [0] * 9 + [DATA] + [0] * 22}
# li a0, 3; 1: lr.w; addi; sc.w; amoadd.w; c.addi; addi; bnez 1b; j .
RISCV_CODE = "0d45 afa50710 8505 2fa6b718 afa6a700 0507 7d15 7df5 01a0"
RISCV_STATE: dict[str, object] = {"pc": RAM, "x": [0] * 15 + [DATA] + [0] * 16}
# mov ecx, 7; mov edi, DATA; mov esi, DATA + 256; xor eax, eax; std; rep stosd; cld; sub eax, 3; mov ecx, 5; rep movsb;
# adc ebx, 0; mov ecx, 4; mov edi, DATA + 256; repne scasb; sbb edx, edx; inc [DATA + 64]; shl edx, 3; rcr ebx; setc dl;
# pushf; pop ebp; jmp .
X86_CODE = """b907000000 bf00800040 be00810040 31c0 fd f3ab fc 83e803 b905000000 f3a4 83d300 b904000000 bf00810040 f2ae 19d2
    ff0540800040 c1e203 d1db 0f92c2 9c 5d ebfe"""
FLAT = DescriptorState(selector=0x10, limit=0xFFFF_FFFF, flags=0x00CF_9300)
FLAT_CODE = DescriptorState(selector=0x08, limit=0xFFFF_FFFF, flags=0x00CF_9B00)
COMPATIBILITY = 0xB0 | 1 << 14  # hflags of 32-bit code in long mode
X86_STATE: dict[str, object] = {
    "pc": RAM,
    "hflags": 0xB0,  # 32-bit segments
    "descriptors": [FLAT, FLAT_CODE, *[FLAT] * 4, *[DescriptorState()] * 4],
    "regs": [0] * 4 + [DATA + 0x400] + [0] * 11,
}

# mov 3, g1; 1: call 5f; slot; subcc; bne,a 1b; slot; be 3f; slot; nop; 3: ba,a 4f; -; 4: addx; ba 4b; slot
# 5: cmp; be 6f; slot; inc; 6: retl; slot
SPARC_CODE = """82102003 4000000d 8400a001 82a06001 32bffffd 8600e001 02800003 88012001 01000000 308000028a016001 8a414005
    10bfffff 01000000 80a06002 02800003 90022001 92026001 81c3e008 9402a001"""
SPARC_STATE: dict[str, object] = {"pc": RAM, "npc": RAM + 4}

PROGRAMS: dict[str, Program] = {
    "arm": Program(ARM_CODE, Arm32Cpu, {"pc": RAM, "r": ARM_REGISTERS}),
    "arm under arm64": Program(ARM_CODE, Arm64Cpu, {"pc": RAM, "pstate": USER, "x": [*ARM_REGISTERS, *[0] * 16]}, isa="arm64"),
    "thumb": Program(THUMB_CODE, Arm32Cpu, {"pc": RAM, "cpsr": CPSR_START | THUMB}, isa="arm"),
    "thumb under arm64": Program(THUMB_CODE, Arm64Cpu, {"pc": RAM, "pstate": USER | THUMB}, isa="arm64"),
    # mov x0, #3; 1: ldxr; add; stxr; cmp; csinc; ccmp; adcs; subs; b.ne 1b; b .
    "arm64": Program(
        "600080d2 027d5fc8 42040091 027d03c8 1f0800f1 8414849a 040841fa a50000ba 000400f1 01ffff54 00000014",
        Arm64Cpu,
        {"pc": RAM, "x": [0] * 8 + [DATA] + [0] * 22},
    ),
    "i386": Program(X86_CODE, x86, X86_STATE),
    "x86_64": Program(X86_CODE, x86, X86_STATE | {"hflags": COMPATIBILITY}),
    # moveq #3, d0; 1: addq; cmp; addx; push; pop; sub; negx; scc; dbra d0, 1b; bra .
    "m68k": Program("7003 5281 b081 d782 2f01 281f 9a80 4086 54c7 51c8ffee 6000fffe", M68kCpu, {"pc": RAM, "isp": DATA}),
    "mips": Program(MIPS_CODE, timed(MipsCpu), MIPS_STATE, base=0),
    "mipsel": Program(MIPS_LITTLE, timed(MipsCpu), MIPS_STATE, base=0),
    "mips64": Program(MIPS_CODE, timed(MipsCpu), MIPS_STATE, base=0),
    "mips64el": Program(MIPS_LITTLE, timed(MipsCpu), MIPS_STATE, base=0),
    "ppc": Program(PPC_CODE, timed(PpcCpu), PPC_STATE),
    "ppc64": Program(PPC_CODE, timed(PpcCpu), PPC_STATE),
    "riscv32": Program(RISCV_CODE, timed(RiscvCpu), RISCV_STATE),
    "riscv64": Program(RISCV_CODE, timed(RiscvCpu), RISCV_STATE),
    # lghi r1, 3; larl; 1: ahi; ex (mvc); alcr; slr; ex (ahi); slbr; brct r1, 1b; j .; what is executed
    "s390x": Program(
        """a7190003 c09000000012 a72a0001 44109000 b9980032 1f42 44009006 b9990052 a716fff5 a7f40000
        d200a000a008 a76a0005 0707""",
        S390xCpu,
        {"psw_mask": PSW_64_BIT, "psw_address": RAM, "r": [0] * 10 + [DATA] + [0] * 5},
    ),
    "sparc": Program(SPARC_CODE, SparcCpu, SPARC_STATE),
    "sparc64": Program(SPARC_CODE, timed(Sparc64Cpu), SPARC_STATE),
    # mov d3, -1; 1: addi d11, d11, 1; xor d15, d15, d14; sh d14, d14, 2; lt.u d7, d15, d6; jne d11, d12, 1b; j .
    "tricore": Program(
        "3bf0ff3f 1b1b00b0 0fefc0f0 8f2e00e0 0b6f3071 5fcbf8ff 1d000000",
        timed(TriCoreCpu),
        {"pc": RAM, "d": [0] * 12 + [9, 0, 0x1234_5678, 5]},
    ),
}


@contextmanager
def cpus(name: str, number: int) -> Iterator[list[Any]]:
    """As many CPUs on one memory, which has the program; each as it is to start."""
    program = PROGRAMS[name]
    memory = mmap.mmap(-1, SIZE)
    code = bytes.fromhex(program.code)
    memory[: len(code)] = code
    with ExitStack() as keep:
        made: list[Any] = []
        for _ in range(number):
            engine = Engine(program.isa or name)
            keep.callback(engine.close)
            engine.map_ram(program.base, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
            cpu: Any = program.build(engine)
            state = cpu.save()
            for field, value in program.state.items():
                setattr(state, field, value)
            cpu.load(state)
            made.append(cpu)
        yield made


@pytest.mark.parametrize("name", PROGRAMS)
def test_single_instructions_make_the_same_run_wherever_each_is_executed(name: str) -> None:
    with cpus(name, 1) as (cpu,):
        cpu.engine.run(INSTRUCTIONS)
        assert cpu.engine.executed == INSTRUCTIONS
        whole = cpu.save()

    with cpus(name, 2) as (here, there):
        for _ in range(INSTRUCTIONS):
            here.engine.run(1)
            assert here.engine.executed == 1
            there.load(parse(type(whole), whole.VMSTATE.version, dump(here.save())))
            here, there = there, here
        assert not differences(here.save(), whole)
