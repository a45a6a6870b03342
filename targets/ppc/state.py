"""A PowerPC CPU's state in a stream: every register by name.

PowerPC Microprocessor Family: The Programming Environments; MPC7400 RISC Microprocessor User's Manual; Power ISA 3.0B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from emu.errors import StateError
from migration.vmstate import State, VMState, flag, u8s, u32, u32s, u64, u64s

# Special purpose registers by number. Those that have other fields of the state, or show others, are not here.
_TIME = {"DEC": 22, "TBL": 268, "TBU": 269, "TBL_W": 284, "TBU_W": 285}
_SPRS = {"DSISR": 18, "DAR": 19, "SRR0": 26, "SRR1": 27, "VRSAVE": 256, **_TIME, **{f"SPRG{n}": 272 + n for n in range(4)}}
_SPRS_7400 = _SPRS | {
    "SDR1": 25,
    "EAR": 282,
    "UBAMR": 935,
    "MMCR2": 944,
    "BAMR": 951,
    "MMCR0": 952,
    "PMC1": 953,
    "PMC2": 954,
    "SIA": 955,
    "MMCR1": 956,
    "PMC3": 957,
    "PMC4": 958,
    "HID0": 1008,
    "HID1": 1009,
    "IABR": 1010,
    "DABR": 1013,
    "MSSCR0": 1014,
    "MSSCR1": 1015,
    "L2CR": 1017,
    "ICTC": 1019,
    "THRM1": 1020,
    "THRM2": 1021,
    "THRM3": 1022,
    "PIR": 1023,
}
_TIME_POWER10 = {"SPURR": 308, "PURR": 309, "HDEC": 310, "VTB": 849}
_SPRS_POWER10 = _SPRS | {
    "UAMR": 13,
    "DSCR": 17,
    "AMR": 29,
    "ACOP": 31,
    "PID": 48,
    "IAMR": 61,
    "TFHAR": 128,
    "TFIAR": 129,
    "TEXASR": 130,
    "UCTRL": 136,
    "TIDR": 144,
    "CTRL": 152,
    "FSCR": 153,
    "UAMOR": 157,
    "PSPB": 159,
    "DAWR": 180,
    "RPR": 186,
    "CIABR": 187,
    "DAWRX": 188,
    "HFSCR": 190,
    "USPRG3": 259,
    "EAR": 282,
    "HSPRG0": 304,
    "HSPRG1": 305,
    "HDISR": 306,
    "HDAR": 307,
    "HRMOR": 313,
    "HSRR0": 314,
    "HSRR1": 315,
    "MMCRH": 316,
    "TFMR": 317,
    "LPCR": 318,
    "LPIDR": 319,
    "HMER": 336,
    "HMEER": 337,
    "PCR": 338,
    "AMOR": 349,
    "TIR": 446,
    "PTCR": 464,
    "SIER": 784,
    "MMCR2": 785,
    "MMCRA": 786,
    **{f"PMC{n}": 786 + n for n in range(1, 7)},
    "MMCR0": 795,
    "SIAR": 796,
    "SDAR": 797,
    "MMCR1": 798,
    "BESCRS": 800,
    "BESCRR": 802,
    "EBBHR": 804,
    "EBBRR": 805,
    "BESCR": 806,
    "TAR": 815,
    "ASDR": 816,
    "IC": 848,
    "MMCRC": 851,
    "PSSCR": 855,
    "TACR": 888,
    "TCSCR": 889,
    "CSIGR": 890,
    "SPMC1": 892,
    "SPMC2": 893,
    "MMCRS": 894,
    "WORT": 895,
    "PPR": 896,
    "TSCR": 921,
    "HID0": 1008,
    "PIR": 1023,
    **_TIME_POWER10,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What tells one CPU from the other. Names of registers are those of the state's fields, as of the engine's."""

    all_bits: int  # a register of ones
    words: tuple[str, ...]
    lists: Mapping[str, int]  # and how many there are
    sprs: Mapping[str, int]  # name to number
    time: tuple[str, ...]  # those of `sprs` that would count
    msr_bits: int


_WORDS = ("pc", "lr", "ctr", "xer", "so", "ov", "ca", "reserve_addr", "reserve_val")
MPC7400 = Model(
    all_bits=(1 << 32) - 1,
    words=_WORDS,
    lists={"r": 32, "cr": 8, "sr": 16, "ibatu": 4, "ibatl": 4, "dbatu": 4, "dbatl": 4, "f": 32, "vr_high": 32, "vr_low": 32},
    sprs=_SPRS_7400,
    time=tuple(_TIME),
    msr_bits=0x0205_FF77,
)
POWER10 = Model(
    all_bits=(1 << 64) - 1,
    words=(*_WORDS, "cfar", "ov32", "ca32", "reserve_val2", "resume_as_sreset"),
    lists={"r": 32, "cr": 8, "slb_esid": 64, "slb_vsid": 64, "vsr_high": 64, "vsr_low": 64},
    sprs=_SPRS_POWER10,
    time=(*_TIME, *_TIME_POWER10),
    msr_bits=0x9000_0000_0280_FF37,
)

