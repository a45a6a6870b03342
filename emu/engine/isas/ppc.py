"""PowerPC: a 7400 (32 bits, AltiVec, page tables walked by the CPU), big-endian."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, CodeWatchCalls, IsaLayout, Probe

_SPRS32 = (
    *(18, 19, 22, 25, 26, 27, 256, 268, 269, *range(272, 276), 282, 284, 285, 935, 944, 951, *range(952, 959)),
    *(1008, 1009, 1010, 1013, 1014, 1015, 1017, *range(1019, 1024)),
)
_TIMED = (22, 268, 269, 284, 285, 272)  # DECR, TB, and SPRG0, which has nothing special
_SPR_CALLBACKS = ("user_read", "user_write", "read", "write")  # of struct ppc_spr_t


def _several(name: str, offset: int, size: int, count: int, stride: int = 0) -> dict[str, tuple[int, int]]:
    """`count` fields in a row, or `stride` bytes apart: name0, name1, ..."""
    return {f"{name}{index}": (offset + index * (stride or size), size) for index in range(count)}


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
    **{
        f"{callback}{number}": (4792 + 64 * number + 8 * index, 8)
        for number in _TIMED
        for index, callback in enumerate(_SPR_CALLBACKS)
    },
    **_several("vr_low", 70336 + 32 * 16, 8, 32, stride=16),
    **_several("vr_high", 70336 + 32 * 16 + 8, 8, 32, stride=16),
    **_several("f", 70336 + 8, 8, 32, stride=16),
    "fpscr": (71404, 4),
    "pending_interrupts": (71476, 4),
    **_several("vector", 71496, 4, 102),
}

LAYOUTS = {
    (UNICORN_2_1_4_X86_64, "ppc"): IsaLayout(
        arch=5,  # UC_ARCH_PPC
        mode=4 | 1 << 30,  # UC_MODE_PPC32, UC_MODE_BIG_ENDIAN
        model=249,  # UC_CPU_PPC32_7400_V2_9
        suffix="ppc",
        constants="ppc",
        pc_advance=4,
        stop_interrupt=False,
        wait_spins=True,
        code_watch=CodeWatchCalls(
            invalidate_fast=0xCBEA30, invalidate_fast_slot=0x14BC930, rearm=0xCA2100, rearm_slot=0x14C4708
        ),
        env_in_cpu=40304,
        env_size=73232,
        env=_ENV32,
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
}
