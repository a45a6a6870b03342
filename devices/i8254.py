"""The PC's interval timer (Intel 82C54 data sheet, 1993) with the system control port at 0x61 that gates its channel 2.

    0x40..0x42  count of channel 0..2          0x43  control word, counter latch, read-back
    0x61        bit 0 W gate of channel 2, bit 1 W speaker, bit 4 R refresh, bit 5 R output of channel 2

Channel 0's output is interrupt 0: a rising edge each time the count is up. Edges that a slow host missed come as one, as from a
controller whose request is still pending. Missing: BCD counting, hardware-triggered modes' gates on channels 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.clock import Clock
from emu.device import Device
from emu.errors import StateError
from emu.irq import IrqLine
from migration.vmstate import State, VMState, flag, optional_u64, structs, u8, u32, u64

HZ = 1_193_182
SECOND = 1_000_000_000  # ns
FULL = 0x1_0000  # a count of 0
COUNTERS, CONTROL, SYSTEM = 0x40, 0x43, 0x61
REFRESH = 15_085  # ns, half a period of the refresh bit


class Access(IntEnum):
    """Which bytes of a count go over the port."""

    LOW, HIGH, BOTH = 1, 2, 3


class Mode(IntEnum):
    """How a channel counts; 6 and 7 are 2 and 3."""

    TERMINAL, ONE_SHOT, RATE, SQUARE, SOFTWARE_STROBE, HARDWARE_STROBE = range(6)


PERIODIC = (Mode.RATE, Mode.SQUARE)


@dataclass(slots=True, kw_only=True)
class CounterState(State):
    """One channel."""

    VMSTATE: ClassVar[VMState] = VMState("i8254-counter", version=1, minimum=1)
    count: int = u32(FULL, max=FULL)
    mode: int = u8(Mode.SQUARE, max=Mode.HARDWARE_STROBE)
    access: int = u8(Access.BOTH, max=Access.BOTH)
    started: int | None = optional_u64()  # ns of guest time at which the count was loaded
    gate: bool = flag(True)
    written: int | None = optional_u64()  # the low byte, when the high one is awaited
    latched: int | None = optional_u64()  # the count
    status: int | None = optional_u64()  # latched
    high_next: bool = flag()  # of a read


@dataclass(slots=True, kw_only=True)
class PitState(State):
    """Three channels and port 0x61."""

    VMSTATE: ClassVar[VMState] = VMState("i8254", version=1, minimum=1)
    counters: list[CounterState] = structs(CounterState, min_len=3, max_len=3)
    speaker: bool = flag()
    last_edge: int = u64()  # ns of guest time: edges up to then were delivered

    def check(self) -> None:
        """A count of 0 does not exist: it stands for the largest."""
        for index, counter in enumerate(self.counters):
            if not counter.count or not counter.access:
                raise StateError(
                    f"i8254.counters[{index}] has count {counter.count} and access {counter.access}, neither can be 0"
                )
            for name, most in (("written", 0xFF), ("latched", 0xFFFF), ("status", 0xFF)):
                value = getattr(counter, name)
                if value is not None and value > most:
                    raise StateError(f"i8254.counters[{index}].{name} is {value:#x}, must be 0..{most:#x}")


class Pit(Device[PitState]):
    """The timer chip."""

    STATE = PitState

    def __init__(self, name: str, irq: IrqLine, clock: Clock) -> None:
        self._irq = irq
        self._clock = clock
        self._timer = clock.timer(self._edge)
        super().__init__(name)

    def after_load(self) -> None:
        """Arm the timer again."""
        self._arm()

    def read(self, port: int, size: int) -> int:  # noqa: ARG002 - an 8-bit device
        """A load from one of the five ports."""
        if port == SYSTEM:
            counter, now = self.state.counters[2], self._clock.now()
            out = _output(counter, self._ticks(counter))
            return int(counter.gate) | self.state.speaker << 1 | (now // REFRESH & 1) << 4 | out << 5
        if port == CONTROL:
            return 0
        counter = self.state.counters[port - COUNTERS]
        if counter.status is not None:
            status, counter.status = counter.status, None
            return status & 0xFF
        value = _count(counter, self._ticks(counter)) if counter.latched is None else counter.latched
        high = counter.access == Access.HIGH or (counter.access == Access.BOTH and counter.high_next)
        if counter.access == Access.BOTH:
            counter.high_next = not counter.high_next
        if high or counter.access == Access.LOW:
            counter.latched = None
        return value >> 8 & 0xFF if high else value & 0xFF

    def write(self, port: int, size: int, value: int) -> None:  # noqa: ARG002
        """A store to one of the five ports."""
        value &= 0xFF
        if port == SYSTEM:
            self._set_gate(self.state.counters[2], bool(value & 1))
            self.state.speaker = bool(value & 2)
        elif port == CONTROL:
            self._control(value)
        else:
            self._write_count(port - COUNTERS, value)

    def _control(self, value: int) -> None:
        number, access = value >> 6, value >> 4 & 3
        if number == 3:  # read-back: both latches are low-active
            for index, counter in enumerate(self.state.counters):
                if value >> index + 1 & 1:
                    self._latch(counter, count=not value & 0x20, status=not value & 0x10)
        elif access == 0:
            self._latch(self.state.counters[number], count=True, status=False)
        else:
            mode = value >> 1 & 7
            counter = self.state.counters[number]
            counter.access, counter.mode = access, mode & 3 if mode > Mode.HARDWARE_STROBE else mode
            counter.started = counter.written = counter.latched = counter.status = None
            counter.high_next = False
            if number == 0:
                self._irq.set(mode != Mode.TERMINAL)
                self._arm()

    def _latch(self, counter: CounterState, *, count: bool, status: bool) -> None:
        ticks = self._ticks(counter)
        if count and counter.latched is None:
            counter.latched = _count(counter, ticks)
            counter.high_next = False
        if status and counter.status is None:
            loading = counter.started is None
            counter.status = _output(counter, ticks) << 7 | loading << 6 | counter.access << 4 | counter.mode << 1

    def _write_count(self, number: int, value: int) -> None:
        counter = self.state.counters[number]
        if counter.access == Access.BOTH and counter.written is None:
            counter.written = value
            return
        if counter.access == Access.LOW:
            count = value
        else:
            count = value << 8 | (0 if counter.written is None else counter.written & 0xFF)
        counter.written = None
        counter.count = count or FULL
        counter.started = self._clock.now()
        if number == 0:
            self.state.last_edge = counter.started
            if counter.mode == Mode.TERMINAL:
                self._irq.set(False)
            self._arm()

    def _set_gate(self, counter: CounterState, gate: bool) -> None:
        if gate and not counter.gate and counter.started is not None:
            counter.started = self._clock.now()  # modes 1, 2, 3 and 5 begin anew; for 0 and 4 close enough
        counter.gate = gate

    def _ticks(self, counter: CounterState) -> int:
        """Clocks since the count was loaded."""
        return 0 if counter.started is None else max(self._clock.now() - counter.started, 0) * HZ // SECOND

    def _arm(self) -> None:
        counter = self.state.counters[0]
        if counter.started is None:
            self._timer.cancel()
            return
        period = counter.count if counter.mode in PERIODIC or counter.mode < Mode.SOFTWARE_STROBE else counter.count + 1
        done = max(self.state.last_edge - counter.started, 0) * HZ // SECOND // period
        if counter.mode not in PERIODIC and done:
            self._timer.cancel()
            return
        self._timer.arm(counter.started - (-(done + 1) * period * SECOND // HZ))

    def _edge(self) -> None:
        self.state.last_edge = self._clock.now()
        self._irq.set(False)
        self._irq.set(True)
        self._arm()


def _count(counter: CounterState, ticks: int) -> int:
    """What the channel's count shows, 16 bits."""
    if counter.mode == Mode.RATE:
        value = counter.count - ticks % counter.count
    elif counter.mode == Mode.SQUARE:
        value = counter.count - 2 * ticks % counter.count & ~1
    else:
        value = counter.count - ticks
    return value & 0xFFFF


def _output(counter: CounterState, ticks: int) -> bool:
    """The level of the channel's output."""
    match counter.mode:
        case Mode.TERMINAL | Mode.ONE_SHOT:
            return counter.started is not None and ticks >= counter.count
        case Mode.RATE:
            return counter.started is None or ticks % counter.count != counter.count - 1
        case Mode.SQUARE:
            return ticks % counter.count < (counter.count + 1) // 2
        case _:
            return ticks != counter.count
