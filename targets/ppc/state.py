"""A PowerPC CPU's state in a stream: every register by name.

PowerPC Microprocessor Family: The Programming Environments; MPC7400 RISC Microprocessor User's Manual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from emu.errors import StateError
from migration.vmstate import State, VMState, flag, u8s, u32, u32s, u64s

# Special purpose registers by number. Those that translate addresses or count have fields of their own.
SPRS: dict[str, int] = {
    "DSISR": 18,
    "DAR": 19,
    "DEC": 22,
    "SDR1": 25,
    "SRR0": 26,
    "SRR1": 27,
    "VRSAVE": 256,
    "TBL": 268,
    "TBU": 269,
    "TBL_W": 284,
    "TBU_W": 285,
    **{f"SPRG{n}": 272 + n for n in range(4)},
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
MSR_BITS = 0x0205_FF77


@dataclass(slots=True, kw_only=True)
class PpcState(State):
    """Everything a guest can see of its CPU. Not saved: the version register, which nothing can change."""

    VMSTATE: ClassVar[VMState] = VMState("ppc-cpu", version=1, minimum=1)
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
    sprs: list[int] = u32s(len(SPRS))
    f: list[int] = u64s(32)
    fpscr: int = u32()
    vr_high: list[int] = u64s(32)
    vr_low: list[int] = u64s(32)
    vscr: int = u32(max=0x1_0001)
    asleep: bool = flag()  # in a power-saving mode

    def check(self) -> None:
        """MSR has no other bits."""
        if self.msr & ~MSR_BITS:
            raise StateError(f"{self.VMSTATE.name}.msr is {self.msr:#x}, must be within {MSR_BITS:#x}")
        if self.vscr & ~0x1_0001:
            raise StateError(f"{self.VMSTATE.name}.vscr is {self.vscr:#x}, must be within 0x10001")
