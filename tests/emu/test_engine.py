"""The engine's contract, shown by small RISC-V programs."""

import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from emu.engine import isas
from emu.engine.codewatch import watch_code
from emu.engine.core import Engine, Exit
from emu.engine.holes import LAST_ADDRESS, Access, gaps
from emu.engine.isas import layout_of
from emu.engine.layout import UNICORN_2_1_4_X86_64
from emu.engine.registers import registers
from emu.engine.selftest import self_test
from emu.errors import EngineError
from emu.ram import Ram

BASE = 0x8000_0000
SIZE = 1 << 20
DEVICE = 0x1000_0000
HOLE = 0x4000_0120
HANDLER = 0x800  # offset in RAM
PRIV_S, PRIV_M = 1, 3
MSIP = 1 << 3
REG = registers("riscv64")

# RISC-V instructions (unprivileged and privileged ISA manuals)
WFI = 0x10500073
ECALL = 0x00000073
EBREAK = 0x00100073
ILLEGAL = 0x00000000
JUMP_SELF = 0x0000006F
JUMP_BACK = 0xFFDFF06F  # j .-4
RET = 0x00008067
INC_X7 = 0x00138393  # addi x7, x7, 1
LI_X7_1 = 0x00100393
LI_X7_2 = 0x00200393
LW_X6_X5 = 0x0002A303  # lw x6, 0(x5)
SW_X6_X5 = 0x0062A023  # sw x6, 0(x5)
LD_X6_X5 = 0x0002B303
SD_X6_X5 = 0x0062B023
AMOADD_X6_X5 = 0x0062A32F  # amoadd.w x6, x6, (x5)
JR_X5 = 0x00028067
INC_MEMORY = (0x0002B303, 0x00130313, 0x0062B023)  # ld x6, 0(x5); addi x6, x6, 1; sd x6, 0(x5)


class Board:
    """A RISC-V CPU with RAM and a device that records what reaches it."""

    def __init__(self) -> None:
        self.ram = Ram("ram", BASE, SIZE)
        self.engine = Engine("riscv64")
        self.engine.map_ram(BASE, self.ram.address, SIZE)
        self.engine.map_mmio(DEVICE, 0x1000, self.read, self.write)
        self.engine.on_exception(self.exception)
        self.do_interrupt = self.engine.function("riscv_cpu_do_interrupt", None, ctypes.c_void_p)
        self.accesses: list[tuple[str, int, int, int]] = []
        self.exceptions: list[tuple[int, int]] = []
        self.on_access: Callable[[], None] = lambda: None
        self.put(HANDLER, WFI)

    def read(self, offset: int, size: int) -> int:
        self.accesses.append(("read", offset, size, 0))
        self.on_access()
        return 0x11223344

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append(("write", offset, size, value))
        self.on_access()

    def exception(self, number: int) -> None:
        self.exceptions.append((number, self.engine.pc))
        self.do_interrupt(self.engine.cpu)

    def put(self, offset: int, *code: int) -> None:
        data = b"".join(word.to_bytes(4, "little") for word in code)
        self.ram.view[offset : offset + len(data)] = data
        self.engine.invalidate_code(BASE + offset, len(data))

    def start(self, *code: int) -> None:
        self.put(0, *code)
        self.engine.pc = BASE

    def run(self, *code: int, count: int = 0) -> Exit:
        self.start(*code)
        return self.engine.run(count)

    def __getitem__(self, name: str) -> int:
        return self.engine.read_register(REG[name])

    def __setitem__(self, name: str, value: int) -> None:
        self.engine.write_register(REG[name], value)


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    made["mtvec"] = BASE + HANDLER
    yield made
    made.engine.close()


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
    board["x7"] = times
    board.start(*INC_MEMORY, 0xFFF38393, 0xFE0398E3, WFI)  # addi x7, x7, -1; bnez x7, .-16
    ended = threading.Event()
    stops = 0

    def pester() -> None:
        nonlocal stops
        while not ended.is_set():
            board.engine.stop()
            stops += 1
            time.sleep(0)  # gives the GIL away

    thread = threading.Thread(target=pester)
    thread.start()
    slices = 1
    while board.engine.run() is Exit.STOPPED:
        slices += 1
    ended.set()
    thread.join()
    assert board.ram.words[16, 0] == times
    assert slices > 10


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
RWX, RW = 0xCF, 0xC7  # V R W X A D, and the same without X (privileged spec 4.3.1)
CODE = 0x4000  # offset in RAM of a page with two functions, FAR apart
FAR = 0x100
FENCE_I = 0x0000100F
LI_X8_1 = 0x00100413
LI_X8_2 = 0x00200413
SW_X11_X10 = 0x00B52023  # sw x11, 0(x10)
SW_X13_X10_FAR = 0x10D52023  # sw x13, 0x100(x10)
SW_X0_X10_200 = 0x20052023  # sw x0, 0x200(x10)


