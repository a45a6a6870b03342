"""A store is slow in pages that code is fetched from, and there alone."""

import time

from emu.engine.core import Exit
from tests.emu.engine.riscv import BASE, INC_X7, LI_X7_1, LI_X7_2, RET, SW_X6_X5, WFI, Board

DATA, CODE = 0x10000, 0x20000  # offsets in RAM, pages of their own
TIMES = 200_000
LOOP = (0xFFF38393, 0xFE039CE3)  # addi x7, x7, -1; bnez x7, .-8
JALR_X5 = 0x000280E7
LW_X8_X5_512 = 0x2002A403  # lw x8, 512(x5)
SW_X8_X5_512 = 0x2082A023  # sw x8, 512(x5)
FENCE_I = 0x0000100F


def seconds(board: Board, *, beside_code: bool) -> float:
    """What TIMES stores take, to a page that is never executed or to one that just was."""
    board.put(DATA, LI_X7_2, RET)
    board["x5"] = BASE + DATA
    if beside_code:
        assert board.run(JALR_X5, WFI) is Exit.HALTED
    board["x5"] = BASE + DATA + 0x100
    board["x7"] = TIMES
    board.start(SW_X6_X5, *LOOP, WFI)
    began = time.perf_counter()
    assert board.engine.run() is Exit.HALTED
    return time.perf_counter() - began


def test_stores_to_pages_that_are_not_executed_are_not_watched(board: Board) -> None:
    watched = min(seconds(board, beside_code=True) for _ in range(3))
    board.engine.flush_tlb()

    assert min(seconds(board, beside_code=False) for _ in range(3)) < watched / 2


def test_a_page_read_before_it_is_executed_is_watched(board: Board) -> None:
    """The load's address translation is in the cache when the code is fetched, and the store's when it is fetched again."""
    board.put(CODE, LI_X7_1, RET)
    board["x5"] = BASE + CODE
    board["x6"] = LI_X7_2
    program = (LW_X8_X5_512, SW_X8_X5_512, JALR_X5, SW_X6_X5, FENCE_I, JALR_X5, INC_X7, WFI)

    assert board.run(*program) is Exit.HALTED
    assert board["x7"] == 3
