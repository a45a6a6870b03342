"""Where Unicorn keeps what its API does not show: one row per build of the library, one row per ISA.

Unicorn carries QEMU's translator and its CPU state, but has calls for a part of it only. The rest is reached by offset, and an
offset holds for one build. A build that is not in the table is refused; a build that is gets checked again when an engine opens
(`Engine`) and by what it does (`selftest`).
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

from emu.errors import EngineError


@dataclass(frozen=True, slots=True)
class Build:
    """One build of libunicorn: its version and the host's ABI."""

    version: tuple[int, int, int]
    system: str  # sys.platform
    machine: str  # uname -m
    pointer: int  # bytes

    def __str__(self) -> str:
        version = ".".join(str(part) for part in self.version)
        return f"unicorn {version} on {self.system} {self.machine} with {8 * self.pointer}-bit pointers"


@dataclass(frozen=True, slots=True)
class CoreLayout:
    """Offsets that all ISAs of a build share, in bytes."""

    # struct uc_struct
    uc_stop_interrupt: int  # function pointer: does this exception end the slice?
    uc_memory_mapping: int  # function pointer: MemoryRegion of a physical address, NULL for a hole
    uc_cpu: int  # CPUState *
    uc_emu_counter: int  # size_t: instructions begun in a counted slice
    uc_emu_count: int  # size_t: the slice ends when emu_counter exceeds it
    uc_invalid_addr: int  # uint64_t: physical address of the access that ended the slice
    uc_no_exit_request: int  # bool: translate no exit check inside a block
    # CPUState
    cpu_interrupt_request: int  # uint32_t
    cpu_env_ptr: int  # CPUArchState *
    cpu_icount_decr_ptr: int  # union { uint32_t u32; struct { uint16_t low, high; } u16; } *
    cpu_halted: int  # uint32_t
    cpu_exception_index: int  # int32_t, -1 when there is none


@dataclass(frozen=True, slots=True)
class CodeWatchCalls:
    """Where in the library file two functions are, and the global offset table's slots for them (`codewatch`)."""

    invalidate_fast: int  # tb_invalidate_phys_page_fast
    invalidate_fast_slot: int
    rearm: int  # tlb_reset_dirty_by_vaddr
    rearm_slot: int


@dataclass(frozen=True, slots=True)
class IsaLayout:
    """What is particular to one ISA of a build."""

    arch: int  # enum uc_arch
    mode: int  # enum uc_mode
    suffix: str  # of the library's internal functions
    constants: str  # the package's module of register ids, and the prefix of the names in it
    pc_advance: int  # bytes Unicorn adds to the pc before it calls the exception hook
    stop_interrupt: bool  # False: no exception ends a slice, the guest gets them all
    code_watch: CodeWatchCalls
    env_in_cpu: int  # offset of CPUArchState in ArchCPU
    env_size: int  # sizeof(CPUArchState)
    env: dict[str, tuple[int, int]]  # field of CPUArchState: offset, size


UNICORN_2_1_4_X86_64 = Build((2, 1, 4), "linux", "x86_64", 8)

CORE: dict[Build, CoreLayout] = {
    UNICORN_2_1_4_X86_64: CoreLayout(
        uc_stop_interrupt=224,
        uc_memory_mapping=288,
        uc_cpu=440,
        uc_emu_counter=1368,
        uc_emu_count=1376,
        uc_invalid_addr=1416,
        uc_no_exit_request=2034,
        cpu_interrupt_request=28,
        cpu_env_ptr=296,
        cpu_icount_decr_ptr=304,
        cpu_halted=33176,
        cpu_exception_index=33184,
    ),
}

ISAS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "riscv64"): IsaLayout(
        arch=8,  # UC_ARCH_RISCV
        mode=8,  # UC_MODE_RISCV64
        suffix="riscv64",
        constants="riscv",
        pc_advance=4,
        stop_interrupt=False,  # Unicorn's own ends the slice at every EBREAK
        code_watch=CodeWatchCalls(
            invalidate_fast=0xF5C1E0,
            invalidate_fast_slot=0x14BE498,
            rearm=0xF3F780,
            rearm_slot=0x14BC410,
        ),
        env_in_cpu=36112,
        env_size=1568,
        env={
            "load_res": (520, 8),
            "load_val": (528, 8),
            "pc": (512, 8),
            "badaddr": (544, 8),
            "priv_ver": (560, 8),
            "misa": (568, 8),
            "misa_mask": (576, 8),
            "features": (584, 4),
            "priv": (592, 8),
            "resetvec": (608, 8),
            "mstatus": (624, 8),
            "mip": (632, 8),
            "mie": (648, 8),
            "mideleg": (656, 8),
            "satp": (672, 8),
            "stval": (680, 8),
            "medeleg": (696, 8),
            "stvec": (704, 8),
            "sepc": (712, 8),
            "scause": (720, 8),
            "mtvec": (728, 8),
            "mepc": (736, 8),
            "mcause": (744, 8),
            "mtval": (752, 8),
            "mscratch": (976, 8),
        },
    ),
}


def this_build(version: tuple[int, int, int]) -> Build:
    """The build with this library version on this host."""
    return Build(version, sys.platform, os.uname().machine, ctypes.sizeof(ctypes.c_void_p))


def layout_of(build: Build, isa: str) -> tuple[CoreLayout, IsaLayout]:
    """The two rows for `isa` in `build`; EngineError when there are none."""
    if build not in CORE:
        raise EngineError(f"found {build}, supported is {', '.join(str(known) for known in CORE)}")
    known = sorted(name for row, name in ISAS if row == build)
    if isa not in known:
        raise EngineError(f"no CPU {isa!r} in {build}, there are {', '.join(known)}")
    return CORE[build], ISAS[build, isa]
