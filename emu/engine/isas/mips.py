"""MIPS: a 74Kf (32 bits, release 2, DSP) and the generic release 2 core with 64 bits, in both byte orders."""

from __future__ import annotations

from emu.engine.layout import (
    UNICORN_2_1_4_X86_64,
    AbortCall,
    IsaLayout,
    Probe,
    TlbCalls,
    TlbLayout,
    TranslationCalls,
    TranslatorLoop,
)

BIG_ENDIAN = 1 << 30  # UC_MODE_BIG_ENDIAN


def _several(name: str, offset: int, size: int, count: int, stride: int = 0) -> dict[str, tuple[int, int]]:
    """`count` fields in a row, or `stride` bytes apart: name0, name1, ..."""
    return {f"{name}{index}": (offset + index * (stride or size), size) for index in range(count)}


_ENV32: dict[str, tuple[int, int]] = {
    **_several("r", 0, 4, 32),
    "pc": (128, 4),
    **_several("hi", 132, 4, 4),
    **_several("lo", 148, 4, 4),
    "dsp_control": (180, 4),
    **_several("f", 552, 8, 32, stride=16),
    "fcsr": (1080, 4),
    "hflags": (11156, 4),
    "btarget": (11160, 4),
    "bcond": (11164, 4),
    "lladdr": (1564, 4),
    "llval": (1568, 4),
    "Index": (1124, 4),
    "Random": (1132, 4),
    "tlb": (11208, 8),  # its address
    "EntryLo0": (1168, 8),
    "EntryLo1": (1176, 8),
    "Context": (1188, 4),
    "UserLocal": (212, 4),
    "PageMask": (1196, 4),
    "PageGrain": (1204, 4),
    "Wired": (1232, 4),
    "HWREna": (1280, 4),
    "BadVAddr": (1284, 4),
    "Count": (1300, 4),
    "EntryHi": (1328, 4),
    "Compare": (1336, 4),
    "Status": (1340, 4),
    "IntCtl": (1344, 4),
    "SRSCtl": (1348, 4),
    "SRSMap": (1352, 4),
    "Cause": (1356, 4),
    "EPC": (1360, 4),
    "EBase": (1368, 4),
    "Config0": (1380, 4),
    "Config7": (1416, 4),
    "LLAddr": (1424, 8),
    **_several("WatchLo", 1604, 4, 8),
    **_several("WatchHi", 1640, 8, 8),
    "XContext": (1704, 4),
    "Framemask": (1708, 4),
    "Debug": (1712, 4),
    "DEPC": (1716, 4),
    "Performance0": (1720, 4),
    "ErrCtl": (1724, 4),
    "TagLo": (1728, 8),
    "DataLo": (1736, 4),
    "TagHi": (1740, 4),
    "DataHi": (1744, 4),
    "ErrorEPC": (1748, 4),
    "DESAVE": (1752, 4),
}

_ENV64: dict[str, tuple[int, int]] = {
    **_several("r", 0, 8, 32),
    "pc": (256, 8),
    **_several("hi", 264, 8, 4),
    **_several("lo", 296, 8, 4),
    "dsp_control": (360, 8),
    **_several("f", 824, 8, 32, stride=16),
    "fcsr": (1352, 4),
    "hflags": (15940, 4),
    "btarget": (15944, 8),
    "bcond": (15952, 8),
    "lladdr": (1920, 8),
    "llval": (1928, 8),
    "Index": (1396, 4),
    "Random": (1404, 4),
    "tlb": (16000, 8),
    "EntryLo0": (1456, 8),
    "EntryLo1": (1464, 8),
    "Context": (1480, 8),
    "UserLocal": (416, 8),
    "PageMask": (1492, 4),
    "PageGrain": (1500, 4),
    "Wired": (1552, 4),
    "HWREna": (1600, 4),
    "BadVAddr": (1608, 8),
    "Count": (1628, 4),
    "EntryHi": (1656, 8),
    "Compare": (1672, 4),
    "Status": (1676, 4),
    "IntCtl": (1680, 4),
    "SRSCtl": (1684, 4),
    "SRSMap": (1688, 4),
    "Cause": (1692, 4),
    "EPC": (1696, 8),
    "EBase": (1712, 8),
    "Config0": (1736, 4),
    "Config7": (1772, 4),
    "LLAddr": (1776, 8),
    **_several("WatchLo", 1968, 8, 8),
    **_several("WatchHi", 2032, 8, 8),
    "XContext": (2096, 8),
    "Framemask": (2104, 4),
    "Debug": (2108, 4),
    "DEPC": (2112, 8),
    "Performance0": (2120, 4),
    "ErrCtl": (2124, 4),
    "TagLo": (2128, 8),
    "DataLo": (2136, 4),
    "TagHi": (2140, 4),
    "DataHi": (2144, 4),
    "ErrorEPC": (2152, 8),
    "DESAVE": (2160, 4),
}

