"""TriCore: a TC1797 (version 1.3.1)."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, ContextSave, IsaLayout, Probe, TlbLayout, TranslationCalls

CSFRS = ("pc", "syscon", "cpu_id", "core_id", "biv", "btv", "isp", "icr", "fcx", "lcx", "compat")

LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "tricore"): IsaLayout(
        arch=10,  # UC_ARCH_TRICORE
        mode=0,  # UC_MODE_LITTLE_ENDIAN
        suffix="tricore",
        constants="tricore",
        pc_advance=0,
        enters_traps=True,
        map_unit=16384,
        tlb=TlbLayout(modes=3, word=4, page_bits=14),
        calls=TranslationCalls(
            invalidate_fast=0x1085180,
            invalidate_fast_slot=0x14C1670,
            protect=0x1068C80,
            protect_slot=0x14C9C98,
            generate=0x105A680,
            generate_slot=0x14BD6F8,
        ),
        env_in_cpu=35376,
        env_size=720,
        env={
            **{f"a{n}": (4 * n, 4) for n in range(16)},
            **{f"d{n}": (64 + 4 * n, 4) for n in range(16)},
            "pcxi": (128, 4),
            "psw": (132, 4),  # without the status bits
            "psw_c": (136, 4),  # set if not 0
            **{f"psw_{name}": (140 + 4 * n, 4) for n, name in enumerate(("v", "sv", "av", "sav"))},  # set if bit 31 is
            **{name: (156 + 4 * n, 4) for n, name in enumerate(CSFRS)},
            "protection": (200, 288),  # DPRx_yL and U, CPRx_yL and U, DPM0..3, CPM0..3
            "mmu": (488, 24),  # MMU_CON, ASI, TVA, TPA, TPX, TFA
            "integrity": (512, 36),  # BMACON, SMACON, DIEAR, DIETR, CCDIER, MIECON, PIEAR, PIETR, CCPIER
            "debug": (548, 60),  # DBGSR, EXEVT, CREVT, SWEVT, TR0EVT, TR1EVT, DMS, DCX, DBGTCR, and the counters
            "trap_depth": (616, 4),  # error_code, which this ISA has no use for
            "features": (708, 4),
        },
        # The library takes no model and makes a TC27x (1.6.1), but has 1.3's interrupt and context registers alone.
        reset={"features": 0b11},  # 1.3, 1.3.1
        abort=AbortCall(function=0x3C1E21, slot=0x14CA4B0),
        context_save=ContextSave(function=0x108A610, slot=0x14C1B10),
    ),
}

PROBES: dict[str, Probe] = {
    "tricore": Probe(
        base=0x8000_0000,
        pointer="a2",
        counter="d3",
        store=bytes.fromhex("89220009 1b130030 1d000000"),  # st.w [%a2] 0, %d2; addi %d3, %d3, 1; j .
        loop=bytes.fromhex("1b130030 1dfffeff"),  # addi %d3, %d3, 1; j .-4
        one=bytes.fromhex("3b100030 89220009 1d000000"),  # mov %d3, 1; st.w [%a2] 0, %d2; j .
        two=bytes.fromhex("3b200030 89220009 1d000000"),  # mov %d3, 2; ...
        waits=False,
    ),
}
