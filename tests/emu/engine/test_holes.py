"""Accesses to physical addresses where there is nothing."""

import pytest

from emu.engine.core import Exit
from emu.engine.holes import LAST_ADDRESS, Access, gaps
from emu.errors import EngineError
from tests.emu.engine.riscv import (
    AMOADD_X6_X5,
    BASE,
    DEVICE,
    ECALL,
    HANDLER,
    HOLE,
    ILLEGAL,
    INC_X7,
    JR_X5,
    JUMP_SELF,
    LD_X6_X5,
    LW_X6_X5,
    SD_X6_X5,
    SIZE,
    SW_X6_X5,
    WFI,
    Board,
    protect,
)


def test_load_from_a_hole_is_an_error_that_names_address_and_pc(board: Board) -> None:
    board["x5"] = HOLE
    with pytest.raises(EngineError, match=f"pc {BASE + 4:#x}: load at physical address {HOLE:#x}"):
        board.run(INC_X7, LW_X6_X5, JUMP_SELF)
    assert board.run(WFI) is Exit.HALTED


@pytest.mark.parametrize(
    ("code", "reason"),
    [(SW_X6_X5, f"store at physical address {HOLE:#x}"), (JR_X5, f"fetch at physical address {HOLE:#x}")],
)
def test_other_accesses_to_a_hole_are_errors_that_name_the_address(board: Board, code: int, reason: str) -> None:
    board["x5"] = HOLE
    with pytest.raises(EngineError, match=reason):
        board.run(code, JUMP_SELF)


@pytest.fixture
def bus_errors(board: Board) -> list[tuple[Access, int]]:
    """What reached no memory, once each becomes the access fault that RISC-V has for it."""
    seen: list[tuple[Access, int]] = []
    causes = {Access.FETCH: 1, Access.LOAD: 5, Access.STORE: 7}

    def fault(access: Access, address: int) -> int:
        seen.append((access, address))
        board.engine.field("badaddr").value = address
        return causes[access]

    board.engine.on_unmapped(fault)
    return seen


@pytest.mark.parametrize("count", [0, 1000])
@pytest.mark.parametrize(
    ("instruction", "access", "cause"),
    [
        (LW_X6_X5, Access.LOAD, 5),
        (LD_X6_X5, Access.LOAD, 5),
        (AMOADD_X6_X5, Access.LOAD, 5),
        (SW_X6_X5, Access.STORE, 7),
        (SD_X6_X5, Access.STORE, 7),
    ],
)
def test_access_to_a_hole_can_be_an_exact_fault_of_the_guests(
    board: Board, bus_errors: list[tuple[Access, int]], instruction: int, access: Access, cause: int, count: int
) -> None:
    board["x5"] = HOLE
    board["x6"] = 0x66
    assert board.run(INC_X7, instruction, INC_X7, JUMP_SELF, count=count) is Exit.STOPPED
    assert bus_errors == [(access, HOLE)]
    assert (board["mcause"], board["mepc"], board["mtval"], board.engine.pc) == (cause, BASE + 4, HOLE, BASE + HANDLER)
    assert (board["x6"], board["x7"]) == (0x66, 1)
    assert board.engine.run(count) is Exit.HALTED


@pytest.mark.parametrize("count", [0, 1000])
@pytest.mark.parametrize(("address", "pc"), [(HOLE, HOLE), (DEVICE, DEVICE), (BASE + SIZE, BASE + SIZE)])
def test_jump_out_of_ram_can_be_an_exact_fault_of_the_guests(
    board: Board, bus_errors: list[tuple[Access, int]], address: int, pc: int, count: int
) -> None:
    board["x5"] = address
    assert board.run(JR_X5, count=count) is Exit.STOPPED
    assert bus_errors == [(Access.FETCH, address)]
    assert (board["mcause"], board["mepc"], board["mtval"], board.accesses) == (1, pc, address, [])


