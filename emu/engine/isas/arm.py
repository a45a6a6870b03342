"""ARM."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, IsaLayout, Probe, TlbLayout, TranslationCalls

VECTOR_SIZE = 256  # bytes an SVE register takes; the architecture's V register is its first 16

BANKS = 8  # of r13, r14 and SPSR: modes usr, svc, abt, und, irq, fiq, hyp, mon

# Debug registers (ARM DDI 0487, D13.3) that Cortex-A57 and A15 have
BREAKPOINTS, WATCHPOINTS = 6, 4

LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "arm64"): IsaLayout(
        arch=2,  # UC_ARCH_ARM64
        mode=0,  # UC_MODE_ARM
        suffix="aarch64",
        constants="arm64",
        model=0,  # UC_CPU_ARM64_A57
        page_size=4096,  # not 1024, which ARMv5 had
        knows_thumb=True,
        pc_advance=0,
        tlb=TlbLayout(modes=12, word=8),
        calls=TranslationCalls(
            invalidate_fast=0x5B7CD0,
            invalidate_fast_slot=0x14BD608,
            protect=0x59BC50,
            protect_slot=0x14BFAC8,
            generate=0x58D340,
            generate_slot=0x14C9798,
        ),
        abort=AbortCall(function=0x3C097E, slot=0x14BD138),
        env_in_cpu=41808,
        env_size=12736,
        env={
            "r15": (60, 4),
            **{f"x{n}": (64 + 8 * n, 8) for n in range(31)},
            "sp": (312, 8),  # the one that is used now; its own place below is stale
            "pc": (320, 8),
            "pstate": (328, 4),
            "aarch64": (332, 4),
            "hflags": (336, 4),
            "spsr_el1": (360, 8),
            "thumb": (544, 4),
            "elr_el1": (576, 8),
            "sp_el0": (600, 8),
            "sp_el1": (608, 8),
            "csselr_el1": (648, 8),
            "sctlr_el1": (680, 8),
            "cpacr_el1": (704, 8),
            "ttbr0_el1": (776, 8),
            "ttbr1_el1": (808, 8),
            "tcr_el1": (856, 8),
            "hcr_el2": (952, 8),
            "scr_el3": (960, 8),
            "esr_el1": (992, 8),
            "far_el1": (1056, 8),
            "par_el1": (1104, 8),
            "mair_el1": (1192, 8),
            "vbar_el1": (1224, 8),
            "contextidr_el1": (1272, 8),
            "tpidr_el0": (1296, 8),
            "tpidr_el1": (1304, 8),
            "tpidrro_el0": (1352, 8),
            "cntfrq_el0": (1360, 8),
            "cntkctl_el1": (1368, 8),
            **{f"dbgbvr{n}_el1": (1512 + 8 * n, 8) for n in range(BREAKPOINTS)},
            **{f"dbgbcr{n}_el1": (1640 + 8 * n, 8) for n in range(BREAKPOINTS)},
            **{f"dbgwvr{n}_el1": (1768 + 8 * n, 8) for n in range(WATCHPOINTS)},
            **{f"dbgwcr{n}_el1": (1896 + 8 * n, 8) for n in range(WATCHPOINTS)},
            "mdscr_el1": (2024, 8),
            "oslsr_el1": (2032, 8),
            "syndrome": (3024, 4),  # of the exception that is being taken: this one and the next three
            "fault_status": (3028, 4),
            "fault_address": (3032, 8),
            "target_el": (3040, 4),
            **{f"v{n}": (3088 + VECTOR_SIZE * n, 8) for n in range(32)},
            **{f"v{n}_high": (3096 + VECTOR_SIZE * n, 8) for n in range(32)},
            "exclusive_address": (12032, 8),
            "exclusive_value": (12040, 8),
            "exclusive_high": (12048, 8),
            "system_registers": (12736, 8),  # ARMCPU.cp_regs, behind the end
        },
    ),
    (UNICORN_2_1_4_X86_64, "arm"): IsaLayout(
        arch=1,  # UC_ARCH_ARM
        mode=0,  # UC_MODE_ARM
        suffix="arm",
        constants="arm",
        model=17,  # UC_CPU_ARM_CORTEX_A15
        page_size=4096,
        thumb=True,
        knows_thumb=True,
        pc_advance=0,
        tlb=TlbLayout(modes=12, word=4),
        calls=TranslationCalls(
            invalidate_fast=0x4E2860,
            invalidate_fast_slot=0x14C86A8,
            protect=0x4C6A60,
            protect_slot=0x14C9F00,
            generate=0x4B82A0,
            generate_slot=0x14C8970,
        ),
        abort=AbortCall(function=0x3C082B, slot=0x14C6F00),
        env_in_cpu=41712,
        env_size=4400,
        env={
            **{f"r{n}": (4 * n, 4) for n in range(15)},  # of the current mode
            "pc": (60, 4),
            "spsr": (344, 4),  # of the current mode
            **{f"banked_spsr{n}": (352 + 8 * n, 8) for n in range(BANKS)},
            **{f"banked_r13_{n}": (416 + 4 * n, 4) for n in range(BANKS)},
            **{f"banked_r14_{n}": (448 + 4 * n, 4) for n in range(BANKS)},
            **{f"usr_r{n}": (480 + 4 * (n - 8), 4) for n in range(8, 13)},
            **{f"fiq_r{n}": (500 + 4 * (n - 8), 4) for n in range(8, 13)},
            "thumb": (544, 4),
            "csselr": (648, 8),
            "sctlr": (680, 8),
            "cpacr": (704, 8),
            "nsacr": (760, 8),
            "ttbr0": (776, 8),
            "ttbr1": (808, 8),
            "ttbcr": (856, 8),
            "ttbcr_mask": (864, 4),  # these two follow from TTBCR
            "ttbcr_base_mask": (868, 4),
            "dacr": (928, 8),
            "scr": (960, 8),
            "ifsr": (968, 8),
            "dfsr": (992, 8),
            "far": (1056, 8),  # DFAR, and IFAR above it
            "par": (1104, 8),
            "mair": (1192, 8),  # PRRR or MAIR0, and NMRR or MAIR1 above it
            "vbar": (1224, 8),
            "contextidr": (1272, 8),
            "tpidrurw": (1296, 8),
            "tpidrprw": (1304, 8),
            "tpidruro": (1352, 8),
            "cntfrq": (1360, 8),
            "cntkctl": (1368, 8),
            **{f"dbgbvr{n}": (1512 + 8 * n, 8) for n in range(BREAKPOINTS)},
            **{f"dbgbcr{n}": (1640 + 8 * n, 8) for n in range(BREAKPOINTS)},
            **{f"dbgwvr{n}": (1768 + 8 * n, 8) for n in range(WATCHPOINTS)},
            **{f"dbgwcr{n}": (1896 + 8 * n, 8) for n in range(WATCHPOINTS)},
            "dbgdscr": (2024, 8),
            "oslsr": (2032, 8),
            "syndrome": (3024, 4),
            "fault_status": (3028, 4),
            "fault_address": (3032, 8),
            "target_el": (3040, 4),
            **{f"d{n}": (3088 + 8 * n, 8) for n in range(32)},
            "fpexc": (3656, 4),
            "exclusive_address": (3776, 8),
            "exclusive_value": (3784, 8),
            "system_registers": (4400, 8),
        },
    ),
}

PROBES: dict[str, Probe] = {
    "arm64": Probe(
        base=0x4000_0000,
        pointer="x5",
        counter="x7",
        store=bytes.fromhex("a60000b9 e7040091 00000014"),  # str w6, [x5]; add x7, x7, #1; b .
        loop=bytes.fromhex("e7040091 ffffff17"),  # add x7, x7, #1; b .-4
        one=bytes.fromhex("270080d2 7f2003d5"),  # mov x7, #1; wfi
        two=bytes.fromhex("470080d2 7f2003d5"),  # mov x7, #2; wfi
        trap=bytes.fromhex("000020d4"),  # brk #0
        trap_number=7,
    ),
    "arm": Probe(
        base=0x4000_0000,
        pointer="r5",
        counter="r7",
        store=bytes.fromhex("006085e5 017087e2 feffffea"),  # str r6, [r5]; add r7, r7, #1; b .
        loop=bytes.fromhex("017087e2 fdffffea"),  # add r7, r7, #1; b .-4
        one=bytes.fromhex("0170a0e3 03f020e3"),  # mov r7, #1; wfi
        two=bytes.fromhex("0270a0e3 03f020e3"),  # mov r7, #2; wfi
        trap=bytes.fromhex("f000f0e7"),  # udf #0
        trap_number=1,
    ),
}
