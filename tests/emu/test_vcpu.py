"""The vCPU thread's promises, with a CPU that only waits to be stopped."""

from __future__ import annotations

import threading
import time

import pytest

from emu.clock import VirtualClock
from emu.vcpu import TimedVcpu

WAIT = 10


class FakeCpu:
    """A slice lasts until somebody stops it; the first `lost` stops of a slice get lost."""

    def __init__(self, *, lost: int = 0) -> None:
        self.asleep = False
        self.lost = lost
        self.slices = 0
        self.in_slice = threading.Event()
        self._stop = threading.Event()
        self._left = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        self.slices += 1
        self._left = self.lost
        self._stop.clear()
        self.in_slice.set()
        if self.failure is not None:
            raise self.failure
        assert self._stop.wait(WAIT)
        self.in_slice.clear()

    def stop(self) -> None:
        if self._left:
            self._left -= 1
        else:
            self._stop.set()


class FakeAlarm:
    """Stops a CPU from a thread of its own, every millisecond from when it is due."""

    def __init__(self, cpu: FakeCpu) -> None:
        self._cpu = cpu
        self._due: float | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._ring)
        self._thread.start()

    def _ring(self) -> None:
        with self._changed:
            while not self._closing:
                left = None if self._due is None else self._due - time.monotonic()
                if left is not None and left <= 0:
                    self._cpu.stop()
                    left = 0.001
                self._changed.wait(left)

    def _change(self, due: float | None) -> None:
        with self._changed:
            self._due = due
            self._changed.notify()

    def set(self, delay: int) -> None:
        self._change(time.monotonic() + delay / 1e9)

    def clear(self) -> None:
        self._change(None)

    def close(self) -> None:
        self._closing = True
        self._change(None)
        self._thread.join()


@pytest.fixture
def crashes() -> list[BaseException]:
    return []


def start(cpu: FakeCpu, crashes: list[BaseException]) -> tuple[TimedVcpu, VirtualClock]:
    clock = VirtualClock()
    vcpu = TimedVcpu(cpu, clock, crashes.append, alarm=lambda: FakeAlarm(cpu))
    return vcpu, clock


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_call_gets_in_even_if_stops_are_lost(lost: int, crashes: list[BaseException]) -> None:
    cpu = FakeCpu(lost=lost)
    vcpu, _clock = start(cpu, crashes)
    vcpu.resume()
    assert cpu.in_slice.wait(WAIT)

    assert vcpu.call(lambda: 42) == 42

    vcpu.close()


def test_no_slice_runs_after_a_pause_has_returned(crashes: list[BaseException]) -> None:
    cpu = FakeCpu()
    vcpu, clock = start(cpu, crashes)
    vcpu.resume()
    assert cpu.in_slice.wait(WAIT)

    vcpu.pause()
    slices, now = cpu.slices, clock.now()

    assert vcpu.call(lambda: cpu.slices) == slices
    assert clock.now() == now
    vcpu.close()


def test_a_call_raises_what_its_function_raises(crashes: list[BaseException]) -> None:
    vcpu, _clock = start(FakeCpu(), crashes)

    with pytest.raises(ZeroDivisionError):
        vcpu.call(lambda: 1 // 0)

    assert crashes == []
    vcpu.close()


def test_a_post_that_fails_pauses_the_guest_and_the_thread_lives_on(crashes: list[BaseException]) -> None:
    vcpu, _clock = start(FakeCpu(), crashes)
    vcpu.resume()

    vcpu.post(lambda: [][0])

    assert vcpu.call(lambda: vcpu.running) is False
    assert isinstance(crashes[0], IndexError)
    vcpu.close()


def test_a_timer_that_fails_pauses_the_guest_and_the_thread_lives_on(crashes: list[BaseException]) -> None:
    vcpu, clock = start(FakeCpu(), crashes)
    fired = threading.Event()

    def fail() -> None:
        fired.set()
        raise IndexError

    timer = clock.timer(fail)
    vcpu.resume()

    vcpu.call(lambda: timer.arm(0))

    assert fired.wait(WAIT)
    assert vcpu.call(lambda: vcpu.running) is False
    assert isinstance(crashes[0], IndexError)
    vcpu.close()


def test_a_cpu_that_cannot_go_on_is_reported_and_the_guest_paused(crashes: list[BaseException]) -> None:
    cpu = FakeCpu()
    cpu.failure = ValueError("triple fault")
    vcpu, _clock = start(cpu, crashes)
    vcpu.resume()
    assert cpu.in_slice.wait(WAIT)

    assert vcpu.call(lambda: vcpu.running) is False
    assert str(crashes[0]) == "triple fault"
    vcpu.close()


def test_a_timer_ends_the_slice_when_it_is_due(crashes: list[BaseException]) -> None:
    cpu = FakeCpu()
    vcpu, clock = start(cpu, crashes)
    due = threading.Event()
    timer = clock.timer(due.set)
    vcpu.resume()
    assert cpu.in_slice.wait(WAIT)

    vcpu.call(lambda: timer.arm(clock.now() + 1_000_000))

    assert due.wait(WAIT)
    vcpu.close()


def test_a_sleeping_cpu_wakes_for_its_timer(crashes: list[BaseException]) -> None:
    cpu = FakeCpu()
    cpu.asleep = True
    vcpu, clock = start(cpu, crashes)
    due = threading.Event()
    timer = clock.timer(due.set)
    vcpu.resume()

    vcpu.call(lambda: timer.arm(clock.now() + 1_000_000))

    assert due.wait(WAIT)
    assert cpu.slices == 0
    vcpu.close()


def test_a_sleeping_cpu_wakes_for_its_alarm_clock(crashes: list[BaseException]) -> None:
    cpu = FakeCpu()
    cpu.asleep = True
    vcpu, clock = start(cpu, crashes)
    due = threading.Event()
    alarm = clock.wall_timer(due.set)
    vcpu.resume()

    vcpu.call(lambda: alarm.arm(clock.wall() + 1_000_000))

    assert due.wait(WAIT)
    assert cpu.slices == 0
    vcpu.close()


def test_a_timer_at_the_end_of_time_is_no_crash(crashes: list[BaseException]) -> None:
    cpu = FakeCpu()
    cpu.asleep = True
    vcpu, clock = start(cpu, crashes)
    timer = clock.timer(lambda: None)
    vcpu.resume()

    vcpu.call(lambda: timer.arm((1 << 64) * 100))

    assert vcpu.call(lambda: 1) == 1
    assert crashes == []
    vcpu.close()


def test_what_runs_next_comes_before_what_was_posted(crashes: list[BaseException]) -> None:
    vcpu, _clock = start(FakeCpu(), crashes)
    order: list[str] = []

    def inside() -> None:
        vcpu.post(lambda: order.append("posted"))
        vcpu.run_next(lambda: order.append("next"))

    vcpu.call(inside)

    assert vcpu.call(lambda: list(order)) == ["next", "posted"]
    vcpu.close()
