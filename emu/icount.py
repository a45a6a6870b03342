"""Deterministic mode (`--icount`): guest time is the number of instructions executed, and runs are equal bit for bit.

    next deadline, or end of the quantum -.
    guest runs a counted slice up to there |-> timers fire, at their exact instruction -> what waits outside is let in -> ...
    guest asleep: time goes there at once -'                                              (at the end of a quantum alone)

Where a slice ends follows from the guest's own state and nothing else: a deadline, a device that asks for it, the end of a
quantum. Whoever comes from outside (a monitor command, a save, a migration, console input) waits for the end of a quantum,
where the CPU forgets its cached address translations in every run, whether somebody came or not. So a guest that was stopped
there, saved and loaded by another process is in every respect what it would have been, and goes on as if nothing had happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from emu.clock import VirtualClock
from emu.vcpu import Cpu, Vcpu

NS_PER_INSTRUCTION = 4  # a guest of 250 MIPS, about what counted slices do
QUANTUM = 2_000_000  # ns of guest time; an outsider waits a few ms for its end, the flush there costs some per cent
NEVER = 1 << 62  # ns; a timer set to the end of time is none, else an idle guest would skip to there


class CountingEngine(Protocol):
    """The engine below the CPU."""

    budget: int  # instructions the next slice executes at most; setting it begins the slice

    @property
    def executed(self) -> int:
        """Instructions of the slice; in a callback, those up to and with the current."""

    def flush_tlb(self) -> None:
        """Forget all address translations."""


class InstructionTime:
    """The time that a deterministic machine's clock is driven by, in place of the host's."""

    def __init__(self) -> None:
        self._passed = 0  # ns, up to the running slice
        self._engine: CountingEngine | None = None  # of the running slice

    def now(self) -> int:
        """Nanoseconds; within a slice exact to the instruction, the current one counted."""
        engine = self._engine
        return self._passed + (0 if engine is None else engine.executed * NS_PER_INSTRUCTION)

    def skip(self, ns: int) -> None:
        """Let time pass without instructions."""
        self._passed += ns

    def run_slice(self, cpu: Cpu, engine: CountingEngine, ns: int) -> None:
        """Run instructions for `ns`, rounded up to whole ones, or as many as the guest comes to."""
        engine.budget = -(-ns // NS_PER_INSTRUCTION)
        self._engine = engine
        try:
            cpu.run()
        finally:
            self._passed = self.now()
            self._engine = None


class CountedVcpu(Vcpu):
    """A vCPU thread whose slices are counted."""

    def __init__(
        self,
        cpu: Cpu,
        clock: VirtualClock,
        on_crash: Callable[[Exception], None],
        *,
        engine: CountingEngine,
        time: InstructionTime,
    ) -> None:
        """`time` is what drives `clock`, `engine` what `cpu` runs on."""
        self._engine = engine
        self._time = time
        self._next: deque[Callable[[], None]] = deque()  # ordered by the guest: not for the end of the quantum to wait
        self._quantum_end = 0  # guest ns
        self._slicing = False
        self._deadline: int | None = None  # that the running slice ends at
        super().__init__(cpu, clock, on_crash)

    def run_next(self, function: Callable[[], None]) -> None:
        """From guest code's own callbacks: run `function` right after this slice."""
        self._next.appendleft(function)
        self._cpu.stop()

    def _resume(self) -> None:
        super()._resume()
        self._quantum_end = -(-self._clock.now() // QUANTUM) * QUANTUM

    def _turn(self) -> None:
        self._wake.clear()
        self._run_all(self._next)
        if self.running:
            self._clock.fire()
        if (not self.running or self._quantum_over()) and self._posts:
            self._run_all(self._posts)
            return  # everything may be different now
        if not self.running:
            self._wake.wait()
            return
        now, deadline = self._clock.now(), self._next_deadline()
        if deadline is not None and deadline <= now:
            return  # a timer was armed as another fired
        if not self._cpu.asleep:
            self._count_slice(now, deadline)
        elif deadline is not None:
            self._time.skip(deadline - now)
        else:
            self._wake.wait()

    @staticmethod
    def _run_all(functions: deque[Callable[[], None]]) -> None:
        while functions:
            functions.popleft()()

    def _next_deadline(self) -> int | None:
        deadline = self._clock.next_deadline()
        return None if deadline is None or deadline > NEVER else deadline

    def _quantum_over(self) -> bool:
        """Whether outsiders may come in: the quantum is used up, or the guest waits for one of them."""
        now = self._clock.now()
        if now < self._quantum_end and not (self._cpu.asleep and self._next_deadline() is None):
            return False
        self._engine.flush_tlb()  # a guest that is loaded from here has no cached translations either
        self._quantum_end = (now // QUANTUM + 1) * QUANTUM
        return True

    def _count_slice(self, now: int, deadline: int | None) -> None:
        self._deadline, self._slicing = deadline, True
        end = self._quantum_end if deadline is None else min(deadline, self._quantum_end)
        try:
            self._time.run_slice(self._cpu, self._engine, end - now)
        finally:
            self._slicing = False

    def _deadline_changed(self) -> None:
        # Also when it is later now: a slice must not end at a deadline that a guest loaded meanwhile would not know of.
        if self._slicing and self._next_deadline() != self._deadline:
            self._cpu.stop()
