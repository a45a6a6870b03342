"""A RISC-V CPU with RAM and a device, and the instructions of the small programs it is given."""

import ctypes
from collections.abc import Callable

from emu.engine.core import Engine, Exit
from emu.engine.registers import registers
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


def protect(board: Board) -> None:
    """RISC-V's own physical memory protection, locked to hold in M-mode too: RAM rwx, device rw, all else nothing."""
    argtypes = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    address = board.engine.function("pmpaddr_csr_write", None, *argtypes)
    config = board.engine.function("pmpcfg_csr_write", None, *argtypes)
    address(board.engine.env, 0, BASE >> 2 | (SIZE >> 3) - 1)  # NAPOT
    address(board.engine.env, 1, DEVICE >> 2 | (0x1000 >> 3) - 1)
    address(board.engine.env, 2, (1 << 54) - 1)  # everything
    config(board.engine.env, 0, 0x9F | 0x9B << 8 | 0x98 << 16)
