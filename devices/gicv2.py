"""Generic interrupt controller, version 2, of one CPU (ARM IHI 0048B; QEMU hw/intc/arm_gic.c).

    distributor (4.3)                          CPU interface (4.4), at 0x10000 as QEMU's virt has it
    0x000 CTLR, 0x004 TYPER, 0x008 IIDR        0x00 CTLR    0x04 PMR    0x08 BPR
    0x100 ISENABLER     0x180 ICENABLER        0x0c IAR     R: acknowledge
    0x200 ISPENDR       0x280 ICPENDR          0x10 EOIR    W: priority drop, and deactivation unless EOImode
    0x300 ISACTIVER     0x380 ICACTIVER        0x14 RPR     0x18 HPPIR
    0x400 IPRIORITYR    0xc00 ICFGR            0xd0 APR     one bit for each active group priority
    0xf00 SGIR          0xf10 CPENDSGIR        0xfc IIDR
    0xf20 SPENDSGIR     0xfd0 identification   0x1000 DIR   W: deactivation

Interrupts 0..15 are software's (SGI), 16..31 the CPU's own (PPI), the rest shared (SPI). A level-sensitive one is pending while
its line is high or software said so; an edge-triggered one from the rising edge to the acknowledgement. An active one does not
interrupt again. Priorities have 8 bits, 0 the highest; BPR says how many of the upper ones preempt (3.3.3).

Registers of single bits take 4-byte accesses, those of bytes any aligned one. ITARGETSR is RAZ/WI, as with one CPU it must be
(4.3.12). Missing: interrupt groups (all are group 0, IGROUPR is RAZ/WI), security and virtualization extensions, other CPUs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.device import Device
from emu.errors import StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, u8, u8s, u32s

log = logging.getLogger(__name__)

WORDS = 9  # of 32 interrupts: 16 SGIs, 16 PPIs, 256 SPIs, as QEMU's virt
INTERRUPTS = 32 * WORDS
SGIS = 16
SPURIOUS = 1023  # 3.2.5
SGI_WORD, SGI_BITS, PPI_BITS = 0, 0x0000_FFFF, 0xFFFF_0000
CPU_INTERFACE = 0x1_0000
IDLE_PRIORITY = 0xFF  # RPR when nothing is active
IDENTIFICATION, DISTRIBUTOR_END = 0xFD0, 0x1000
GICD_ID = bytes((0x04, 0, 0, 0, 0x90, 0xB4, 0x2B, 0, 0x0D, 0xF0, 0x05, 0xB1))  # ARM's, architecture 2 (4.3.18)
PRODUCT = 0x43B  # IIDR: implementer ARM
ARCHITECTURE = 2 << 16  # GICC_IIDR
EDGE = 2  # of an interrupt's two bits in ICFGR


class Gicd(IntEnum):
    """Where each kind of distributor register begins."""

    CTLR = 0x000
    TYPER = 0x004
    IIDR = 0x008
    ISENABLER = 0x100
    ICENABLER = 0x180
    ISPENDR = 0x200
    ICPENDR = 0x280
    ISACTIVER = 0x300
    ICACTIVER = 0x380
    IPRIORITYR = 0x400
    ITARGETSR = 0x800
    ICFGR = 0xC00
    SGIR = 0xF00
    CPENDSGIR = 0xF10
    SPENDSGIR = 0xF20


class Gicc(IntEnum):
    """CPU interface registers."""

    CTLR = 0x00
    PMR = 0x04
    BPR = 0x08
    IAR = 0x0C
    EOIR = 0x10
    RPR = 0x14
    HPPIR = 0x18
    APR = 0xD0  # four words
    IIDR = 0xFC
    DIR = 0x1000


CTLR_ENABLE, CTLR_EOIMODE = 1, 1 << 9
APR_WORDS = 4  # 128 group priorities: BPR 0 leaves one bit to the subpriority


@dataclass(slots=True, kw_only=True)
class GicV2State(State):
    """Interrupt n is bit n % 32 of word n // 32."""

    VMSTATE: ClassVar[VMState] = VMState("gicv2", version=1, minimum=1)
    gicd_ctlr: int = u8(max=CTLR_ENABLE)
    level: list[int] = u32s(WORDS)  # of the lines
    enabled: list[int] = u32s(WORDS)
    pending: list[int] = u32s(WORDS)  # latched: edges, and what software made pending
    active: list[int] = u32s(WORDS)
    edge: list[int] = u32s(WORDS)  # edge-triggered
    priority: list[int] = u8s(INTERRUPTS)
    eoi_mode: int = u8(max=1)
    gicc_ctlr: int = u8(max=CTLR_ENABLE)
    pmr: int = u8()
    bpr: int = u8(max=7)
    apr: list[int] = u32s(APR_WORDS)

    def check(self) -> None:
        """SGIs have no lines, and are edges without a bit to say so."""
        for name, word in (("level", self.level[SGI_WORD]), ("edge", self.edge[SGI_WORD])):
            if word & ~PPI_BITS:
                raise StateError(f"gicv2.{name}[0] is {word:#x}, must be within {PPI_BITS:#x}")