def call(position: int, target: int) -> int:
    """jal x1, from one offset to another less than 1 MiB ahead."""
    offset = target - position
    return (offset & 0xFF000) | (offset >> 11 & 1) << 20 | (offset >> 1 & 0x3FF) << 21 | 1 << 7 | 0x6F


@pytest.fixture
def paged(board: Board) -> Board:
    """In S-mode, all RAM at its own address and again, for data, at ALIAS; x10 is the alias of CODE, x11 and x13 new code."""
    for gigapage, permissions in ((2, RWX), (3, RW)):
        board.ram.words[PAGE_TABLE // 4096, gigapage] = BASE >> 2 | permissions
    board["satp"] = 8 << 60 | (BASE + PAGE_TABLE) >> 12
    board["x10"] = BASE + CODE + ALIAS
    board["x11"] = LI_X7_2
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


def test_invalidating_what_is_not_ram_is_our_bug(board: Board) -> None:
    with pytest.raises(ValueError, match="0x8 bytes at 0x800ffffc"):
        board.engine.invalidate_code(BASE + SIZE - 4, 8)


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


def protect(board: Board) -> None:
    """RISC-V's own physical memory protection, locked to hold in M-mode too: RAM rwx, device rw, all else nothing."""
    argtypes = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    address = board.engine.function("pmpaddr_csr_write", None, *argtypes)
    config = board.engine.function("pmpcfg_csr_write", None, *argtypes)
    address(board.engine.env, 0, BASE >> 2 | (SIZE >> 3) - 1)  # NAPOT
    address(board.engine.env, 1, DEVICE >> 2 | (0x1000 >> 3) - 1)
    address(board.engine.env, 2, (1 << 54) - 1)  # everything
    config(board.engine.env, 0, 0x9F | 0x9B << 8 | 0x98 << 16)


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


def test_mapping_off_the_page_is_refused(board: Board) -> None:
    with pytest.raises(EngineError, match="map 0x1000 bytes at 0x20000010"):
        board.engine.map_mmio(0x2000_0010, 0x1000, board.read, board.write)


def test_unknown_function_is_an_error_that_names_it(board: Board) -> None:
    with pytest.raises(EngineError, match="no function fly_riscv64"):
        board.engine.function("fly", None)


def test_closing_twice_and_a_late_stop_are_harmless() -> None:
    engine = Engine("riscv64")
    engine.close()
    engine.close()
    engine.stop()


def test_unknown_build_is_refused_with_what_was_found_and_what_is_supported() -> None:
    found = replace(UNICORN_2_1_4_X86_64, version=(2, 2, 0))
    with pytest.raises(EngineError, match=r"found unicorn 2\.2\.0 on linux x86_64 .* supported is unicorn 2\.1\.4 on linux"):
        layout_of(found, "riscv64")


def test_unknown_isa_is_refused_with_those_there_are() -> None:
    with pytest.raises(EngineError, match=r"no CPU 'vax' .* there are .*riscv64"):
        Engine("vax")


def test_library_laid_out_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {UNICORN_2_1_4_X86_64: replace(isas.CORE[UNICORN_2_1_4_X86_64], uc_cpu=448)}
    monkeypatch.setattr(isas, "CORE", rows)
    with pytest.raises(EngineError, match="laid out differently"):
        Engine("riscv64")


@pytest.mark.parametrize("field", ["invalidate_fast", "invalidate_fast_slot", "rearm", "rearm_slot"])
def test_library_with_its_internal_calls_elsewhere_is_refused(field: str) -> None:
    known = layout_of(UNICORN_2_1_4_X86_64, "riscv64")[1].code_watch
    with pytest.raises(EngineError, match="this library says it is unicorn 2"):
        watch_code("riscv64", replace(known, **{field: getattr(known, field) + 8}))


def test_self_test_passes_on_this_build() -> None:
    self_test("riscv64")


@pytest.mark.parametrize(
    ("field", "offset", "failure"),
    [
        ("uc_no_exit_request", 2440, "a slice does not end at the head of a block"),
        ("cpu_halted", 33180, "a slice that was ended passes for a CPU that waits"),
    ],
)
def test_self_test_names_what_a_wrong_offset_breaks(
    monkeypatch: pytest.MonkeyPatch, field: str, offset: int, failure: str
) -> None:
    row = replace(isas.CORE[UNICORN_2_1_4_X86_64], **{field: offset})
    monkeypatch.setattr(isas, "CORE", {UNICORN_2_1_4_X86_64: row})
    with pytest.raises(EngineError, match=failure):
        self_test("riscv64")


def test_the_engine_does_not_import_the_unicorn_package() -> None:
    program = "import sys; from emu.engine.selftest import self_test; self_test('riscv64'); print('unicorn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
