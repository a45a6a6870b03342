"""ARM generic timer of one CPU (ARM DDI 0487, D11): a counter, and a physical and a virtual timer that compare with it.

    CNTPCT, CNTVCT   the count, 62.5 MHz of guest time; the virtual offset is 0, so both are one
    CTL   bit 0 ENABLE, bit 1 IMASK, bit 2 ISTATUS (read-only): the condition is met
    CVAL  the condition is met when the count has reached it
    TVAL  CVAL seen from now, 32 bits, signed

They are system registers; the target gives the guest access to them. Missing: the timers of the hypervisor and of the secure
world, which guests do not see, and event streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from emu.clock import Clock
from emu.device import Device
from emu.irq import IrqLine
from migration.vmstate import State, VMState, struct, u8, u64

NS_PER_TICK = 16
FREQUENCY = 1_000_000_000 // NS_PER_TICK  # Hz, as QEMU's CPUs that are older than ARMv8.6
MASK64 = (1 << 64) - 1
ENABLE, IMASK, ISTATUS = 1, 2, 4


@dataclass(slots=True, kw_only=True)
class ComparatorState(State):
    """One of the two timers."""

    VMSTATE: ClassVar[VMState] = VMState("generic-timer-comparator", version=1, minimum=1)
    ctl: int = u8(max=ENABLE | IMASK)
    cval: int = u64()


@dataclass(slots=True, kw_only=True)
class GenericTimerState(State):
    """Both timers; the count is guest time."""

    VMSTATE: ClassVar[VMState] = VMState("generic-timer", version=1, minimum=1)
    physical: ComparatorState = struct(ComparatorState)
    virtual: ComparatorState = struct(ComparatorState)


class Comparator:
    """The registers of one timer."""

    def __init__(self, clock: Clock, irq: IrqLine) -> None:
        self.state = ComparatorState()
        self._clock = clock
        self._irq = irq
        self._timer = clock.timer(self._update)

    def take_over(self, state: ComparatorState) -> None:
        """Go on with another state; the interrupt line's level is in the controller's."""
        self.state = state
        self._timer.cancel()
        if state.ctl == ENABLE:  # even if it is due: guest time may have stopped before the interrupt was raised
            self._timer.arm(state.cval * NS_PER_TICK)

    def read_ctl(self) -> int:
        """CTL."""
        return self.state.ctl | (ISTATUS if self._met() else 0)

    def write_ctl(self, value: int) -> None:
        """CTL; its status takes nothing."""
        self.state.ctl = value & (ENABLE | IMASK)
        self._update()

    def read_cval(self) -> int:
        """CVAL."""
        return self.state.cval

    def write_cval(self, value: int) -> None:
        """CVAL."""
        self.state.cval = value
        self._update()

    def read_tval(self) -> int:
        """TVAL, as an unsigned number."""
        return (self.state.cval - count(self._clock)) & 0xFFFF_FFFF

    def write_tval(self, value: int) -> None:
        """TVAL; bits above 31 take nothing."""
        low = value & 0xFFFF_FFFF
        self.write_cval((count(self._clock) + (low ^ 1 << 31) - (1 << 31)) & MASK64)

    def _met(self) -> bool:
        return bool(self.state.ctl & ENABLE) and count(self._clock) >= self.state.cval

    def _update(self) -> None:
        met = self._met()
        self._irq.set(met and not self.state.ctl & IMASK)
        if self.state.ctl == ENABLE and not met:
            self._timer.arm(self.state.cval * NS_PER_TICK)
        else:
            self._timer.cancel()


class GenericTimer(Device[GenericTimerState]):
    """`physical` and `virtual` hold the registers."""

    STATE = GenericTimerState

    def __init__(self, name: str, clock: Clock, *, physical: IrqLine, virtual: IrqLine) -> None:
        """The lines are the timers' interrupts, level-triggered."""
        self._clock = clock
        self.physical = Comparator(clock, physical)
        self.virtual = Comparator(clock, virtual)
        super().__init__(name)

    def count(self) -> int:
        """CNTPCT and CNTVCT."""
        return count(self._clock)

    def after_load(self) -> None:
        """Hand the states over and arm the timers."""
        self.physical.take_over(self.state.physical)
        self.virtual.take_over(self.state.virtual)


def count(clock: Clock) -> int:
    """Ticks of guest time."""
    return clock.now() // NS_PER_TICK
