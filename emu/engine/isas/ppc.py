"""PowerPC: a 7400 (32 bits, AltiVec, page tables walked by the CPU) and a POWER10, both big-endian."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, IsaLayout, Probe, TlbLayout, TranslationCalls

_SPRS32 = (
    *(18, 19, 22, 25, 26, 27, 256, 268, 269, *range(272, 276), 282, 284, 285, 935, 944, 951, *range(952, 959)),
    *(1008, 1009, 1010, 1013, 1014, 1015, 1017, *range(1019, 1024)),
)
_SPRS64 = (
    *(
        13,
        17,
        18,
        19,
        22,
        26,
        27,
        29,
        31,
        48,
        61,
        128,
        129,
        130,
        136,
        144,
        152,
        153,
        157,
        159,
        180,
        186,
        187,
        188,
        190,
        256,
        259,
    ),
    *(268, 269, *range(272, 276), 282, 284, 285, *range(304, 311), *range(313, 320), 336, 337, 338, 349, 446, 464),
    *(*range(784, 793), *range(795, 799), 800, 802, 804, 805, 806, 815, 816, 848, 849, 851, 855, 888, 889, 890),
    *(*range(892, 897), 921, 1008, 1023),
)
_TIMED32 = (22, 268, 269, 284, 285, 272)  # DECR, TB, and SPRG0, which has nothing special
_TIMED64 = (*_TIMED32, 308, 309, 310, 849)  # SPURR, PURR, HDEC, VTB
_SPR_CALLBACKS = ("user_read", "user_write", "read", "write", "hyper_read", "hyper_write")  # of struct ppc_spr_t


def _several(name: str, offset: int, size: int, count: int, stride: int = 0) -> dict[str, tuple[int, int]]:
    """`count` fields in a row, or `stride` bytes apart: name0, name1, ..."""
    return {f"{name}{index}": (offset + index * (stride or size), size) for index in range(count)}


_HV_MODE = 1 << 63 | 1 << 60  # MSR.SF and MSR.HV


def _callbacks(offset: int, numbers: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """How special purpose registers are read and written: addresses of the translator's functions."""
    return {
        f"{callback}{number}": (offset + 64 * number + 8 * index, 8)
        for number in numbers
        for index, callback in enumerate(_SPR_CALLBACKS)
    }


_ENV32: dict[str, tuple[int, int]] = {
    **_several("r", 0, 4, 32),
    "lr": (256, 4),
    "ctr": (260, 4),
    **_several("cr", 264, 4, 8),
    "xer": (296, 4),
    "so": (300, 4),
    "ov": (304, 4),
    "ca": (308, 4),
    "reserve_addr": (320, 4),
    "reserve_val": (324, 4),
    "msr": (332, 4),
    "pc": (352, 4),
    **_several("sr", 372, 4, 16),
    **_several("dbatu", 504, 4, 4),
    **_several("dbatl", 536, 4, 4),
    **_several("ibatu", 568, 4, 4),
    **_several("ibatl", 600, 4, 4),
    **{f"spr{number}": (696 + 4 * number, 4) for number in _SPRS32},
    **_callbacks(4792, _TIMED32),
    **_several("vr_low", 70336 + 32 * 16, 8, 32, stride=16),
    **_several("vr_high", 70336 + 32 * 16 + 8, 8, 32, stride=16),
    **_several("f", 70336 + 8, 8, 32, stride=16),
    "fpscr": (71404, 4),
    "pending_interrupts": (71476, 4),
    **_several("vector", 71496, 4, 102),
}

