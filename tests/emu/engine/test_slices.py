"""Slices: what a device sees of them, how they end, and how they are counted."""

import threading
import time

import pytest

from emu.engine.core import Exit
from tests.emu.engine.riscv import (
    BASE,
    DEVICE,
    ECALL,
    HOLE,
    INC_MEMORY,
    INC_X7,
    JUMP_BACK,
    JUMP_SELF,
    LD_X6_X5,
    LW_X6_X5,
    PRIV_M,
    SD_X6_X5,
    SW_X6_X5,
    WFI,
    Board,
    protect,
)


def test_waiting_for_an_interrupt_halts_past_the_instruction(board: Board) -> None:
    assert board.run(INC_X7, WFI) is Exit.HALTED
    assert (board.engine.halted, board.engine.pc, board["x7"]) == (True, BASE + 8, 1)


def test_register_and_field_are_the_same_state(board: Board) -> None:
    board["mscratch"] = 0x1122334455667788
    assert board.engine.field("mscratch").value == 0x1122334455667788
    board.engine.field("mscratch").value = 5
    assert board["mscratch"] == 5
    assert board.engine.field("priv").value == board["priv"] == PRIV_M


def test_device_sees_offset_size_and_value(board: Board) -> None:
    board["x5"] = DEVICE + 0x20
    board["x6"] = 0x55667788
    board.run(SW_X6_X5, LW_X6_X5, WFI)
    assert board.accesses == [("write", 0x20, 4, 0x55667788), ("read", 0x20, 4, 0)]
    assert board["x6"] == 0x11223344


def test_eight_byte_access_is_two_of_four_in_address_order(board: Board) -> None:
    board["x5"] = DEVICE
    board["x6"] = 0xAAAA_AAAA_5555_5555
    board.run(SD_X6_X5, LD_X6_X5, WFI)
    assert board.accesses == [
        ("write", 0, 4, 0x55555555),
        ("write", 4, 4, 0xAAAAAAAA),
        ("read", 0, 4, 0),
        ("read", 4, 4, 0),
    ]


@pytest.mark.parametrize("count", [0, 1000])
def test_slice_ended_by_a_device_write_writes_once(board: Board, count: int) -> None:
    board["x5"] = DEVICE
    board.on_access = board.engine.end_slice
    assert board.run(SW_X6_X5, INC_X7, JUMP_SELF, count=count) is Exit.STOPPED
    board.on_access = lambda: None
    board.put(8, WFI)
    assert board.engine.run(count) is Exit.HALTED
    assert (len(board.accesses), board["x7"]) == (1, 1)


def test_stops_from_another_thread_lose_and_double_nothing(board: Board) -> None:
    """A read-modify-write loop in memory, stopped as often as can be: the sum is exact."""
    times = 3_000_000
    board["x5"] = BASE + 0x10000
    board.start(*INC_MEMORY, 0xFFF38393, 0xFE0398E3, WFI)  # addi x7, x7, -1; bnez x7, .-16
    ended = threading.Event()

    def pester() -> None:
        while not ended.is_set():
            board.engine.stop()
            time.sleep(0)  # gives the GIL away

    thread = threading.Thread(target=pester)
    thread.start()
    rounds = slices = 0
    while slices < 20:  # a busy host leaves the other thread little of a round's time
        board.engine.pc = BASE
        board["x7"] = times
        while board.engine.run() is Exit.STOPPED:
            slices += 1
        rounds += 1
    ended.set()
    thread.join()
    assert board.ram.words[16, 0] == rounds * times


def test_stop_ends_an_endless_loop(board: Board) -> None:
    board.start(JUMP_SELF)
    threading.Timer(0.02, board.engine.stop).start()
    assert board.engine.run() is Exit.STOPPED
    assert board.engine.pc == BASE


def test_stop_ends_an_endless_counted_slice(board: Board) -> None:
    board.start(JUMP_SELF)
    threading.Timer(0.02, board.engine.stop).start()
    assert board.engine.run(1 << 60) is Exit.STOPPED
    assert 0 < board.engine.executed < 1 << 60


def test_stop_ends_an_endless_loop_of_exceptions(board: Board) -> None:
    board["mtvec"] = HOLE & ~3  # its fetch traps to itself
    protect(board)
    threading.Timer(0.02, board.engine.stop).start()
    assert board.run(ECALL) is Exit.STOPPED
    assert len(board.exceptions) > 2


def test_counted_slice_ends_in_an_endless_loop_of_exceptions(board: Board) -> None:
    board["mtvec"] = HOLE & ~3
    protect(board)
    assert board.run(INC_X7, ECALL, count=1000) is Exit.STOPPED
    assert (board.engine.executed, len(board.exceptions), board["x7"]) == (1000, 999, 1)


@pytest.mark.parametrize(("count", "x7", "pc"), [(1, 1, 4), (2, 1, 0), (1001, 501, 4), (100_000, 50_000, 0)])
def test_count_is_exact(board: Board, count: int, x7: int, pc: int) -> None:
    assert board.run(INC_X7, JUMP_BACK, count=count) is Exit.STOPPED
    assert (board.engine.executed, board["x7"], board.engine.pc) == (count, x7, BASE + pc)


def test_counted_slice_that_halts_says_how_far_it_came(board: Board) -> None:
    assert board.run(INC_X7, WFI, count=1000) is Exit.HALTED
    assert board.engine.executed == 2
    assert board.run(INC_X7, WFI, count=2) is Exit.HALTED
    assert board.engine.executed == 2


def test_callback_in_a_counted_slice_sees_how_far_it_is(board: Board) -> None:
    seen: list[int] = []
    board["x5"] = DEVICE
    board.on_access = lambda: seen.append(board.engine.executed)
    board.run(INC_X7, SW_X6_X5, INC_X7, SW_X6_X5, WFI, count=100)
    assert (seen, board.engine.executed) == ([2, 4], 5)


def test_counted_and_ordinary_slices_may_alternate(board: Board) -> None:
    board["x5"] = DEVICE
    board.on_access = board.engine.end_slice
    board.run(SW_X6_X5, INC_X7, JUMP_SELF, count=10)
    board.run(SW_X6_X5, INC_X7, JUMP_SELF)
    board.run(SW_X6_X5, INC_X7, JUMP_SELF, count=10)
    assert len(board.accesses) == 3
