"""Platform-level interrupt controller of one hart (RISC-V PLIC specification 1.0.0; QEMU hw/intc/sifive_plic.c).

    0x000000 + 4 * source      priority, 0 never interrupts                      chapter 4
    0x001000 + 4 * word        pending bits, read-only                           chapter 5
    0x002000 + 0x80 * context + 4 * word      enable bits                        chapter 6
    0x200000 + 0x1000 * context               threshold: higher ones interrupt   chapter 7
    0x200004 + 0x1000 * context               R: claim, W: complete              chapters 8, 9

Source 0 does not exist. Registers take aligned 32-bit accesses alone; all else, and what is reserved, reads 0 and takes
nothing. Every source is level-triggered: its gateway makes it pending when the line is high and no earlier request is under
way, and again at completion while the line is still high. A line that falls leaves its request pending. Claims disregard the
threshold (chapter 8). Missing: edge-triggered sources, and more priorities than 7.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.device import Device
from emu.errors import StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, structs, u8, u8s, u32s

log = logging.getLogger(__name__)

SOURCES_MAX = 127  # the most that QEMU's virt ever had
CONTEXTS_MAX = 2  # M- and S-mode of the one hart
PRIORITY_MAX = 7
WORDS = (SOURCES_MAX + 1) // 32
ENABLE_STRIDE = 0x80
CONTEXT_STRIDE = 0x1000
MASK32 = (1 << 32) - 1


class Reg(IntEnum):
    """Where each kind of register begins (chapter 3); THRESHOLD and CLAIM are offsets from CONTEXT."""

    PRIORITY = 0x000000
    PENDING = 0x001000
    ENABLE = 0x002000
    CONTEXT = 0x200000
    THRESHOLD = 0x0
    CLAIM = 0x4


@dataclass(slots=True, kw_only=True)
class PlicContextState(State):
    """One interrupt target."""

    VMSTATE: ClassVar[VMState] = VMState("plic-context", version=1, minimum=1)
    enable: list[int] = u32s(WORDS)
    threshold: int = u8(max=PRIORITY_MAX)


@dataclass(slots=True, kw_only=True)
class PlicState(State):
    """All sources and contexts there can be, the absent ones at 0. Source n is bit n % 32, word n // 32."""

    VMSTATE: ClassVar[VMState] = VMState("plic", version=1, minimum=1)
    priority: list[int] = u8s(SOURCES_MAX + 1, max=PRIORITY_MAX)
    level: list[int] = u32s(WORDS)  # of the lines
    pending: list[int] = u32s(WORDS)
    claimed: list[int] = u32s(WORDS)  # claimed and not completed: the gateway is closed
    contexts: list[PlicContextState] = structs(PlicContextState, min_len=CONTEXTS_MAX, max_len=CONTEXTS_MAX)

    def check(self) -> None:
        """Source 0 does not exist, and a gateway forwards one request at a time."""
        if self.priority[0]:
            raise StateError(f"plic.priority[0] is {self.priority[0]}, source 0 does not exist")
        enables = ((f"contexts[{n}].enable", context.enable) for n, context in enumerate(self.contexts))
        for name, words in (("level", self.level), ("pending", self.pending), ("claimed", self.claimed), *enables):
            if words[0] & 1:
                raise StateError(f"plic.{name}[0] is {words[0]:#x}, bit 0 must be 0")
        for n, (pending, claimed, level) in enumerate(zip(self.pending, self.claimed, self.level, strict=True)):
            if pending & claimed:
                raise StateError(f"plic.pending[{n}] is {pending:#x}, claimed[{n}] is {claimed:#x}, must have no bit in common")
            if level & ~(pending | claimed):
                raise StateError(f"plic.level[{n}] is {level:#x}, must be within pending and claimed ({pending | claimed:#x})")