_WATCH = {
    "mips": TranslationCalls(
        invalidate_fast=0x7A31C0,
        invalidate_fast_slot=0x14BE150,
        protect=0x786480,
        protect_slot=0x14BCC60,
        generate=0x777DE0,
        generate_slot=0x14BE6C0,
    ),
    "mipsel": TranslationCalls(
        invalidate_fast=0x8A24E0,
        invalidate_fast_slot=0x14C7288,
        protect=0x885E00,
        protect_slot=0x14C0A18,
        generate=0x877760,
        generate_slot=0x14C5E28,
    ),
    "mips64": TranslationCalls(
        invalidate_fast=0x9A2630,
        invalidate_fast_slot=0x14C4710,
        protect=0x9852A0,
        protect_slot=0x14C7560,
        generate=0x976B30,
        generate_slot=0x14C1EE0,
    ),
    "mips64el": TranslationCalls(
        invalidate_fast=0xAB3640,
        invalidate_fast_slot=0x14C5810,
        protect=0xA96920,
        protect_slot=0x14BEB48,
        generate=0xA87C00,
        generate_slot=0x14C88B8,
    ),
}

_ABORT = {
    "mips": AbortCall(function=0x3C0E67, slot=0x14C2458),
    "mipsel": AbortCall(function=0x3C0FA2, slot=0x14C6A48),
    "mips64": AbortCall(function=0x3C10DD, slot=0x14C6B60),
    "mips64el": AbortCall(function=0x3C1221, slot=0x14C8960),
}

_LOOP = {
    "mips": TranslatorLoop(function=0x842B00, slot=0x14BD968),
    "mipsel": TranslatorLoop(function=0x941D10, slot=0x14C4330),
    "mips64": TranslatorLoop(function=0xA52DF0, slot=0x14C1E58),
    "mips64el": TranslatorLoop(function=0xB63D60, slot=0x14C2E08),
}

_TLB = {
    "mips": TlbCalls(random=0x7A58F0, random_slot=0x14C5198, invalidate=0x7B8D80, invalidate_slot=0x14C1F30),
    "mipsel": TlbCalls(random=0x8A4C10, random_slot=0x14BE0D8, invalidate=0x8B80A0, invalidate_slot=0x14C4360),
    "mips64": TlbCalls(random=0x9A52F0, random_slot=0x14BFB70, invalidate=0x9BDB60, invalidate_slot=0x14C3C90),
    "mips64el": TlbCalls(random=0xAB6300, random_slot=0x14C1BB0, invalidate=0xACEB70, invalidate_slot=0x14C79E8),
}


def _layout(isa: str) -> IsaLayout:
    wide, big = "64" in isa, not isa.endswith("el")
    return IsaLayout(
        arch=3,  # UC_ARCH_MIPS
        mode=(8 if wide else 4) | (BIG_ENDIAN if big else 0),  # UC_MODE_MIPS64, UC_MODE_MIPS32
        model=5 if wide else 10,  # UC_CPU_MIPS64_MIPS64R2_GENERIC, UC_CPU_MIPS32_74KF
        suffix=isa,
        constants="mips",
        pc_advance=None,
        tlb=TlbLayout(modes=4, word=8 if isa.startswith("mips64") else 4),
        calls=_WATCH[isa],
        env_in_cpu=36112 if wide else 36080,
        env_size=16120 if wide else 11328,
        env=_ENV64 if wide else _ENV32,
        abort=_ABORT[isa],
        translator_loop=_LOOP[isa],
        tlb_calls=_TLB[isa],
    )


LAYOUTS = {(UNICORN_2_1_4_X86_64, isa): _layout(isa) for isa in _WATCH}


def _words(big: bool, code: str) -> bytes:
    return b"".join(bytes.fromhex(word) if big else bytes.fromhex(word)[::-1] for word in code.split())


# After reset Status.ERL is set, and kuseg is physical memory.
PROBES = {
    isa: Probe(
        base=0,
        pointer="5",
        counter="7",
        store=_words(big, "aca60000 24e70001 1000ffff 00000000"),  # sw a2, 0(a1); addiu a3, a3, 1; b .; nop
        loop=_words(big, "1000ffff 24e70001"),  # b .; addiu a3, a3, 1
        one=_words(big, "24070001 42000020"),  # li a3, 1; wait
        two=_words(big, "24070002 42000020"),  # li a3, 2; wait
        trap=_words(big, "0000000c"),  # syscall
        trap_number=17,  # EXCP_SYSCALL
    )
    for isa, big in (("mips", True), ("mipsel", False), ("mips64", True), ("mips64el", False))
}