_ENV64: dict[str, tuple[int, int]] = {
    **_several("r", 0, 8, 32),
    "lr": (512, 8),
    "ctr": (520, 8),
    **_several("cr", 528, 4, 8),
    "cfar": (560, 8),
    "xer": (568, 8),
    "so": (576, 8),
    "ov": (584, 8),
    "ca": (592, 8),
    "ov32": (600, 8),
    "ca32": (608, 8),
    "reserve_addr": (616, 8),
    "reserve_val": (624, 8),
    "reserve_val2": (632, 8),
    "msr": (640, 8),
    "pc": (680, 8),
    **_several("slb_esid", 704, 8, 64, stride=24),
    **_several("slb_vsid", 712, 8, 64, stride=24),
    **{f"spr{number}": (2840 + 8 * number, 8) for number in _SPRS64},
    **_callbacks(11032, _TIMED64),
    **_several("vsr_low", 76576, 8, 64, stride=16),
    **_several("vsr_high", 76584, 8, 64, stride=16),
    "fpscr": (77648, 8),
    "pending_interrupts": (77732, 4),
    **_several("vector", 77752, 8, 102),
    "resume_as_sreset": (78610, 1),
    "hflags": (78616, 8),
    "immu_idx": (78632, 4),
    "dmmu_idx": (78636, 4),
}

LAYOUTS = {
    (UNICORN_2_1_4_X86_64, "ppc"): IsaLayout(
        arch=5,  # UC_ARCH_PPC
        mode=4 | 1 << 30,  # UC_MODE_PPC32, UC_MODE_BIG_ENDIAN
        model=249,  # UC_CPU_PPC32_7400_V2_9
        suffix="ppc",
        constants="ppc",
        pc_advance=4,
        wait_spins=True,
        tlb=TlbLayout(modes=10, word=4),
        calls=TranslationCalls(
            invalidate_fast=0xCBEA30,
            invalidate_fast_slot=0x14BC930,
            protect=0xCA1EC0,
            protect_slot=0x14C61E0,
            generate=0xC93810,
            generate_slot=0x14BE840,
        ),
        abort=AbortCall(function=0x3C1693, slot=0x14C8068),
        env_in_cpu=40304,
        env_size=73232,
        env=_ENV32,
    ),
    (UNICORN_2_1_4_X86_64, "ppc64"): IsaLayout(
        arch=5,
        mode=8 | 1 << 30,  # UC_MODE_PPC64, UC_MODE_BIG_ENDIAN
        model=None,  # a POWER10; naming one gives another
        suffix="ppc64",
        constants="ppc",
        pc_advance=4,
        wait_spins=True,
        tlb=TlbLayout(modes=10, word=8),
        calls=TranslationCalls(
            invalidate_fast=0xDD0E50,
            invalidate_fast_slot=0x14C8CD8,
            protect=0xDB3CA0,
            protect_slot=0x14C1D50,
            generate=0xDA5570,
            generate_slot=0x14C0F30,
        ),
        abort=AbortCall(function=0x3C1796, slot=0x14C6890),
        env_in_cpu=40384,
        env_size=80048,
        env=_ENV64,
        reset={"msr": _HV_MODE, "hflags": _HV_MODE, "immu_idx": 7, "dmmu_idx": 7},
    ),
}

PROBES = {
    "ppc": Probe(
        base=0,
        pointer="5",
        counter="7",
        store=bytes.fromhex("90c50000 38e70001 48000000"),  # stw r6, 0(r5); addi r7, r7, 1; b .
        loop=bytes.fromhex("38e70001 4bfffffc"),  # addi r7, r7, 1; b .-4
        # HID0.NAP, then MSR.POW: li r7, 1; lis r8, 0x40; mtspr 1008, r8; lis r9, 4; mtmsr r9
        one=bytes.fromhex("38e00001 3d000040 7d10fba6 3d200004 7d200124"),
        two=bytes.fromhex("38e00002 3d000040 7d10fba6 3d200004 7d200124"),
        trap=bytes.fromhex("44000002"),  # sc
        trap_number=8,  # POWERPC_EXCP_SYSCALL
    ),
    "ppc64": Probe(
        base=0,
        pointer="5",
        counter="7",
        store=bytes.fromhex("90c50000 38e70001 48000000"),
        loop=bytes.fromhex("38e70001 4bfffffc"),
        one=bytes.fromhex("38e00001 4c0002e4"),  # li r7, 1; stop
        two=bytes.fromhex("38e00002 4c0002e4"),
        trap=bytes.fromhex("44000002"),
        trap_number=8,
    ),
}
