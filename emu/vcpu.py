"""The vCPU thread: runs the guest in slices, and between them everything else that touches guest-visible state.

Three ways in, from any thread: `post` a function, `call` one and wait for its answer, or arm a timer of the clock. Each ends
the slice that is running.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from emu.clock import VirtualClock

T = TypeVar("T")

LONGEST_SLEEP = 3600_000_000_000  # ns: a guest may set its timer to the end of time, further than the host can wait


class Cpu(Protocol):
    """What the vCPU thread drives."""

    @property
    def asleep(self) -> bool:
        """Whether the guest waits for an interrupt and none is there."""

    def run(self) -> None:
        """Run one slice. Ends at a stop, when the guest goes to sleep, or by an exception when it cannot go on."""

    def stop(self) -> None:
        """End the slice; any thread; may be lost when the slice is just starting."""


class Alarm(Protocol):
    """What ends a slice in time: it stops the CPU when it rings, and again and again until it is cleared."""

    def set(self, delay: int) -> None:
        """Ring in `delay` ns; any thread."""

    def clear(self) -> None:
        """Ring no more."""

    def close(self) -> None:
        """Be gone."""


class Vcpu(ABC):
    """One guest CPU and its thread. `running` says whether the guest runs; it changes on the vCPU thread alone."""

    def __init__(self, cpu: Cpu, clock: VirtualClock, on_crash: Callable[[Exception], None]) -> None:
        """`on_crash` is called on the vCPU thread, with the guest paused, when a slice, a timer or a post raises."""
        self.running = False
        self._cpu = cpu
        self._clock = clock
        self._on_crash = on_crash
        self._posts: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="vcpu", daemon=True)
        clock.on_deadline = self._deadline_changed
        self._thread.start()

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on the vCPU thread between slices, soon; any thread."""
        self._posts.append(function)
        self._wake.set()

    def run_next(self, function: Callable[[], None]) -> None:
        """From guest code's own callbacks: run `function` right after this slice, before anything that waits."""
        self._posts.appendleft(function)
        self._cpu.stop()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the vCPU thread between slices; returns or raises what it does. Any thread, the vCPU's included."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as exc:
                future.set_exception(exc)

        self.post(run)
        return future.result()

    def resume(self, first: Callable[[], None] = lambda: None) -> None:
        """Let the guest run and its time pass; `first` is called before its first instruction."""

        def resume() -> None:
            self._resume()
            first()

        self.call(resume)

    def pause(self) -> None:
        """Stop the guest and its time; returns when no guest instruction runs any more."""
        self.call(self._pause)

    @property
    def closed(self) -> bool:
        """Whether the thread has ended: nobody would answer a call."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        self.post(self._close)
        self._thread.join()

    def _close(self) -> None:
        self._closing = True

    def _resume(self) -> None:
        self.running = True
        self._clock.start()

    def _pause(self) -> None:
        self.running = False
        self._clock.stop()

    def _main(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception as exc:
                self._pause()
                self._on_crash(exc)

    @abstractmethod
    def _turn(self) -> None:
        """Do what waits, then run a slice or wait for something to do."""

    @abstractmethod
    def _deadline_changed(self) -> None:
        """A timer of the clock was armed or cancelled, on this thread."""


class TimedVcpu(Vcpu):
    """A vCPU thread whose slices last until somebody waits or a timer is due."""

    def __init__(
        self, cpu: Cpu, clock: VirtualClock, on_crash: Callable[[Exception], None], *, alarm: Callable[[], Alarm]
    ) -> None:
        """`alarm` makes what ends the slices of `cpu`, on the vCPU thread."""
        self._make_alarm = alarm
        self._in_slice = False
        super().__init__(cpu, clock, on_crash)

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on the vCPU thread between slices, soon; any thread."""
        self._posts.append(function)
        if self._in_slice:
            self._cpu.stop()
            self._alarm.set(0)  # until `_turn` clears it, for which it must not have ended before: it wakes
        self._wake.set()

    def _main(self) -> None:
        self._alarm = self._make_alarm()
        super()._main()
        self._alarm.close()

    def _turn(self) -> None:
        self._wake.clear()
        self._alarm.clear()
        while self._posts:
            self._posts.popleft()()
        if self._closing:
            return
        if not self.running:
            self._wake.wait()
            return
        self._clock.fire()
        if self._cpu.asleep:
            self._sleep()
        else:
            self._slice()

    def _sleep(self) -> None:
        deadline = self._clock.next_deadline()
        left = LONGEST_SLEEP if deadline is None else min(deadline - self._clock.now(), LONGEST_SLEEP)
        self._wake.wait(max(left, 0) / 1e9)

    def _slice(self) -> None:
        self._in_slice = True
        self._set_alarm()
        try:
            # Whoever posts after this look sees _in_slice and stops the slice.
            if not self._posts:
                self._cpu.run()
        finally:
            self._in_slice = False

    def _set_alarm(self) -> None:
        deadline = self._clock.next_deadline()
        if deadline is not None and not self._posts:  # else it rings already
            self._alarm.set(min(deadline - self._clock.now(), LONGEST_SLEEP))

    def _deadline_changed(self) -> None:
        if self._in_slice:
            self._set_alarm()
