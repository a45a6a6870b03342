"""RISC-V."""

from __future__ import annotations

from collections.abc import Callable

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, Field, IsaLayout, Probe, TlbLayout, TranslationCalls

EXCEPTIONS = {  # privileged spec, table 3.6; QEMU's numbers are those of the causes
    0: "instruction address misaligned",
    1: "instruction access fault",
    2: "illegal instruction",
    3: "breakpoint",
    4: "load address misaligned",
    5: "load access fault",
    6: "store address misaligned",
    7: "store access fault",
    8: "environment call",  # from any mode
    12: "instruction page fault",
    13: "load page fault",
    15: "store page fault",
}
INTERRUPTS = {
    1: "supervisor software",
    3: "machine software",
    5: "supervisor timer",
    7: "machine timer",
    9: "supervisor external",
    11: "machine external",
}
INTERRUPT_BITS = (1 << 31) - 1  # of mcause, without the bit that says interrupt
PRIV_M = 3


def _interrupt_number(field: Callable[[str], Field]) -> int:
    return field("mcause" if field("priv").value == PRIV_M else "scause").value & INTERRUPT_BITS


LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "riscv32"): IsaLayout(
        arch=8,  # UC_ARCH_RISCV
        mode=4,  # UC_MODE_RISCV32
        suffix="riscv32",
        constants="riscv",
        pc_advance=4,
        tlb=TlbLayout(modes=4, word=4),
        calls=TranslationCalls(
            invalidate_fast=0xEE1F90,
            invalidate_fast_slot=0x14C7150,
            protect=0xEC5A70,
            protect_slot=0x14CAE48,
            generate=0xEB7380,
            generate_slot=0x14C6E30,
        ),
        abort=AbortCall(function=0x3C1899, slot=0x14C87C8),
        env_in_cpu=36080,
        env_size=968,
        env={
            **{f"f{n}": (128 + 8 * n, 8) for n in range(32)},
            "pc": (384, 4),
            "load_res": (388, 4),
            "load_val": (392, 4),
            "time": (928, 8),  # the function that the CSR asks
            "badaddr": (400, 4),
            "priv": (424, 4),
            "mip": (444, 4),
            "mie": (456, 4),
            "scause": (492, 4),
            "mcause": (504, 4),
        },
        exceptions=EXCEPTIONS,
        interrupts=INTERRUPTS,
        interrupt_number=_interrupt_number,
    ),
    (UNICORN_2_1_4_X86_64, "riscv64"): IsaLayout(
        arch=8,  # UC_ARCH_RISCV
        mode=8,  # UC_MODE_RISCV64
        suffix="riscv64",
        constants="riscv",
        pc_advance=4,
        tlb=TlbLayout(modes=4, word=8),
        calls=TranslationCalls(
            invalidate_fast=0xF5C1E0,
            invalidate_fast_slot=0x14BE498,
            protect=0xF3F530,
            protect_slot=0x14C3848,
            generate=0xF304E0,
            generate_slot=0x14C2938,
        ),
        env_in_cpu=36112,
        env_size=1568,
        env={
            **{f"f{n}": (256 + 8 * n, 8) for n in range(32)},
            "pc": (512, 8),
            "load_res": (520, 8),
            "load_val": (528, 8),
            "time": (1528, 8),
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
        exceptions=EXCEPTIONS,
        interrupts=INTERRUPTS,
        interrupt_number=_interrupt_number,
        abort=AbortCall(function=0x3C199C, slot=0x14C9D58),
    ),
}

_PROBE = Probe(
    base=0x8000_0000,
    pointer="x5",
    counter="x7",
    store=bytes.fromhex("23a06200 93831300 6f000000"),  # sw x6, 0(x5); addi x7, x7, 1; j .
    loop=bytes.fromhex("93831300 6ff0dfff"),  # addi x7, x7, 1; j .-4
    one=bytes.fromhex("93031000 73005010"),  # li x7, 1; wfi
    two=bytes.fromhex("93032000 73005010"),  # li x7, 2; wfi
    trap=bytes.fromhex("73001000"),  # ebreak
    trap_number=3,
)

PROBES: dict[str, Probe] = {"riscv32": _PROBE, "riscv64": _PROBE}
