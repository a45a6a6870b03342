"""ARM."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, CodeWatchCalls, IsaLayout, Probe

VECTOR_SIZE = 256  # bytes an SVE register takes; the architecture's V register is its first 16

# Debug registers (ARM DDI 0487, D13.3) that Cortex-A57 has
BREAKPOINTS, WATCHPOINTS = 6, 4

LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "arm64"): IsaLayout(
        arch=2,  # UC_ARCH_ARM64
        mode=0,  # UC_MODE_ARM
        suffix="aarch64",
        constants="arm64",
        model=0,  # UC_CPU_ARM64_A57
        page_size=4096,  # not 1024, which ARMv5 had
        pc_advance=0,
        stop_interrupt=False,
        code_watch=CodeWatchCalls(
            invalidate_fast=0x5B7CD0,
            invalidate_fast_slot=0x14BD608,
            rearm=0x59BEF0,
            rearm_slot=0x14C9738,
        ),
        abort=AbortCall(function=0x3C097E, slot=0x14BD138),
        env_in_cpu=41808,
        env_size=12736,
        env={
            **{f"x{n}": (64 + 8 * n, 8) for n in range(31)},
            "sp": (312, 8),  # the one that is used now; its own place below is stale
            "pc": (320, 8),
            "pstate": (328, 4),
            "aarch64": (332, 4),
            "hflags": (336, 4),
            "spsr_el1": (360, 8),
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
}
