"""A MIPS CPU's state in a stream: every register by name, at its width.

MIPS Architecture for Programmers, volume III: The MIPS32 (MIPS64) Privileged Resource Architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from emu.errors import StateError
from migration.vmstate import State, VMState, flag, u32, u32s, u64, u64s

# Coprocessor 0 (table 9.1). Configuration that nothing can change is not in a stream.
CP0 = (
    *("Index", "EntryLo0", "EntryLo1", "Context", "UserLocal", "PageMask", "PageGrain", "Wired", "HWREna", "BadVAddr", "Count"),
    *("EntryHi", "Compare", "Status", "IntCtl", "SRSCtl", "SRSMap", "Cause", "EPC", "EBase", "Config0", "LLAddr"),
    *(f"WatchLo{n}" for n in range(8)),
    *(f"WatchHi{n}" for n in range(8)),
    *("XContext", "Framemask", "Debug", "DEPC", "Performance0", "ErrCtl", "TagLo", "DataLo", "TagHi", "DataHi", "ErrorEPC"),
    "DESAVE",
)
_WIDE = {  # what has 64 bits on a 64-bit CPU
    *("EntryLo0", "EntryLo1", "Context", "UserLocal", "BadVAddr", "EntryHi", "EPC", "EBase", "LLAddr", "XContext", "DEPC"),
    *("TagLo", "ErrorEPC", *(f"WatchLo{n}" for n in range(8)), *(f"WatchHi{n}" for n in range(8))),
}
_ALL32, _ALL64 = (1 << 32) - 1, (1 << 64) - 1
_BITS = dict.fromkeys(CP0, _ALL32) | {"Config0": 0x7, "Index": 0x8000_003F}

PAGE_MASKS = tuple(((1 << 2 * n) - 1) << 13 for n in range(9))  # 4 KiB to 256 MiB (table 9.13)


class Mode:
    """What the engine remembers between two instructions that no register shows (its hflags)."""

    BRANCH = 0x3800  # in a delay slot: of which kind of branch
    BRANCHES = (0, 0x0800, 0x1000, 0x1800, 0x2000)  # none, always, conditional, likely, to a register
    ALL = 0x0027_FC04 | BRANCH  # and: debug mode, MIPS16, UserLocal for user mode, width of the slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What tells the CPU with 32 bits from that with 64."""

    all_bits: int  # a register of ones
    tlb: int  # entries
    bits: Mapping[str, int]  # those of a coprocessor 0 register that can change


M74KF = Model(all_bits=_ALL32, tlb=16, bits=_BITS | {"Status": 0x3778_FF1F})
MIPS64R2 = Model(all_bits=_ALL64, tlb=64, bits=_BITS | dict.fromkeys(_WIDE, _ALL64) | {"Status": 0x36FB_FFFF})


@dataclass(slots=True, kw_only=True)
class Mips64State(State):
    """Everything a guest can see of its CPU."""

    VMSTATE: ClassVar[VMState] = VMState("mips64-cpu", version=2, minimum=1)
    MODEL: ClassVar[Model] = MIPS64R2
    pc: int = u64()
    r: list[int] = u64s(32)
    hi: list[int] = u64s(4)  # the DSP extension has three more pairs
    lo: list[int] = u64s(4)
    dsp_control: int = u32()
    f: list[int] = u64s(32)
    fcsr: int = u32()
    cp0: list[int] = u64s(len(CP0))
    mode: int = u32(max=Mode.ALL)
    btarget: int = u64()  # in a delay slot: where the branch goes
    bcond: int = u64()  # and whether
    lladdr: int = u64()  # LL's virtual address, all ones when there is none
    llval: int = u64()
    tlb_entry_hi: list[int] = u64s(MIPS64R2.tlb)
    tlb_page_mask: list[int] = u32s(MIPS64R2.tlb)
    tlb_entry_lo0: list[int] = u64s(MIPS64R2.tlb)
    tlb_entry_lo1: list[int] = u64s(MIPS64R2.tlb)
    asleep: bool = flag()  # in WAIT
    random: int = u32(
        MIPS64R2.tlb - 1, since=2
    )  # the TLB entry that TLBWR takes next; the last, if there is none or it is wired

    def check(self) -> None:
        """A wrong Wired or branch would end the process inside the library."""
        name, model = self.VMSTATE.name, self.MODEL
        if self.r[0]:
            raise StateError(f"{name}.r[0] is {self.r[0]:#x}, must be 0")
        for register, value in zip(CP0, self.cp0, strict=True):
            bits = model.bits[register]
            if value & ~bits:
                raise StateError(f"{name}.{register} is {value:#x}, must be within {bits:#x}")
        if self.cp0[CP0.index("Wired")] >= model.tlb:
            raise StateError(f"{name}.Wired is {self.cp0[CP0.index('Wired')]}, must be less than {model.tlb}")
        for mask in (self.cp0[CP0.index("PageMask")], *self.tlb_page_mask):
            if mask not in PAGE_MASKS:
                raise StateError(f"{name}.PageMask is {mask:#x}, must be one of {', '.join(map(hex, PAGE_MASKS))}")
        if self.mode & ~Mode.ALL or self.mode & Mode.BRANCH not in Mode.BRANCHES:
            raise StateError(f"{name}.mode is {self.mode:#x}, must be within {Mode.ALL:#x} and have a branch there is")


@dataclass(slots=True, kw_only=True)
class Mips32State(Mips64State):
    """The same of a CPU whose registers have 32 bits, those of floating point apart."""

    VMSTATE: ClassVar[VMState] = VMState("mips32-cpu", version=2, minimum=1)
    MODEL: ClassVar[Model] = M74KF
    pc: int = u32()
    r: list[int] = u32s(32)
    hi: list[int] = u32s(4)
    lo: list[int] = u32s(4)
    cp0: list[int] = u32s(len(CP0))
    btarget: int = u32()
    bcond: int = u32()
    lladdr: int = u32()
    llval: int = u32()
    tlb_entry_hi: list[int] = u32s(M74KF.tlb)
    tlb_page_mask: list[int] = u32s(M74KF.tlb)
    tlb_entry_lo0: list[int] = u32s(M74KF.tlb)
    tlb_entry_lo1: list[int] = u32s(M74KF.tlb)
    random: int = u32(M74KF.tlb - 1, since=2)


STATES: dict[str, type[Mips64State]] = {
    "mips": Mips32State,
    "mipsel": Mips32State,
    "mips64": Mips64State,
    "mips64el": Mips64State,
}