class Plic(Device[PlicState]):
    """`targets` are the external interrupt lines, one for each context in order; `sources` is the device tree's ndev."""

    STATE = PlicState

    def __init__(self, name: str, *targets: IrqLine, sources: int = 95) -> None:
        if not 1 <= sources <= SOURCES_MAX:
            raise ValueError(f"a PLIC has 1..{SOURCES_MAX} sources, not {sources}")
        if not 1 <= len(targets) <= CONTEXTS_MAX:
            raise ValueError(f"a PLIC has 1..{CONTEXTS_MAX} contexts, not {len(targets)}")
        self.sources = sources
        self._targets = targets
        self._driven = [False] * len(targets)  # last given to each target, which keeps it in its own state
        every = (1 << sources + 1) - 2
        self._implemented = [every >> 32 * word & MASK32 for word in range(WORDS)]
        super().__init__(name)

    def line(self, source: int) -> IrqLine:
        """The wire of one source, 1 to `sources`."""
        if not 1 <= source <= self.sources:
            raise ValueError(f"{self.name} has the sources 1..{self.sources}, not {source}")
        return IrqLine(lambda level: self._set_level(source, level))

    def after_load(self) -> None:
        """Work out what the targets were last told; their own states hold it already."""
        self._driven = [self._interrupts(context) for context in range(len(self._targets))]

    # emu.device.Mmio

    def read(self, offset: int, size: int) -> int:
        """Load a register."""
        state = self.state
        if size != 4 or offset % 4:
            log.info("%s: guest read %d bytes at %#x, registers have 4", self.name, size, offset)
            return 0
        if offset >= Reg.CONTEXT:
            context, register = divmod(offset - Reg.CONTEXT, CONTEXT_STRIDE)
            if context < len(self._targets) and register == Reg.THRESHOLD:
                return state.contexts[context].threshold
            if context < len(self._targets) and register == Reg.CLAIM:
                return self._claim(context)
        elif offset >= Reg.ENABLE:
            context, word = self._enable_word(offset)
            if context < len(self._targets) and word < WORDS:
                return state.contexts[context].enable[word]
        elif offset >= Reg.PENDING:
            word = (offset - Reg.PENDING) // 4
            if word < WORDS:
                return state.pending[word]
        elif offset // 4 <= self.sources:
            return state.priority[offset // 4]
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register."""
        state = self.state
        if size != 4 or offset % 4:
            log.info("%s: guest wrote %d bytes at %#x, registers have 4", self.name, size, offset)
            return
        if offset >= Reg.CONTEXT:
            context, register = divmod(offset - Reg.CONTEXT, CONTEXT_STRIDE)
            if context < len(self._targets) and register == Reg.THRESHOLD:
                state.contexts[context].threshold = value & PRIORITY_MAX
            elif context < len(self._targets) and register == Reg.CLAIM:
                self._complete(context, value)
        elif offset >= Reg.ENABLE:
            context, word = self._enable_word(offset)
            if context < len(self._targets) and word < WORDS:
                state.contexts[context].enable[word] = value & self._implemented[word]
        elif offset < Reg.PENDING and 1 <= offset // 4 <= self.sources:
            state.priority[offset // 4] = value & PRIORITY_MAX
        self._update()

    @staticmethod
    def _enable_word(offset: int) -> tuple[int, int]:
        context, register = divmod(offset - Reg.ENABLE, ENABLE_STRIDE)
        return context, register // 4

    # Gateways, claims

    def _set_level(self, source: int, level: bool) -> None:
        state = self.state
        word, bit = source // 32, 1 << source % 32
        if bool(state.level[word] & bit) == level:
            return
        state.level[word] ^= bit
        if level and not (state.pending[word] | state.claimed[word]) & bit:
            state.pending[word] |= bit
            self._update()

    def _claim(self, context: int) -> int:
        state = self.state
        source, _priority = self._best(context)
        if source:
            word, bit = source // 32, 1 << source % 32
            state.pending[word] &= ~bit
            state.claimed[word] |= bit
            self._update()
        return source

    def _complete(self, context: int, source: int) -> None:
        """Open the gateway again; ignored for a source that is not enabled here (chapter 9) or was not claimed."""
        state = self.state
        word, bit = source // 32, 1 << source % 32
        if source > self.sources or not state.contexts[context].enable[word] & state.claimed[word] & bit:
            log.info("%s: guest completed %d in context %d, which it has not claimed", self.name, source, context)
            return
        state.claimed[word] &= ~bit
        state.pending[word] |= state.level[word] & bit

    def _best(self, context: int) -> tuple[int, int]:
        """The pending enabled source of the highest priority, the lowest among equals (1.4), and its priority; 0, 0 if none."""
        state = self.state
        best = highest = 0
        for word, enabled in enumerate(state.contexts[context].enable):
            candidates = state.pending[word] & enabled
            while candidates:
                source = 32 * word + (candidates & -candidates).bit_length() - 1
                candidates &= candidates - 1
                if state.priority[source] > highest:
                    best, highest = source, state.priority[source]
        return best, highest

    def _interrupts(self, context: int) -> bool:
        _source, priority = self._best(context)
        return priority > self.state.contexts[context].threshold

    def _update(self) -> None:
        for context, target in enumerate(self._targets):
            level = self._interrupts(context)
            if level != self._driven[context]:
                self._driven[context] = level
                target.set(level)