class GicV2(Device[GicV2State]):
    """`irq` is the CPU's interrupt."""

    STATE = GicV2State

    def __init__(self, name: str, irq: IrqLine) -> None:
        self._irq = irq
        self._driven = False  # last given to the CPU, which keeps it in its own state
        self._distributor = _Distributor(self)
        self._cpu_interface = _CpuInterface(self)
        super().__init__(name)

    def line(self, interrupt: int) -> IrqLine:
        """The wire of a PPI or SPI."""
        if not SGIS <= interrupt < INTERRUPTS:
            raise ValueError(f"{self.name} has the lines {SGIS}..{INTERRUPTS - 1}, not {interrupt}")
        return IrqLine(lambda level: self._set_level(interrupt, level))

    def after_load(self) -> None:
        """Work out what the CPU was last told."""
        self._driven = self._interrupts()

    # emu.device.Mmio

    def read(self, offset: int, size: int) -> int:
        """Load a register."""
        if offset < CPU_INTERFACE:
            return self._distributor.read(offset, size)
        return self._cpu_interface.read(offset - CPU_INTERFACE, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        if offset < CPU_INTERFACE:
            self._distributor.write(offset, size, value)
        else:
            self._cpu_interface.write(offset - CPU_INTERFACE, size, value)
        self.update()

    def _set_level(self, interrupt: int, level: bool) -> None:
        state = self.state
        word, bit = interrupt // 32, 1 << interrupt % 32
        if bool(state.level[word] & bit) == level:
            return
        state.level[word] ^= bit
        if level and state.edge[word] & bit:
            state.pending[word] |= bit
        self.update()

    def pending(self, word: int) -> int:
        """What is pending among 32 interrupts."""
        state = self.state
        return state.pending[word] | state.level[word] & ~state.edge[word]

    def best(self) -> tuple[int, int]:
        """The interrupt of the highest priority that could be taken, the lowest among equals, and its priority."""
        state = self.state
        best, highest = SPURIOUS, state.pmr
        if not state.gicd_ctlr or not state.gicc_ctlr:
            return best, highest
        for word in range(WORDS):
            candidates = self.pending(word) & state.enabled[word] & ~state.active[word]
            while candidates:
                interrupt = 32 * word + (candidates & -candidates).bit_length() - 1
                candidates &= candidates - 1
                if state.priority[interrupt] < highest:
                    best, highest = interrupt, state.priority[interrupt]
        return best, highest

    def running_priority(self) -> int:
        """The group priority of what is active; IDLE_PRIORITY if nothing is (4.4.6)."""
        for word, bits in enumerate(self.state.apr):
            if bits:
                return (32 * word + (bits & -bits).bit_length() - 1) << 1
        return IDLE_PRIORITY

    def group_priority(self, priority: int) -> int:
        """The part of a priority that preempts (3.3.3)."""
        return priority & 0xFE << self.state.bpr & 0xFF

    def _interrupts(self) -> bool:
        interrupt, priority = self.best()
        return interrupt != SPURIOUS and self.group_priority(priority) < self.running_priority()

    def update(self) -> None:
        """Tell the CPU whether there is something for it."""
        level = self._interrupts()
        if level != self._driven:
            self._driven = level
            self._irq.set(level)


class _Distributor:
    """The distributor's registers."""

    def __init__(self, gic: GicV2) -> None:
        self._gic = gic

    def read(self, offset: int, size: int) -> int:
        """Load a register."""
        gic, state = self._gic, self._gic.state
        if Gicd.IPRIORITYR <= offset < Gicd.IPRIORITYR + INTERRUPTS:
            first = offset - Gicd.IPRIORITYR
            return int.from_bytes(bytes(state.priority[first : first + size]), "little")
        if IDENTIFICATION <= offset < DISTRIBUTOR_END:
            return GICD_ID[(offset - IDENTIFICATION) // 4]
        if Gicd.CPENDSGIR <= offset < Gicd.SPENDSGIR + SGIS:  # a byte for each SGI, bit 0: CPU 0 sent it
            first = (offset - Gicd.CPENDSGIR) % SGIS
            pending = state.pending[SGI_WORD] >> first
            return sum((pending >> n & 1) << 8 * n for n in range(size))
        if size != 4:
            log.info("%s: guest read %d bytes at %#x of the distributor, registers have 4", gic.name, size, offset)
            return 0
        if offset == Gicd.CTLR:
            return state.gicd_ctlr
        if offset == Gicd.TYPER:
            return WORDS - 1
        if offset == Gicd.IIDR:
            return PRODUCT
        if Gicd.ICFGR <= offset < Gicd.ICFGR + INTERRUPTS // 4:
            return self._configuration(offset - Gicd.ICFGR)
        kind, word = offset & ~0x7F, offset % 0x80 // 4
        if word >= WORDS:
            return 0
        match kind:
            case Gicd.ISENABLER | Gicd.ICENABLER:
                return state.enabled[word]
            case Gicd.ISPENDR | Gicd.ICPENDR:
                return gic.pending(word)
            case Gicd.ISACTIVER | Gicd.ICACTIVER:
                return state.active[word]
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        gic, state = self._gic, self._gic.state
        if Gicd.IPRIORITYR <= offset < Gicd.IPRIORITYR + INTERRUPTS:
            first = offset - Gicd.IPRIORITYR
            state.priority[first : first + size] = value.to_bytes(size, "little")
        elif Gicd.CPENDSGIR <= offset < Gicd.SPENDSGIR + SGIS:
            self._write_sgis(offset, value.to_bytes(size, "little"))
        elif size != 4:
            log.info("%s: guest wrote %d bytes at %#x of the distributor, registers have 4", gic.name, size, offset)
        elif offset == Gicd.CTLR:
            state.gicd_ctlr = value & CTLR_ENABLE
        elif offset == Gicd.SGIR:
            self._send_sgi(value)
        elif Gicd.ICFGR + 4 <= offset < Gicd.ICFGR + INTERRUPTS // 4:
            self._configure(offset - Gicd.ICFGR, value)
        elif offset % 0x80 // 4 < WORDS:
            self._write_bits(offset & ~0x7F, offset % 0x80 // 4, value)

    def _write_bits(self, kind: int, word: int, value: int) -> None:
        state = self._gic.state
        settable = value & ~SGI_BITS if word == SGI_WORD else value  # SGIs become pending by their own registers alone
        match kind:
            case Gicd.ISENABLER:
                state.enabled[word] |= value
            case Gicd.ICENABLER:
                state.enabled[word] &= ~value
            case Gicd.ISPENDR:
                state.pending[word] |= settable
            case Gicd.ICPENDR:
                state.pending[word] &= ~settable
            case Gicd.ISACTIVER:
                state.active[word] |= value
            case Gicd.ICACTIVER:
                state.active[word] &= ~value

    def _configuration(self, offset: int) -> int:
        word, shift = divmod(offset * 4, 32)
        if word == SGI_WORD and not shift:
            return EDGE * 0x5555_5555 & 0xFFFF_FFFF
        edge = self._gic.state.edge[word] >> shift
        return sum(EDGE << 2 * n for n in range(16) if edge >> n & 1)

    def _configure(self, offset: int, value: int) -> None:
        word, shift = divmod(offset * 4, 32)
        edge = sum(1 << n for n in range(16) if value >> 2 * n & EDGE)
        edges = self._gic.state.edge
        edges[word] = edges[word] & ~(0xFFFF << shift) | edge << shift

    def _send_sgi(self, value: int) -> None:
        """To the CPUs in the list, to all others, or to the one that asks (4.3.15)."""
        targets, target_list = value >> 24 & 3, value >> 16 & 0xFF
        if targets == 2 or (targets == 0 and target_list & 1):
            self._gic.state.pending[SGI_WORD] |= 1 << (value & 15)

    def _write_sgis(self, offset: int, data: bytes) -> None:
        state = self._gic.state
        bits = sum((byte & 1) << (offset % SGIS + n) for n, byte in enumerate(data))
        if offset < Gicd.SPENDSGIR:
            state.pending[SGI_WORD] &= ~bits
        else:
            state.pending[SGI_WORD] |= bits


class _CpuInterface:
    """The CPU interface's registers."""

    def __init__(self, gic: GicV2) -> None:
        self._gic = gic

    def read(self, offset: int, size: int) -> int:
        """Load a register."""
        gic, state = self._gic, self._gic.state
        if size != 4:
            log.info("%s: guest read %d bytes at %#x of the CPU interface, registers have 4", gic.name, size, offset)
            return 0
        if Gicc.APR <= offset < Gicc.APR + 4 * APR_WORDS:
            return state.apr[(offset - Gicc.APR) // 4]
        match offset:
            case Gicc.CTLR:
                return state.gicc_ctlr | (CTLR_EOIMODE if state.eoi_mode else 0)
            case Gicc.PMR:
                return state.pmr
            case Gicc.BPR:
                return state.bpr
            case Gicc.IAR:
                return self._acknowledge()
            case Gicc.RPR:
                return gic.running_priority()
            case Gicc.HPPIR:
                return gic.best()[0]
            case Gicc.IIDR:
                return PRODUCT | ARCHITECTURE
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        state = self._gic.state
        if size != 4:
            log.info("%s: guest wrote %d bytes at %#x of the CPU interface, registers have 4", self._gic.name, size, offset)
            return
        match offset:
            case Gicc.CTLR:
                state.gicc_ctlr = value & CTLR_ENABLE
                state.eoi_mode = int(bool(value & CTLR_EOIMODE))
            case Gicc.PMR:
                state.pmr = value & 0xFF
            case Gicc.BPR:
                state.bpr = value & 7
            case Gicc.EOIR:
                self._end(value & 0x3FF)
            case Gicc.DIR if state.eoi_mode:
                self._deactivate(value & 0x3FF)
            case _ if Gicc.APR <= offset < Gicc.APR + 4 * APR_WORDS:
                state.apr[(offset - Gicc.APR) // 4] = value

    def _acknowledge(self) -> int:
        gic, state = self._gic, self._gic.state
        interrupt, priority = gic.best()
        group_priority = gic.group_priority(priority)
        if interrupt == SPURIOUS or group_priority >= gic.running_priority():
            return SPURIOUS
        word, bit = interrupt // 32, 1 << interrupt % 32
        state.pending[word] &= ~bit
        state.active[word] |= bit
        state.apr[group_priority >> 6] |= 1 << (group_priority >> 1 & 31)
        gic.update()
        return interrupt

    def _end(self, interrupt: int) -> None:
        """Drop to the priority that was running before; a spurious interrupt was none (4.4.5)."""
        state = self._gic.state
        if interrupt >= INTERRUPTS:
            return
        for word, bits in enumerate(state.apr):
            if bits:
                state.apr[word] &= bits - 1
                break
        if not state.eoi_mode:
            self._deactivate(interrupt)

    def _deactivate(self, interrupt: int) -> None:
        if interrupt < INTERRUPTS:
            self._gic.state.active[interrupt // 32] &= ~(1 << interrupt % 32)
