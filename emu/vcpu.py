"""The vCPU thread: runs the guest in slices, and between them everything else that touches guest-visible state.

Three ways in, from any thread: `post` a function, `call` one and wait for its answer, or arm a timer of the clock. Each ends
the slice that is running. A stop that comes while a slice is just starting is lost inside Unicorn, so a helper thread, the
kicker, stops the slice again every millisecond for as long as somebody waits; it also ends slices at the clock's deadlines.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from emu.clock import VirtualClock

T = TypeVar("T")

LOST_STOP_RETRY = 0.001  # seconds
POLL = 0.010  # seconds between the kicker's looks at a busy vCPU; bounds the delay of a stop that was lost unnoticed
LONGEST_SLEEP = 3600.0  # seconds
PARK_AFTER = 5  # polls that find the vCPU asleep before the kicker sleeps too


class Cpu(Protocol):
    """What the vCPU thread drives."""

    @property
    def asleep(self) -> bool:
        """Whether the guest waits for an interrupt and none is there."""

    def run(self) -> None:
        """Run one slice. Ends at a stop, when the guest goes to sleep, or by an exception when it cannot go on."""

    def stop(self) -> None:
        """End the slice; any thread; may be lost when the slice is just starting."""


class Vcpu:
    """One guest CPU and its thread. `running` says whether the guest runs; it changes on the vCPU thread alone."""

    def __init__(self, cpu: Cpu, clock: VirtualClock, on_crash: Callable[[Exception], None]) -> None:
        """`on_crash` is called on the vCPU thread, with the guest paused, when a slice, a timer or a post raises."""
        self.running = False
        self._cpu = cpu
        self._clock = clock
        self._on_crash = on_crash
        self._posts: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._kicker_wake = threading.Event()
        self._kick_at: int | None = 0  # guest ns at which the kicker looks next; None: only when woken
        self._in_slice = False
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="vcpu", daemon=True)
        self._kicker = threading.Thread(target=self._kick, name="kicker", daemon=True)
        clock.on_deadline = self._deadline_changed
        self._thread.start()
        self._kicker.start()

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on the vCPU thread between slices, soon; any thread."""
        self._posts.append(function)
        if self._in_slice:
            self._cpu.stop()
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
        if self._in_slice:
            self._kicker_wake.set()
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

    def close(self) -> None:
        """End both threads."""
        self.post(self._close)
        self._kicker_wake.set()
        self._thread.join()
        self._kicker.join()

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
        self._kicker_wake.set()

    def _turn(self) -> None:
        self._wake.clear()
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
        # A guest may set its timer to the end of time, further than the host can wait.
        left = LONGEST_SLEEP if deadline is None else (deadline - self._clock.now()) / 1e9
        self._wake.wait(min(max(left, 0), LONGEST_SLEEP))

    def _slice(self) -> None:
        deadline = self._clock.next_deadline()
        self._in_slice = True
        if self._kick_at is None or (deadline is not None and deadline < self._kick_at):
            self._kicker_wake.set()
        try:
            # Whoever posts after this look sees _in_slice and stops the slice.
            if not self._posts:
                self._cpu.run()
        finally:
            self._in_slice = False

    def _deadline_changed(self) -> None:
        deadline = self._clock.next_deadline()
        if self._in_slice and deadline is not None and (self._kick_at is None or deadline < self._kick_at):
            self._kicker_wake.set()

    def _kick(self) -> None:
        idle_polls = 0
        while not self._closing:
            wait = POLL
            if self._in_slice:
                idle_polls = 0
                deadline = self._clock.next_deadline()
                left = POLL if deadline is None else (deadline - self._clock.now()) / 1e9
                if self._posts or left <= 0:
                    self._cpu.stop()
                    wait = LOST_STOP_RETRY
                else:
                    wait = min(POLL, left)
            else:
                idle_polls += 1
            parked = idle_polls > PARK_AFTER
            self._kick_at = None if parked else self._clock.now() + int(wait * 1e9)
            self._kicker_wake.wait(None if parked else wait)
            self._kicker_wake.clear()
