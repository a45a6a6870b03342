"""What leaves the course of a program: the guest's exceptions, interrupts, and those of Python's callbacks."""

import ctypes

import pytest

from emu.engine.core import Engine, Exit
from emu.errors import EngineError
from emu.ram import Ram
from tests.emu.engine.riscv import (
    BASE,
    DEVICE,
    EBREAK,
    ECALL,
    HANDLER,
    ILLEGAL,
    INC_X7,
    JUMP_SELF,
    LW_X6_X5,
    MSIP,
    SW_X6_X5,
    WFI,
    Board,
)


@pytest.mark.parametrize(("instruction", "number"), [(ECALL, 11), (EBREAK, 3), (ILLEGAL, 2)])
def test_exceptions_enter_the_guests_handler_with_the_pc_that_caused_them(board: Board, instruction: int, number: int) -> None:
    assert board.run(INC_X7, instruction) is Exit.HALTED
    assert [pc for _number, pc in board.exceptions] == [BASE + 4]
    assert (board["mcause"], board["mepc"], board.engine.pc) == (number, BASE + 4, BASE + HANDLER + 4)


def test_exception_without_a_handler_is_an_error_with_the_pc() -> None:
    ram, engine = Ram("ram", BASE, 0x1000), Engine("riscv64")
    engine.map_ram(BASE, ram.address, ram.size)
    engine.pc = BASE
    with pytest.raises(EngineError, match="an exception that nothing handles"):
        engine.run()
    engine.close()


def raise_software_interrupt(board: Board) -> None:
    argtypes = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32
    update = board.engine.function("riscv_cpu_update_mip", ctypes.c_uint32, *argtypes)
    update(board.engine.cpu, MSIP, MSIP)
    board.engine.kick()


def test_kick_delivers_an_interrupt_out_of_a_loop_that_never_ends(board: Board) -> None:
    board["x5"] = DEVICE
    board["mie"] = MSIP
    board["mstatus"] = board["mstatus"] | 1 << 3  # MIE
    board.on_access = lambda: raise_software_interrupt(board)
    assert board.run(SW_X6_X5, INC_X7, JUMP_SELF) is Exit.HALTED
    assert (board["mcause"], board["mepc"], len(board.accesses)) == (1 << 63 | 3, BASE + 8, 1)


def test_kick_in_a_counted_slice_delivers_right_after_the_instruction(board: Board) -> None:
    board["x5"] = DEVICE
    board["mie"] = MSIP
    board["mstatus"] = board["mstatus"] | 1 << 3
    board.on_access = lambda: raise_software_interrupt(board)
    assert board.run(INC_X7, SW_X6_X5, INC_X7, JUMP_SELF, count=1000) is Exit.STOPPED
    assert (board.engine.executed, board.engine.pc, board["x7"]) == (2, BASE + 8, 1)
    assert board.engine.run(1000) is Exit.HALTED
    assert (board["mepc"], len(board.accesses), board.engine.executed) == (BASE + 8, 1, 1)


class DeviceBugError(Exception):
    pass


@pytest.mark.parametrize("instruction", [SW_X6_X5, LW_X6_X5])
@pytest.mark.parametrize("count", [0, 1000])
def test_exception_of_a_callback_is_raised_by_run(board: Board, instruction: int, count: int) -> None:
    def fail() -> None:
        raise DeviceBugError("here")

    board["x5"] = DEVICE
    board.on_access = fail
    with pytest.raises(DeviceBugError, match="here"):
        board.run(instruction, JUMP_SELF, count=count)
    board.on_access = lambda: None
    assert board.run(WFI, count=count) is Exit.HALTED


def test_exception_of_the_exception_handler_is_raised_by_run(board: Board) -> None:
    def fail(_cpu: int) -> int:
        raise KeyboardInterrupt

    board.do_interrupt = fail
    with pytest.raises(KeyboardInterrupt):
        board.run(ECALL, JUMP_SELF, JUMP_SELF)
