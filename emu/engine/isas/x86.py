"""x86, 32 and 64 bits. Both are the same functions of the library and the same state."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, IsaLayout, Probe, TlbLayout, TranslationCalls

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr", "gdt", "idt")  # in the order they lie in
SEGMENT_SIZE = 24  # SegmentCache: selector u32, base u64, limit u32, flags u32

ENV = {
    "regs": (0, 128),
    "pc": (128, 8),
    "eflags": (136, 8),  # within a slice without the flags that are computed: those of arithmetic, and DF
    "cc_src": (152, 8),
    "cc_op": (168, 4),
    "df": (172, 4),  # 1 or -1
    "hflags": (176, 4),
    "segments": (184, SEGMENT_SIZE * len(SEGMENTS)),
    "cr0": (424, 8),
    "cr2": (440, 8),
    "cr3": (448, 8),
    "cr4": (456, 8),
    "efer": (592, 8),
    "fpstt": (604, 4),
    "fpus": (608, 2),
    "fpuc": (610, 2),
    "fptags": (612, 8),
    "fpregs": (624, 128),
    "fpop": (752, 2),
    "fpip": (760, 8),
    "fpdp": (768, 8),
    "mxcsr": (816, 4),
    "xmm": (824, 2048),  # 64 bytes each, of which 16 are used
    "sysenter_cs": (4800, 4),
    "sysenter_esp": (4808, 8),
    "sysenter_eip": (4816, 8),
    "star": (4824, 8),
    "lstar": (4840, 8),
    "cstar": (4848, 8),
    "fmask": (4856, 8),
    "kernel_gs_base": (4864, 8),
    "tsc_aux": (4896, 8),
    "xcr0": (4904, 8),
    "misc_enable": (4920, 8),
    "pat": (5280, 8),
    "dr": (5400, 64),
    "old_exception": (5496, 4),  # the one in flight, -1 without
    "vm_vmcb": (5504, 8),
    "features_1_edx": (5632, 8),
    "features_7_ebx": (5648, 8),
    "features_8000_0001_edx": (5680, 8),
    "features_8000_0001_ecx": (5688, 8),
    "features_8000_0007_edx": (5696, 8),
    "mcg_cap": (6608, 8),
}
QEMU64, QEMU32 = 0, 4  # enum uc_cpu_x86; without a choice it would be a Haswell, for which kernels work around its faults
INSTRUCTIONS = {"in": 218, "out": 500, "rdtsc": 608, "rdtscp": 609, "syscall": 699, "sysenter": 700}  # enum x86_insn


def _layout(mode: int, model: int) -> IsaLayout:
    return IsaLayout(
        arch=4,  # UC_ARCH_X86
        mode=mode,
        suffix="x86_64",
        constants="x86",
        pc_advance=0,
        tlb=TlbLayout(modes=3, word=8),
        calls=TranslationCalls(
            invalidate_fast=0x430760,
            invalidate_fast_slot=0x14C4020,
            protect=0x412C90,
            protect_slot=0x14C22D8,
            generate=0x4045B0,
            generate_slot=0x14BF2A8,
        ),
        env_in_cpu=35408,
        env_size=7008,
        env=ENV,
        abort=AbortCall(function=0x3C070A, slot=0x14C0F70),
        abort_fields={"old_exception": 8},  # a double fault, as a triple fault leaves it
        model=model,
        instructions=INSTRUCTIONS,
    )


LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "i386"): _layout(mode=1 << 2, model=QEMU32),  # UC_MODE_32
    (UNICORN_2_1_4_X86_64, "x86_64"): _layout(mode=1 << 3, model=QEMU64),  # UC_MODE_64
}


def _probe(prefix: str) -> Probe:
    return Probe(
        base=0x10_0000,
        pointer=f"{prefix}bx",
        counter=f"{prefix}cx",
        store=bytes.fromhex("8903 83c101 ebfe"),  # mov [bx], eax; add ecx, 1; jmp .
        loop=bytes.fromhex("83c101 ebfb"),  # add ecx, 1; jmp .-3
        one=bytes.fromhex("b901000000 f4"),  # mov ecx, 1; hlt
        two=bytes.fromhex("b902000000 f4"),  # mov ecx, 2; hlt
        trap=bytes.fromhex("0f0b"),  # ud2
        trap_number=6,
    )


PROBES: dict[str, Probe] = {"i386": _probe("e"), "x86_64": _probe("r")}
