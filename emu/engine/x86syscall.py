"""SYSCALL of 64-bit code (AMD64 manual volume 3), in machine code: programs make hundreds of thousands a second.

Unicorn leaves the instruction to a hook, which it calls with the pc at it and adds the length of the instruction to the pc
afterwards. From other code (compatibility mode, or no long mode at all) another hook is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emu.engine.stubs import jump_to

LENGTH = 2
RCX, R11 = 8 * 1, 8 * 11  # in the array of general registers
CS, SS = 1, 2  # in the array of segment registers
SEGMENT = 24  # sizeof(SegmentCache)
SELECTOR, BASE, LIMIT, FLAGS = 0, 8, 16, 20  # offsets in it

Part = str | tuple[str, str] | tuple[str, str, str]  # machine code; with a field's offset behind it; and more behind that

ENTRY: Sequence[Part] = (
    ("8b83", "hflags"),  # mov eax, [rbx + hflags]   int hook(uc, data), with env in rbx
    "2500c00000 3d00c00000",  # and eax, LMA | CS64; cmp eax, LMA | CS64
    "0f85 ????????",  # jne other
    "4889df 48b8 ????????????????",  # mov rdi, rbx; movabs rax, helper_read_eflags
    "ffd0 25fffffeff",  # call rax; and eax, ~RF
    ("488b8b", "pc"),
    "4883c102",  # add rcx, LENGTH
    ("48898b", "rcx"),
    ("488983", "r11"),
    ("488b8b", "fmask"),
    "48f7d1 4821c8",  # not rcx; and rax, rcx
    "89c1 81e1d5080000",  # mov ecx, eax; and ecx, OF | SF | ZF | AF | PF | CF
    ("48898b", "cc_src"),
    ("c783", "cc_op", "01000000"),  # CC_OP_EFLAGS
    "89c1 c1e909 83e102 f7d9 ffc1",  # mov ecx, eax; shr ecx, 9; and ecx, 2; neg ecx; inc ecx
    ("898b", "df"),  # 1 or -1
    "252af3ffff",  # and eax, ~(those and DF)
    ("488983", "eflags"),
    ("0fb78b", "star_selectors"),
    "81e1fcff0000",  # and ecx, 0xfffc
    ("898b", "cs"),
    "6683c108",  # add cx, 8
    ("898b", "ss"),
    "31c0",
    ("488983", "cs_base"),
    ("488983", "ss_base"),
    "ffc8",
    ("8983", "cs_limit"),
    ("8983", "ss_limit"),
    ("c783", "cs_flags", "009ba000"),  # 64-bit code, DPL 0
    ("c783", "ss_flags", "0093c000"),  # data, DPL 0
    ("8b83", "hflags"),
    "83e0bc 83c830",  # and eax, ~(CPL | ADDSEG); or eax, CS32 | SS32
    ("8983", "hflags"),
    ("488b8b", "lstar"),
    "4883e902",  # sub rcx, LENGTH
    ("48898b", "pc"),
    "5b 31c0 c3",  # pop rbx; xor eax, eax; ret
)


def system_call(env: int, fields: Mapping[str, tuple[int, int]], read_eflags: int, other: int) -> bytes:
    """The machine code: for the state at `env` with its fields' offsets and sizes, and two functions' addresses."""
    offsets = {name: offset for name, (offset, _size) in fields.items()}
    offsets |= {"rcx": offsets["regs"] + RCX, "r11": offsets["regs"] + R11, "star_selectors": offsets["star"] + 4}
    for name, number in (("cs", CS), ("ss", SS)):
        at = offsets["segments"] + SEGMENT * number
        parts = (("", SELECTOR), ("_base", BASE), ("_limit", LIMIT), ("_flags", FLAGS))
        offsets |= {f"{name}{part}": at + offset for part, offset in parts}
    code = bytearray()
    for part in ENTRY:
        opcode, *rest = (part,) if isinstance(part, str) else part
        code += bytes.fromhex(opcode.replace("?", "0"))
        if rest:
            code += offsets[rest[0]].to_bytes(4, "little") + bytes.fromhex("".join(rest[1:]))
    helper = code.index(b"\x48\xb8" + bytes(8)) + 2
    code[helper : helper + 8] = read_eflags.to_bytes(8, "little")
    branch = code.index(b"\x0f\x85" + bytes(4)) + 2
    code[branch : branch + 4] = (len(code) - branch - 4).to_bytes(4, "little")
    with_env = b"\x53\x48\xbb" + env.to_bytes(8, "little")  # push rbx; movabs rbx, env
    return with_env + bytes(code) + b"\x5b" + jump_to(other)  # other: pop rbx; jmp
