"""Code that is rewritten, by the guest or by the host, is executed anew."""

import pytest

from emu.engine.core import Engine, Exit
from emu.ram import Ram
from tests.emu.engine.riscv import BASE, DEVICE, INC_X7, LI_X7_1, LI_X7_2, PRIV_S, REG, RET, SIZE, SW_X6_X5, WFI, Board


def test_code_rewritten_by_the_host_is_executed_anew(board: Board) -> None:
    board.run(LI_X7_1, WFI)
    board.run(LI_X7_2, WFI)
    assert board["x7"] == 2


def test_code_rewritten_without_a_word_is_not_noticed(board: Board) -> None:
    """Why `invalidate_code` exists; should this fail, the engine can do without."""
    board.run(LI_X7_1, WFI)
    board.ram.view[0:4] = LI_X7_2.to_bytes(4, "little")
    board.engine.pc = BASE
    board.engine.run()
    assert board["x7"] == 1


def test_flush_code_forgets_everything(board: Board) -> None:
    board.run(LI_X7_1, WFI)
    board.ram.view[0:4] = LI_X7_2.to_bytes(4, "little")
    board.engine.flush_code()
    board.engine.pc = BASE
    board.engine.run()
    assert board["x7"] == 2


def test_invalidation_goes_by_physical_address_in_the_right_block() -> None:
    low, high = Ram("low", 0x2000, 0x1000), Ram("high", BASE, 0x2000)
    engine = Engine("riscv64")
    engine.map_ram(high.base, high.address, high.size)
    engine.map_ram(low.base, low.address, low.size)
    for word in (LI_X7_1, LI_X7_2):
        for ram in (low, high):
            ram.view[:8] = word.to_bytes(4, "little") + WFI.to_bytes(4, "little")
            engine.invalidate_code(ram.base, 8)
            engine.pc = ram.base
            engine.run()
            assert engine.read_register(REG["x7"]) == 1 + (word == LI_X7_2)
    engine.close()


def test_invalidating_code_under_the_running_block_is_harmless(board: Board) -> None:
    board["x5"] = DEVICE
    board.on_access = lambda: board.engine.invalidate_code(BASE, 0x1000)
    assert board.run(SW_X6_X5, INC_X7, INC_X7, WFI) is Exit.HALTED
    assert (board["x7"], len(board.accesses)) == (2, 1)


def test_guest_that_rewrites_its_code_executes_the_new(board: Board) -> None:
    board.run(LI_X7_1, WFI)
    board["x5"] = BASE
    board["x6"] = LI_X7_2
    board.put(0x100, SW_X6_X5, 0x0000100F, RET)  # sw; fence.i; ret
    board["x1"] = BASE
    board.engine.pc = BASE + 0x100
    board.engine.run()
    assert board["x7"] == 2


ALIAS = 0x4000_0000  # added to a virtual address: the same physical memory again
PAGE_TABLE = 0x20000  # offset in RAM
RWX, RW, RX = 0xCF, 0xC7, 0xCB  # V R W X A D, and the same without X or W (privileged spec 4.3.1)
CODE = 0x4000  # offset in RAM of a page with two functions, FAR apart
FAR = 0x100
CODE_ALIAS = 0x8000_0000  # added to a virtual address: the same again, to be executed
FENCE_I = 0x0000100F
SFENCE_VMA = 0x12000073
LOAD_FAULT = 5
JALR_X12 = 0x000600E7  # jalr x1, 0(x12)
LI_X8_1 = 0x00100413
LI_X8_2 = 0x00200413
SW_X11_X10 = 0x00B52023  # sw x11, 0(x10)
SW_X13_X10_FAR = 0x10D52023  # sw x13, 0x100(x10)
SW_X0_X10_200 = 0x20052023  # sw x0, 0x200(x10)


def call(position: int, target: int) -> int:
    """jal x1, from one offset to another less than 1 MiB ahead."""
    offset = target - position
    return (offset & 0xFF000) | (offset >> 11 & 1) << 20 | (offset >> 1 & 0x3FF) << 21 | 1 << 7 | 0x6F


@pytest.fixture(params=["alone", "with holes"])
def paged(board: Board, request: pytest.FixtureRequest) -> Board:
    """In S-mode, all RAM at its own address and again, for data, at ALIAS; x10 is the alias of CODE, x11 and x13 new code.

    With a handler for holes the library has a hook of physical addresses that code's virtual ones can be in.
    """
    if request.param == "with holes":
        board.engine.on_unmapped(lambda _access, _address: LOAD_FAULT)
    for gigapage, permissions in ((2, RWX), (3, RW), (4, RX)):
        board.ram.words[PAGE_TABLE // 4096, gigapage] = BASE >> 2 | permissions
    board["satp"] = 8 << 60 | (BASE + PAGE_TABLE) >> 12
    board["x10"] = BASE + CODE + ALIAS
    board["x11"] = LI_X7_2
    board["x12"] = BASE + CODE + CODE_ALIAS
    board["x13"] = LI_X8_2
    board["priv"] = PRIV_S
    board.put(CODE, LI_X7_1, RET)
    board.put(CODE + FAR, LI_X8_1, RET)
    return board


def test_code_written_by_two_stores_at_another_address_is_executed_anew(paged: Board) -> None:
    both = call(0, CODE), call(4, CODE + FAR)
    again = call(20, CODE), call(24, CODE + FAR)
    assert paged.run(*both, SW_X11_X10, SW_X13_X10_FAR, FENCE_I, *again, WFI) is Exit.HALTED
    assert (paged["x7"], paged["x8"], paged.exceptions) == (2, 2, [])


def test_code_written_at_an_address_stored_to_before_it_was_translated_is_executed_anew(paged: Board) -> None:
    assert paged.run(SW_X0_X10_200, call(4, CODE), SW_X11_X10, FENCE_I, call(16, CODE), WFI) is Exit.HALTED
    assert (paged["x7"], paged.exceptions) == (2, [])


def test_code_that_is_written_and_run_at_two_addresses_is_executed_anew(paged: Board) -> None:
    paged.start(SW_X0_X10_200, JALR_X12, SW_X11_X10, FENCE_I, JALR_X12, WFI)
    paged.engine.pc += CODE_ALIAS
    assert paged.engine.run() is Exit.HALTED
    assert (paged["x7"], paged.exceptions) == (2, [])


def test_code_written_at_an_address_that_was_not_known_when_it_was_translated_is_executed_anew(paged: Board) -> None:
    paged.start(JALR_X12, SFENCE_VMA, SW_X11_X10, FENCE_I, JALR_X12, WFI)
    paged.engine.pc += CODE_ALIAS
    assert paged.engine.run() is Exit.HALTED
    assert (paged["x7"], paged.exceptions) == (2, [])


def test_invalidating_what_is_not_ram_is_our_bug(board: Board) -> None:
    with pytest.raises(ValueError, match="0x8 bytes at 0x800ffffc"):
        board.engine.invalidate_code(BASE + SIZE - 4, 8)
