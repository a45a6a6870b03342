"""A hart's state in a stream: every register by name, at its width.

Privileged architecture 1.10 with PMP; no Sstc, no AIA, no hypervisor extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.errors import StateError
from migration.vmstate import State, VMState, flag, u8, u32, u32s, u64, u64s


class Priv(IntEnum):
    """Privilege modes (privileged spec 1.2)."""

    U = 0
    S = 1
    M = 3


class Irq(IntEnum):
    """Bits of mip and mie (3.1.9)."""

    SSIP = 1
    MSIP = 3
    STIP = 5
    MTIP = 7
    SEIP = 9
    MEIP = 11


MIP_MASK = 0xFFF  # the bits that may be set at all
MIP_BITS = sum(1 << bit for bit in Irq)

# Number of every CSR that is saved (table 2.2 ff.). Read and written through the library's own access path, which masks and
# flushes as for a guest's write. In load order: pmpcfg behind pmpaddr, because a locked entry takes no address.
_CSRS: dict[str, int] = {
    "mstatus": 0x300,
    "medeleg": 0x302,
    "mideleg": 0x303,
    "mie": 0x304,
    "mtvec": 0x305,
    "mcounteren": 0x306,
    "mscratch": 0x340,
    "mepc": 0x341,
    "mcause": 0x342,
    "mtval": 0x343,
    "stvec": 0x105,
    "scounteren": 0x106,
    "sscratch": 0x140,
    "sepc": 0x141,
    "scause": 0x142,
    "stval": 0x143,
    "satp": 0x180,
    **{f"pmpaddr{n}": 0x3B0 + n for n in range(16)},
    "pmpcfg0": 0x3A0,
}

# Bits a CSR can have set; others would be dropped on load, so a state that has them is not one of ours.
_LEGAL: dict[str, int] = {
    "medeleg": 0xB0_BFFF,
    "mideleg": 0x666,
    "mie": 0xEEE,
    "mtvec": ~0x2,
    "stvec": ~0x2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """What a hart's width decides."""

    xlen: int  # bits of an integer register
    csrs: Mapping[str, int]  # name to number, in load order
    legal: Mapping[str, int]  # name to the bits that can be set, where not all can
    satp_mode: int  # the lowest bit of satp.MODE
    satp_modes: tuple[int, ...]
    megapage: int  # bytes that a leaf one level above pages maps
    isa_string: str  # of the device tree, as mmu_type is
    mmu_type: str

    @property
    def all_bits(self) -> int:
        """A register of ones."""
        return (1 << self.xlen) - 1


RV32 = Width(
    xlen=32,
    csrs=_CSRS | {"mstatush": 0x310, "pmpcfg1": 0x3A1, "pmpcfg2": 0x3A2, "pmpcfg3": 0x3A3},
    legal=_LEGAL | {"mstatus": 0xE01E_79AA, "mstatush": 0xC0},
    satp_mode=31,
    satp_modes=(0, 1),  # bare, Sv32
    megapage=4 << 20,
    isa_string="rv32imafdc",
    mmu_type="riscv,sv32",
)
RV64 = Width(
    xlen=64,
    csrs=_CSRS,  # pmpcfg2 takes no writes in this engine: entries 8 to 15 stay off
    legal=_LEGAL | {"mstatus": 0x8000_00C0_601E_79AA},
    satp_mode=60,
    satp_modes=(0, 8, 9, 10),  # bare, Sv39, Sv48, Sv57
    megapage=2 << 20,
    isa_string="rv64imafdc",
    mmu_type="riscv,sv48",
)


@dataclass(slots=True, kw_only=True)
class Riscv64State(State):
    """Everything a guest can see of its hart. Its cycle and instret counters show the time, which the board saves."""

    VMSTATE: ClassVar[VMState] = VMState("riscv64-cpu", version=1, minimum=1)
    WIDTH: ClassVar[Width] = RV64
    pc: int = u64()
    x: list[int] = u64s(32)
    f: list[int] = u64s(32)
    fcsr: int = u32(max=0xFF)
    priv: int = u8(Priv.M, max=Priv.M)
    mip: int = u64(max=MIP_MASK)
    csrs: list[int] = u64s(len(RV64.csrs))
    reservation: int = u64(RV64.all_bits)  # LR's address, all ones when there is none
    reserved_value: int = u64()
    asleep: bool = flag()  # in WFI

    def check(self) -> None:
        """Modes that do not exist would end the process inside the library."""
        name, width = self.VMSTATE.name, self.WIDTH
        if self.priv not in tuple(Priv):
            raise StateError(f"{name}.priv is {self.priv}, must be 0, 1 or 3")
        if self.x[0]:
            raise StateError(f"{name}.x[0] is {self.x[0]:#x}, must be 0")
        for csr, value in zip(width.csrs, self.csrs, strict=True):
            legal = width.legal.get(csr, width.all_bits)
            if value & ~legal:
                raise StateError(f"{name}.{csr} is {value:#x}, must be within {legal & width.all_bits:#x}")
        mode = self.csrs[list(width.csrs).index("satp")] >> width.satp_mode
        if mode not in width.satp_modes:
            raise StateError(f"{name}.satp has mode {mode}, must be one of {width.satp_modes}")
        if self.mip & ~MIP_BITS:
            raise StateError(f"{name}.mip is {self.mip:#x}, must be within {MIP_BITS:#x}")


@dataclass(slots=True, kw_only=True)
class Riscv32State(Riscv64State):
    """The same of a hart whose registers have 32 bits, those of floating point apart."""

    VMSTATE: ClassVar[VMState] = VMState("riscv32-cpu", version=1, minimum=1)
    WIDTH: ClassVar[Width] = RV32
    pc: int = u32()
    x: list[int] = u32s(32)
    csrs: list[int] = u32s(len(RV32.csrs))
    reservation: int = u32(RV32.all_bits)
    reserved_value: int = u32()


STATES: dict[str, type[Riscv64State]] = {"riscv32": Riscv32State, "riscv64": Riscv64State}
