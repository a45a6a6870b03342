"""SPARC: a LEON3 (version 8)."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, CodeWatchCalls, IsaLayout, Probe

WINDOWS = 32  # that the library has room for
OUTS = 8  # registers behind the last window that stand for those of the first

LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "sparc"): IsaLayout(
        arch=6,  # UC_ARCH_SPARC
        mode=1 << 30 | 4,  # UC_MODE_BIG_ENDIAN, UC_MODE_SPARC32
        model=12,  # UC_CPU_SPARC32_LEON3
        suffix="sparc",
        constants="sparc",
        pc_advance=None,
        code_watch=CodeWatchCalls(
            invalidate_fast=0xBC3BA0,
            invalidate_fast_slot=0x14C6B28,
            rearm=0xBA6CD0,
            rearm_slot=0x14C2070,
        ),
        env_in_cpu=35376,
        env_size=2752,
        env={
            **{f"g{n}": (4 * n, 4) for n in range(8)},
            "pc": (40, 4),
            "npc": (44, 4),
            "y": (48, 4),
            "fsr": (76, 4),
            **{f"f{n}": (80 + 8 * n, 8) for n in range(16)},  # pairs, the even register in the upper half
            "cwp": (208, 4),
            "wim": (212, 4),
            "tbr": (216, 4),
            "psret": (228, 4),
            "psrpil": (232, 4),
            "psrs": (220, 4),
            "interrupt_index": (244, 4),
            **{f"w{n}": (248 + 4 * n, 4) for n in range(16 * WINDOWS + OUTS)},
            **{f"mmu{n}": (2336 + 4 * n, 4) for n in range(32)},
            "cache_control": (2720, 4),
        },
        abort=AbortCall(function=0x3C1365, slot=0x14CB370),
        any_register=54,  # UC_SPARC_REG_G1
        left_unreset=True,
    ),
}

PROBES: dict[str, Probe] = {
    "sparc": Probe(
        base=0x4000_0000,
        pointer="g1",
        counter="g3",
        store=bytes.fromhex("c4204000 8600e001 10800000 01000000"),  # st %g2,[%g1]; inc %g3; ba .; nop
        loop=bytes.fromhex("10800000 8600e001"),  # ba .; inc %g3
        one=bytes.fromhex("86102001 a7800000"),  # mov 1,%g3; wr %g0,%asr19
        two=bytes.fromhex("86102002 a7800000"),  # mov 2,%g3; wr %g0,%asr19
        trap=bytes.fromhex("91d02003"),  # ta 3
        trap_number=0x83,
    ),
}
