"""z/Architecture: QEMU's own model, in the 64-bit mode."""

from __future__ import annotations

from emu.engine.layout import UNICORN_2_1_4_X86_64, AbortCall, Build, IsaLayout, Probe, TlbLayout, TranslationCalls

LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    (UNICORN_2_1_4_X86_64, "s390x"): IsaLayout(
        arch=9,  # UC_ARCH_S390X
        mode=1 << 30,  # UC_MODE_BIG_ENDIAN
        model=None,
        suffix="s390x",
        constants="s390x",
        pc_advance=0,
        tlb=TlbLayout(modes=4, word=8),
        calls=TranslationCalls(
            invalidate_fast=0xFD8710,
            invalidate_fast_slot=0x14C8268,
            protect=0xFBAF90,
            protect_slot=0x14C18A0,
            generate=0xFAC8A0,
            generate_slot=0x14C70D8,
        ),
        env_in_cpu=36112,
        env_size=1216,
        env={
            **{f"r{n}": (8 * n, 8) for n in range(16)},
            **{
                f"v{n}": (128 + 8 * n, 8) for n in range(64)
            },  # halves of the vector registers, the floating point ones among them
            **{f"a{n}": (640 + 4 * n, 4) for n in range(16)},
            **{f"gscb{n}": (704 + 8 * n, 8) for n in range(4)},
            "fpc": (756, 4),
            "cc_op": (760, 4),
            "psw_mask": (784, 8),
            "pc": (792, 8),
            "ex_value": (824, 8),
            "prefix": (840, 8),
            "pgm_code": (848, 4),
            "pgm_ilen": (852, 4),
            "svc_code": (856, 4),
            "svc_ilen": (860, 4),
            **{f"c{n}": (880 + 8 * n, 8) for n in range(16)},
            "ckc": (1008, 8),
            "cputm": (1016, 8),
            "todpr": (1024, 4),
        },
        cpu_index=0,
        executed_field="ex_value",
        wait_field="psw_mask",
        wait_bit=1 << 49,
        abort=AbortCall(function=0x3C1AA9, slot=0x14BF598),
    ),
}

PROBES: dict[str, Probe] = {
    "s390x": Probe(
        base=0,
        pointer="r1",
        counter="r3",
        store=bytes.fromhex("010e 50201000 a73a0001 a7f40000"),  # sam64; st %r2,0(%r1); ahi %r3,1; j .
        loop=bytes.fromhex("a73a0001 a7f4fffe"),  # ahi %r3,1; j .-4
        one=bytes.fromhex("a7380001 b2b20008 0002000180000000 0000000000000018"),  # lhi %r3,1; lpswe 8; a PSW that waits behind
        two=bytes.fromhex("a7380002 b2b20008 0002000180000000 0000000000000018"),  # lhi %r3,2; ...
        trap=bytes.fromhex("0a03"),  # svc 3
        trap_number=2,
    ),
}
