"""Motorola 68000 family: a 68040."""

from __future__ import annotations

from emu.engine.layout import (
    UNICORN_2_1_4_X86_64,
    AbortCall,
    Build,
    ConditionMasks,
    IsaLayout,
    Probe,
    TlbLayout,
    TranslationCalls,
)

LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "m68k"): IsaLayout(
        arch=7,  # UC_ARCH_M68K
        mode=1 << 30,  # UC_MODE_BIG_ENDIAN
        suffix="m68k",
        constants="m68k",
        pc_advance=0,
        tlb=TlbLayout(modes=2, word=4),
        calls=TranslationCalls(
            invalidate_fast=0x712A00,
            invalidate_fast_slot=0x14BDBA0,
            protect=0x6F5F80,
            protect_slot=0x14C2808,
            generate=0x6E78D0,
            generate_slot=0x14C7EC8,
        ),
        env_in_cpu=34672,
        env_size=524832,
        env={
            **{f"d{n}": (4 * n, 4) for n in range(8)},
            **{f"a{n}": (32 + 4 * n, 4) for n in range(8)},
            "pc": (64, 4),
            "sr": (68, 4),  # without the condition codes
            "current_sp": (72, 4),  # which of the next three a7 is
            "msp": (76, 4),
            "usp": (80, 4),
            "isp": (84, 4),
            **{f"fp{n}_mantissa": (112 + 16 * n, 8) for n in range(8)},
            **{f"fp{n}_exponent": (120 + 16 * n, 2) for n in range(8)},  # and sign
            "fpcr": (256, 4),
            "fpsr": (260, 4),
            "mmu_ar": (320, 4),
            "mmu_ssw": (324, 4),
            "tcr": (328, 2),
            "urp": (332, 4),
            "srp": (336, 4),
            "mmu_fault": (340, 1),
            **{name: (344 + 4 * n, 4) for n, name in enumerate(("dtt0", "dtt1", "itt0", "itt1"))},
            "mmusr": (360, 4),
            "vbr": (364, 4),
            "cacr": (376, 4),
            "sfc": (380, 4),
            "dfc": (384, 4),
            "pending_vector": (388, 4),
            "pending_level": (392, 4),
        },
        model=3,  # the 68040 in the library's table; UC_CPU_M68K_M68040, 4, gets a 68060
        abort=AbortCall(function=0x3C0B0D, slot=0x14BDB98),
        condition_masks=ConditionMasks(translator=0x7360E0, masks=(0x722603, 0x72EADC)),  # of FBcc, and of FScc and the others
        left_unreset=True,
        breakpoint=4,  # BKPT: an illegal instruction, where no hardware answers it (M68040UM)
    ),
}

PROBES: dict[str, Probe] = {
    "m68k": Probe(
        base=0x1000,
        pointer="a0",
        counter="d2",
        store=bytes.fromhex("2080 5282 60fe"),  # move.l %d0,(%a0); addq.l #1,%d2; bra .
        loop=bytes.fromhex("5282 60fc"),  # addq.l #1,%d2; bra .-2
        one=bytes.fromhex("7401 4e722700"),  # moveq #1,%d2; stop #0x2700
        two=bytes.fromhex("7402 4e722700"),  # moveq #2,%d2; stop #0x2700
        trap=bytes.fromhex("4e43"),  # trap #3
        trap_number=35,
    ),
}
