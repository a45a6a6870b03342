"""SPARC: a LEON3 (version 8), and an UltraSPARC II (version 9)."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, IsaLayout, Probe, TlbLayout, TranslationCalls

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
        tlb=TlbLayout(modes=3, word=4),
        calls=TranslationCalls(
            invalidate_fast=0xBC3BA0,
            invalidate_fast_slot=0x14C6B28,
            protect=0xBA6AA0,
            protect_slot=0x14CAD20,
            generate=0xB98450,
            generate_slot=0x14C4DE0,
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
        phys_page="sparc_cpu_get_phys_page_debug",
    ),
    (UNICORN_2_1_4_X86_64, "sparc64"): IsaLayout(
        arch=6,  # UC_ARCH_SPARC
        mode=1 << 30 | 8,  # UC_MODE_BIG_ENDIAN, UC_MODE_SPARC64
        model=5,  # UC_CPU_SPARC64_TI_ULTRASPARC_II
        suffix="sparc64",
        constants="sparc",
        pc_advance=None,
        tlb=TlbLayout(modes=6, word=8, page_bits=13),
        calls=TranslationCalls(
            invalidate_fast=0xC3CC20,
            invalidate_fast_slot=0x14CAD40,
            protect=0xC1F6C0,
            protect_slot=0x14C0110,
            generate=0xC10FB0,
            generate_slot=0x14C7E50,
        ),
        env_in_cpu=37536,
        env_size=8416,
        env={
            **{f"g{n}": (8 * n, 8) for n in range(8)},
            "pc": (72, 8),
            "npc": (80, 8),
            "y": (88, 8),
            "fsr": (144, 8),
            **{f"f{n}": (152 + 8 * n, 8) for n in range(32)},  # pairs, the even register in the upper half
            "cwp": (408, 4),  # counted down where the architecture counts up
            "tba": (416, 8),
            "pil": (424, 4),
            **{f"w{n}": (440 + 8 * n, 8) for n in range(16 * WINDOWS + OUTS)},
            "version": (4600, 8),
            "nwindows": (4608, 4),
            "lsu": (4616, 8),
            "immu": (4624, 128),
            "dmmu": (4752, 128),
            "itlb": (4880, 1024),  # pairs of tag and entry
            "dtlb": (5904, 1024),
            "trap_stack": (6976, 256),  # of each level tpc, tnpc, tstate, tt
            "asi": (7236, 4),
            "pstate": (7240, 4),
            "tl": (7244, 4),
            "maxtl": (7248, 4),
            "cansave": (7252, 4),
            "canrestore": (7256, 4),
            "otherwin": (7260, 4),
            "wstate": (7264, 4),
            "cleanwin": (7268, 4),
            "ag": (7272, 64),  # the sets of globals that PSTATE has not chosen
            "normal": (7336, 64),
            "ig": (7400, 64),
            "mg": (7464, 64),
            "fprs": (8040, 8),
            "tick_cmpr": (8048, 8),
            "stick_cmpr": (8056, 8),
            "gsr": (8080, 8),
            "scratch": (8208, 64),
            "ivec": (8280, 32),  # status, and three words of data
            "softint": (8312, 4),
        },
        abort=AbortCall(function=0x3C1503, slot=0x14BF600),
        any_register=54,  # UC_SPARC_REG_G1
        left_unreset=True,
        phys_page="sparc_cpu_get_phys_page_debug",
        map_unit=8192,
        conditions=0x111AA80,
        reset={"pstate": 0x14, "tl": 0},  # privileged, FPU on; a boot PROM would have left RED_state
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
    "sparc64": Probe(
        base=0x4000_0000,
        pointer="g1",
        counter="g3",
        store=bytes.fromhex("c4204000 8600e001 10800000 01000000"),  # st %g2,[%g1]; inc %g3; ba .; nop
        loop=bytes.fromhex("10800000 8600e001"),  # ba .; inc %g3
        one=bytes.fromhex("86102001 c4204000 10800000 01000000"),  # mov 1,%g3; st %g2,[%g1]; ba .; nop
        two=bytes.fromhex("86102002 c4204000 10800000 01000000"),  # mov 2,%g3; ...
        waits=False,
        trap=bytes.fromhex("91d02003"),  # ta 3
        trap_number=0x103,
    ),
}