SW_X6_X8 = 0x00642023
LW_X9_X8 = 0x00042483
SW_X6_X10 = 0x00652023
CSRW_MSCRATCH_X6 = 0x34031073


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param((SW_X6_X8,), id="a store to RAM"),
        pytest.param((LW_X9_X8, SW_X6_X8), id="a load from RAM"),
        pytest.param((SW_X6_X10,), id="a store to a device"),
        pytest.param((SW_X6_X5, SW_X6_X5), id="more stores to the hole"),
        pytest.param((CSRW_MSCRATCH_X6,), id="a system register"),
        pytest.param((ECALL,), id="a trap"),
        pytest.param((ILLEGAL,), id="an illegal instruction"),
        pytest.param((WFI,), id="waiting for an interrupt"),
    ],
)
@pytest.mark.parametrize("count", [0, 1000])
def test_what_follows_a_store_to_a_hole_leaves_no_trace(
    board: Board, bus_errors: list[tuple[Access, int]], rest: tuple[int, ...], count: int
) -> None:
    board["x5"] = HOLE
    board["x6"] = 0x66
    board["x8"] = BASE + 0x10000
    board["x9"] = 0x99
    board["x10"] = DEVICE
    assert board.run(SW_X6_X5, INC_X7, *rest, INC_X7, JUMP_SELF, count=count) is Exit.STOPPED
    assert bus_errors == [(Access.STORE, HOLE)]
    assert (board["mcause"], board["mepc"], board.engine.pc) == (7, BASE, BASE + HANDLER)
    assert (board["x7"], board["x9"], board["mscratch"], board.engine.halted) == (0, 0x99, 0, False)
    assert (board.ram.words[16, 0], board.accesses, board.exceptions) == (0, [], [(7, BASE)])
    assert count == 0 or board.engine.executed == 1


def test_memory_works_again_after_a_store_to_a_hole(board: Board, bus_errors: list[tuple[Access, int]]) -> None:
    board["x5"] = HOLE
    board["x6"] = 0x66
    board.run(SW_X6_X5, JUMP_SELF)
    board["x5"] = BASE + 0x10000
    assert board.run(SW_X6_X5, LW_X6_X5, WFI) is Exit.HALTED
    assert (board.ram.words[16, 0], len(bus_errors)) == (0x66, 1)


def test_gaps_are_what_no_block_covers() -> None:
    assert list(gaps([(0x8000, 0x1000), (0, 0x1000), (0x9000, 0x1000)])) == [(0x1000, 0x7FFF), (0xA000, LAST_ADDRESS)]
    assert list(gaps([])) == [(0, LAST_ADDRESS)]
    assert list(gaps([(1 << 63, 1 << 63)])) == [(0, (1 << 63) - 1)]


@pytest.mark.parametrize(
    ("instruction", "address", "cause"),
    [
        (LW_X6_X5, HOLE, 5),
        (SW_X6_X5, HOLE, 7),
        (AMOADD_X6_X5, HOLE, 5),
        (LW_X6_X5, BASE + SIZE, 5),
        (SW_X6_X5, BASE - 4, 7),
    ],
)
def test_memory_protection_makes_an_access_to_a_hole_an_exact_access_fault(
    board: Board, instruction: int, address: int, cause: int
) -> None:
    protect(board)
    board["x5"] = address
    board["x6"] = 0x66
    assert board.run(INC_X7, instruction, INC_X7, INC_X7, WFI) is Exit.HALTED
    assert (board["mcause"], board["mepc"], board["mtval"]) == (cause, BASE + 4, address)
    assert (board["x6"], board["x7"]) == (0x66, 1)


@pytest.mark.parametrize("address", [HOLE, DEVICE, BASE + SIZE])
def test_memory_protection_makes_a_jump_out_of_ram_an_instruction_access_fault(board: Board, address: int) -> None:
    protect(board)
    board["x5"] = address
    assert board.run(JR_X5) is Exit.HALTED
    assert (board["mcause"], board["mepc"], board["mtval"], board.accesses) == (1, address, address, [])


def test_memory_protection_lets_ram_and_devices_through(board: Board) -> None:
    protect(board)
    board["x5"] = DEVICE
    assert board.run(LW_X6_X5, SW_X6_X5, WFI) is Exit.HALTED
    assert (len(board.accesses), board.exceptions) == (2, [])
