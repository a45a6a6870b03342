"""What ends slices in time, by a signal to the thread that runs them."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from emu.engine.alarm import AGAIN, Alarm
from emu.engine.core import Exit
from tests.emu.engine.riscv import BASE, INC_MEMORY, JUMP_SELF, WFI, Board

COUNT_DOWN = (*INC_MEMORY, 0xFFF38393, 0xFE0398E3, WFI)  # addi x7, x7, -1; bnez x7, .-16


@pytest.fixture
def alarm(board: Board) -> Iterator[Alarm]:
    alarm = board.engine.alarm()
    yield alarm
    alarm.close()


def start_counting(board: Board, times: int) -> None:
    board["x5"] = BASE + 0x10000
    board["x7"] = times
    board.start(*COUNT_DOWN)


def test_it_ends_a_slice_when_it_is_due_and_not_before(board: Board, alarm: Alarm) -> None:
    board.start(JUMP_SELF)
    began = time.monotonic_ns()
    alarm.set(5_000_000)

    assert board.engine.run() is Exit.STOPPED
    assert time.monotonic_ns() - began >= 5_000_000


def test_it_rings_until_it_is_cleared(board: Board, alarm: Alarm) -> None:
    board.start(JUMP_SELF)
    alarm.set(0)

    assert [board.engine.run() for _ in range(5)] == [Exit.STOPPED] * 5

    alarm.clear()
    start_counting(board, 5_000_000)
    began = time.monotonic_ns()
    assert board.engine.run() is Exit.HALTED
    assert time.monotonic_ns() - began > AGAIN


def test_none_is_lost_that_comes_as_a_slice_starts(board: Board, alarm: Alarm) -> None:
    board.start(JUMP_SELF)
    for _ in range(200):
        alarm.set(0)
        assert board.engine.run() is Exit.STOPPED
        alarm.clear()


def test_slices_of_any_length_lose_and_double_nothing(board: Board, alarm: Alarm) -> None:
    """A read-modify-write loop in memory, stopped as often as can be: the sum is exact."""
    times, dice, slices = 5_000_000, random.Random(1), 1
    start_counting(board, times)
    alarm.set(0)
    while board.engine.run() is Exit.STOPPED:
        alarm.set(dice.randrange(100_000))
        slices += 1

    assert board.ram.words[16, 0] == times
    assert slices > 10


def test_a_system_call_of_its_thread_goes_on(alarm: Alarm) -> None:
    reading, writing = os.pipe()
    alarm.set(0)
    threading.Timer(0.02, os.write, (writing, b"x")).start()

    assert os.read(reading, 1) == b"x"

    os.close(reading)
    os.close(writing)


def test_it_rings_on_its_own_thread_alone(board: Board) -> None:
    made, may_end = threading.Event(), threading.Event()

    def other() -> None:
        alarm = board.engine.alarm()
        alarm.set(0)
        made.set()
        may_end.wait()
        alarm.close()

    thread = threading.Thread(target=other)
    thread.start()
    made.wait()
    board.start(JUMP_SELF)

    assert board.engine.run() is Exit.STOPPED  # the CPU is stopped from there, as by any other thread

    may_end.set()
    thread.join()
    start_counting(board, 5_000_000)
    assert board.engine.run() is Exit.HALTED