# A segment lookaside buffer's entry (Power ISA 3.0B, III 5.7.8): what the two words can hold, and the page sizes there are.
SLB_ESID = 0xFFFF_FFFF_F800_0000
SLB_SIZES, SLB_PAGES, SLB_PAGE_SIZES = (0, 1), 0x130, (0x000, 0x100, 0x110)  # 256 MiB and 1 TiB; 4 KiB, 16 MiB and 64 KiB
PROBLEM = 1 << 14  # MSR.PR, which brings the three others with it
WITH_PROBLEM = 0x8030  # EE, IR, DR


def _check_msr_and_vscr(name: str, model: Model, msr: int, vscr: int) -> None:
    if msr & ~model.msr_bits:
        raise StateError(f"{name}.msr is {msr:#x}, must be within {model.msr_bits:#x}")
    if vscr & ~0x1_0001:
        raise StateError(f"{name}.vscr is {vscr:#x}, must be within 0x10001")


@dataclass(slots=True, kw_only=True)
class PpcState(State):
    """Everything a guest can see of its CPU. Not saved: the version register, which nothing can change."""

    VMSTATE: ClassVar[VMState] = VMState("ppc-cpu", version=1, minimum=1)
    MODEL: ClassVar[Model] = MPC7400
    pc: int = u32()
    r: list[int] = u32s(32)
    lr: int = u32()
    ctr: int = u32()
    cr: list[int] = u8s(8, max=0xF)
    xer: int = u32()  # without the three bits that follow
    so: int = u32(max=1)
    ov: int = u32(max=1)
    ca: int = u32(max=1)
    msr: int = u32()
    reserve_addr: int = u32()  # LWARX's address, all ones when there is none
    reserve_val: int = u32()
    sr: list[int] = u32s(16)
    ibatu: list[int] = u32s(4)
    ibatl: list[int] = u32s(4)
    dbatu: list[int] = u32s(4)
    dbatl: list[int] = u32s(4)
    sprs: list[int] = u32s(len(MPC7400.sprs))
    f: list[int] = u64s(32)
    fpscr: int = u32()
    vr_high: list[int] = u64s(32)
    vr_low: list[int] = u64s(32)
    vscr: int = u32(max=0x1_0001)
    asleep: bool = flag()  # in a power-saving mode

    def check(self) -> None:
        """MSR has no other bits."""
        _check_msr_and_vscr(self.VMSTATE.name, self.MODEL, self.msr, self.vscr)


@dataclass(slots=True, kw_only=True)
class Ppc64State(State):
    """Everything a guest can see of its CPU. Not saved: the version register; and no transaction is ever open."""

    VMSTATE: ClassVar[VMState] = VMState("ppc64-cpu", version=1, minimum=1)
    MODEL: ClassVar[Model] = POWER10
    pc: int = u64()
    r: list[int] = u64s(32)
    lr: int = u64()
    ctr: int = u64()
    cr: list[int] = u8s(8, max=0xF)
    cfar: int = u64()
    xer: int = u64()  # without the five bits that follow
    so: int = u32(max=1)
    ov: int = u32(max=1)
    ca: int = u32(max=1)
    ov32: int = u32(max=1)
    ca32: int = u32(max=1)
    msr: int = u64()
    reserve_addr: int = u64()  # LDARX's address, all ones when there is none
    reserve_val: int = u64()
    reserve_val2: int = u64()
    slb_esid: list[int] = u64s(64)
    slb_vsid: list[int] = u64s(64)
    sprs: list[int] = u64s(len(POWER10.sprs))
    vsr_high: list[int] = u64s(64)  # the floating point registers are the first 32 of these
    vsr_low: list[int] = u64s(64)
    fpscr: int = u64()
    vscr: int = u32(max=0x1_0001)
    resume_as_sreset: int = u32(max=1)  # asleep in a STOP that a system reset ends
    asleep: bool = flag()  # in STOP

    def check(self) -> None:
        """A segment of a size there is not would be an exception in the middle of loading."""
        name = self.VMSTATE.name
        _check_msr_and_vscr(name, self.MODEL, self.msr, self.vscr)
        if self.msr & PROBLEM and self.msr & WITH_PROBLEM != WITH_PROBLEM:
            raise StateError(f"{name}.msr is {self.msr:#x}, PR must come with {WITH_PROBLEM:#x}")
        for slot, (esid, vsid) in enumerate(zip(self.slb_esid, self.slb_vsid, strict=True)):
            if esid & ~SLB_ESID or vsid >> 62 not in SLB_SIZES or vsid & SLB_PAGES not in SLB_PAGE_SIZES:
                raise StateError(f"{name}.slb[{slot}] is {esid:#x}, {vsid:#x}, which is no segment there can be")


STATES: dict[str, type[PpcState] | type[Ppc64State]] = {"ppc": PpcState, "ppc64": Ppc64State}
