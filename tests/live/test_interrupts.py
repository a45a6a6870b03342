"""Thousands of timer interrupts while the guest reckons, on every target: none lost, and nothing it reckons is wrong.

The tiny guest's `mem churn` fills memory with a stream of numbers, checks and refills it over and over. Its timer would stand
still meanwhile; but the timer of a `tick` that was broken off goes on where it was as soon as it rings once more, which the
test has it do. Guest time is then moved on by hand, a few ticks at once and at any moment: so the interrupts come anywhere in
the arithmetic, and some with no more than a block of guest code between them.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from devices.generic_timer import ENABLE, GenericTimer
from devices.goldfish_rtc import GoldfishRtc, Reg
from devices.i8254 import CONTROL, COUNTERS, Pit
from emu.clock import VirtualClock
from emu.config import MachineConfig
from emu.machine import Machine
from images import BUNDLED, TINY
from targets import find_target
from targets.riscv.cpu import RiscvCpu
from targets.riscv.state import Irq
from tests.devices.fakes import MemoryChardev
from tests.live.machines import PROMPT, WAIT, wait_for

SEED = os.environ.get("EMU_TEST_SEED", "20260101")
TICK = 10_000_000  # ns
JUMP_MAX = 4  # ticks that are due at once
SOON = TICK // 10  # ns; a PC's timer takes that long at most between interrupts that are due
LONG = 20 * WAIT  # seconds
NEVER = (1 << 64) - 1  # a deadline
PIT_ONE_SHOT = 0x30  # counter 0, both bytes, mode 0


class Guest:
    """The tiny guest of a target, in this process."""

    def __init__(self, target: str, kernel: Path) -> None:
        kernel.write_bytes(BUNDLED[f"{target}-tiny"].read())
        self.console = MemoryChardev()
        config = MachineConfig(target=target, memory=16 << 20, kernel=kernel)
        self.machine = Machine(config, find_target(target), self.console)
        clock = self.machine.savables()[0]
        assert isinstance(clock, VirtualClock)
        self.clock = clock
        self.machine.cont()
        self.wait_for(PROMPT)

    def wait_for(self, text: str) -> None:
        """Wait until the guest has said `text`."""
        wait_for(lambda: text in self.said, repr(text), LONG)

    @property
    def said(self) -> str:
        """What the guest said since the last `type_in`."""
        return self.console.output.decode()

    def type_in(self, text: str) -> None:
        """Type; what comes from now on is the answer."""

        def feed() -> None:
            self.console.output = b""
            self.console.feed(text.encode())

        self.machine.call(feed)

    def ask(self, text: str) -> str:
        """Type, and what the guest says until its prompt."""
        self.type_in(text)
        self.wait_for(PROMPT)
        return self.said

    def interrupts(self) -> int:
        """Timer interrupts since boot, by the guest's own count."""
        found = re.search(r"timer=(\d+)", self.ask("irq\n"))
        assert found
        return int(found[1])

    def let_pass(self, ns: int) -> None:
        """Let guest time pass at once."""
        self.machine.stop()
        state = self.clock.save()
        state.now += ns
        self.machine.call(lambda: self.clock.load(state))
        self.machine.cont()
        while not self.machine.call(self._has_caught_up):
            pass

    def _has_caught_up(self) -> bool:
        deadline = self.clock.next_deadline()
        return deadline is not None and deadline > self.clock.now() + SOON

    # The timer

    def break_off_a_tick(self) -> None:
        """Leave a timer of 10 ms behind that rings no more."""
        self.type_in("tick 1000000\n")
        self.wait_for("tick 3\r\n")
        self.machine.stop()
        ram, now = self._ram(), self.machine.now()
        self.machine.cont()
        self.ask("\x03")
        # A PC's guest keeps its deadline in memory as well, for its timer does not reach far.
        self._deadlines = np.flatnonzero((self._ram() == NEVER) & (ram > now - 100 * TICK) & (ram < now + 100 * TICK))

    def _ram(self) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return self.machine.call(lambda: np.frombuffer(self.machine.board.rams[0].view, np.uint64).copy())

    def ring(self) -> None:
        """Have the timer ring once; on the vCPU thread."""
        board = self.machine.board
        if isinstance(board.cpu, RiscvCpu):
            board.cpu.set_pending(Irq.STIP, True)
        for device in board.devices:
            match device:
                case GenericTimer():
                    device.virtual.write_cval(0)
                    device.virtual.write_ctl(ENABLE)
                case GoldfishRtc() if device.name.startswith("timer"):
                    device.write(Reg.ALARM_LOW, 4, 0)
                case Pit():
                    assert len(self._deadlines) == 1
                    board.memory.write(int(self._deadlines[0]) * 8, bytes(8))
                    device.write(CONTROL, 1, PIT_ONE_SHOT)
                    device.write(COUNTERS, 1, 1)
                    device.write(COUNTERS, 1, 0)


@pytest.fixture
def guest(target: str, tmp_path: Path) -> Iterator[Guest]:
    made = Guest(target, tmp_path / "kernel")
    yield made
    made.machine.close()


def count_ticks(guest: Guest, ticks: int) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    first = guest.machine.now()
    guest.break_off_a_tick()
    before, began = guest.interrupts(), guest.machine.now()
    guest.type_in("mem churn 1 86400 1\n")
    guest.wait_for("mem filled")

    guest.machine.call(guest.ring)
    while guest.machine.now() - began < ticks * TICK:
        guest.let_pass(chance.randrange(JUMP_MAX * TICK))
    said = guest.ask("\x03")
    came = guest.interrupts() - before

    assert re.search(r"mem churn done [1-9]\d*\r\nmem ok 1048576\r\n", said), said[-1000:]
    assert "BAD" not in said
    assert ticks <= came <= (guest.machine.now() - first) // TICK
    assert "\r\ntick 1\r\ntick 2\r\ntick 3\r\n" in guest.ask("tick 3\n")


@pytest.mark.every_target
@pytest.mark.parametrize("target", TINY)
def test_a_thousand_timer_interrupts_change_no_result(guest: Guest) -> None:
    count_ticks(guest, 1000)


@pytest.mark.soak
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("target", TINY)
def test_ten_thousand_timer_interrupts_change_no_result(guest: Guest) -> None:
    count_ticks(guest, 10_000)
