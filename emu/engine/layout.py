"""Where Unicorn keeps what its API does not show: one row per build of the library; `isas` has one per ISA.

Unicorn carries QEMU's translator and its CPU state, but has calls for a part of it only. The rest is reached by offset, and an
offset holds for one build. A build that is not in the table is refused; a build that is gets checked again when an engine opens
(`Engine`) and by what it does (`selftest`).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

EXCP_HLT, EXCP_DEBUG, EXCP_HALTED = 0x10001, 0x10002, 0x10003  # QEMU's exception numbers: the first ends a slice


class Field(Protocol):
    """A field of the CPU's state, in place: to read and write `value` is to read and write the CPU."""

    value: int


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
    uc_stop_request: int  # bool: the slice ends where the translator's loop next looks
    uc_invalid_addr: int  # uint64_t: physical address of the access that ended the slice
    uc_invalid_error: int  # uc_err: what `uc_emu_start` is going to return
    uc_no_exit_request: int  # bool: translate no exit check inside a block
    uc_jmp_bufs: int  # sigjmp_buf[]: where an exception goes, for each level of uc_emu_start
    uc_nested_level: int  # int: how many of them are set
    # CPUState
    cpu_uc: int  # uc_struct *
    cpu_interrupt_request: int  # uint32_t
    cpu_env_ptr: int  # CPUArchState *
    cpu_icount_decr_ptr: int  # union { uint32_t u32; struct { uint16_t low, high; } u16; } *
    cpu_halted: int  # uint32_t
    cpu_exception_index: int  # int32_t, -1 when there is none
    cpu_class: int  # CPUClass *, whose first field is the function `reset`
    # CPUClass, which each CPU has a copy of
    class_tlb_fill: int  # function pointer: brings an address translation into the CPU's cache
    class_exec_interrupt: int  # function pointer: takes an interrupt if the guest lets it
    # The library file
    abort_slot: int  # of the global offset table, for libc's abort


@dataclass(frozen=True, slots=True)
class TranslationCalls:
    """Where in the library file some functions are, and the global offset table's slots (`codewatch`, `exitchecks`)."""

    invalidate_fast: int  # tb_invalidate_phys_page_fast
    invalidate_fast_slot: int
    protect: int  # tlb_protect_code
    protect_slot: int
    generate: int  # tcg_gen_code
    generate_slot: int


@dataclass(frozen=True, slots=True)
class AbortCall:
    """Where in the library file `cpu_abort` and the global offset table's slot for it are (`abort`)."""

    function: int
    slot: int


@dataclass(frozen=True, slots=True)
class TranslatorLoop:
    """Where in the library file translator_loop is, and the global offset table's slot for it (`translation`)."""

    function: int
    slot: int


@dataclass(frozen=True, slots=True)
class TlbCalls:
    """Where in the library file two functions are, and the global offset table's slots for them (`mipstlb`)."""

    random: int  # cpu_mips_get_random
    random_slot: int
    invalidate: int  # r4k_invalidate_tlb
    invalidate_slot: int


@dataclass(frozen=True, slots=True)
class ContextSave:
    """Where in the library file helper_svucx is, and the global offset table's slot for it (`contexts`)."""

    function: int
    slot: int


@dataclass(frozen=True, slots=True)
class TlbLayout:
    """The CPU's cache of address translations (`codepages`)."""

    modes: int  # NB_MMU_MODES: it has a table for each
    word: int  # sizeof(target_ulong)
    page_bits: int = 12


@dataclass(frozen=True, slots=True)
class ConditionMasks:
    """Where in the library file m68k's translator is, and its masks of a floating point condition (`floatconditions`)."""

    translator: int
    masks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IsaLayout:
    """What is particular to one ISA of a build."""

    arch: int  # enum uc_arch
    mode: int  # enum uc_mode
    suffix: str  # of the library's internal functions
    constants: str  # the package's module of register ids, and the prefix of the names in it
    pc_advance: int | None  # bytes Unicorn adds to the pc before it calls the exception hook; None: it loses the pc
    calls: TranslationCalls
    tlb: TlbLayout
    env_in_cpu: int  # offset of CPUArchState in ArchCPU
    env_size: int  # sizeof(CPUArchState)
    env: dict[str, tuple[int, int]]  # field of CPUArchState: offset, size
    enters_traps: bool = False  # the library enters the guest's trap handlers by itself; `on_exception` gets no exceptions
    abort: AbortCall | None = None  # None: the library's own, which ends the process
    abort_fields: dict[str, int] = field(default_factory=dict)  # 32-bit, of env: an abort sets them and ends the slice
    cpu_index: int = -1  # qemu_get_cpu's, of the one CPU there is
    wait_field: str | None = None  # of env, where a CPU that waits for an interrupt says so by a bit of its state
    wait_bit: int = 0
    any_register: int = 1  # an id of a register that can be read
    executed_field: str | None = None  # of env, with the instruction that EXECUTE is about to execute
    left_unreset: bool = False  # the library builds this CPU without resetting it
    reset: dict[str, int] = field(default_factory=dict)  # fields of `env` that the library's reset leaves wrong
    breakpoint: int | None = None  # exception of a breakpoint instruction that the library has for a debugger
    wait_spins: bool = False  # a CPU that waits for an interrupt would spin inside the library
    translator_loop: TranslatorLoop | None = None  # where the translator needs repair
    tlb_calls: TlbCalls | None = None  # where a software-filled TLB needs repair
    context_save: ContextSave | None = None  # with the field `trap_depth`: where a trap could save contexts without end
    condition_masks: ConditionMasks | None = None  # where the translator takes conditions that do not exist
    conditions: int | None = None  # where in the library file a table is that needs repair (`conditions`)
    model: int | None = None  # its enum uc_cpu_...; None: the library's choice
    thumb: bool = False  # the field `thumb` says which of two instruction sets the pc is in
    knows_thumb: bool = False  # its translator knows Thumb, and needs repair for it (`thumb`)
    page_size: int | None = None  # bytes, where the library would choose less than a page of the ISA
    map_unit: int = 4096  # bytes; what is mapped has a multiple of it, at a multiple of it
    phys_page: str | None = None  # QEMU's function for the physical page of an address, where the library's API has none
    instructions: dict[str, int] = field(default_factory=dict)  # those a hook may stand for: their number for UC_HOOK_INSN
    exceptions: Mapping[int, str] = field(default_factory=dict)  # what the library's exception numbers mean, for logs
    interrupts: Mapping[int, str] = field(default_factory=dict)  # what interrupt numbers mean
    interrupt_number: Callable[[Callable[[str], Field]], int] | None = None  # of the one just taken; None: not logged


@dataclass(frozen=True, slots=True)
class Probe:
    """What an ISA's check is made of: machine code for its state after reset."""

    base: int  # physical address the code runs at
    pointer: str  # register that holds the device's address in `store`
    counter: str  # register that `store` and `loop` add 1 to and `one` and `two` set
    store: bytes  # store to the device, add 1, then a jump to itself
    loop: bytes  # add 1 and jump back: two instructions
    one: bytes  # set 1, wait for an interrupt
    two: bytes  # set 2, wait for an interrupt
    trap: bytes = b""  # one instruction that traps; none where the library enters traps by itself
    trap_number: int = 0
    waits: bool = True  # False: no instruction waits, so `one` and `two` store to the device instead and jump to themselves


UNICORN_2_1_4_X86_64 = Build((2, 1, 4), "linux", "x86_64", 8)

CORE: dict[Build, CoreLayout] = {
    UNICORN_2_1_4_X86_64: CoreLayout(
        uc_stop_interrupt=224,
        uc_memory_mapping=288,
        uc_cpu=440,
        uc_stop_request=1389,
        uc_invalid_addr=1416,
        uc_invalid_error=1424,
        uc_no_exit_request=2034,
        uc_jmp_bufs=2040,
        uc_nested_level=14840,
        cpu_uc=33192,
        cpu_interrupt_request=28,
        cpu_env_ptr=296,
        cpu_icount_decr_ptr=304,
        cpu_halted=33176,
        cpu_exception_index=33184,
        cpu_class=33200,
        class_tlb_fill=72,
        class_exec_interrupt=144,
        abort_slot=0x14BFE80,
    ),
}


def this_build(version: tuple[int, int, int]) -> Build:
    """The build with this library version on this host."""
    return Build(version, sys.platform, os.uname().machine, ctypes.sizeof(ctypes.c_void_p))
