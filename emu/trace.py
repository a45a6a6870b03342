"""What `--log` tells of the guest's execution: QEMU's -d, with the names of the guest's own symbols.

IN: start+0x0                               in_asm: the block that begins here, once
0x80200000:  73 70 01 10  csrci sstatus, 2
Trace: 0x80200000 start+0x0                 exec
exception 8 (environment call) at 0x80200a4c sbi+0x14                       int
interrupt 5 (supervisor timer) at 0x80200a50 sbi+0x18
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from emu.board import Board
from emu.config import LOG_CHANNELS
from emu.disassembly import code_of, disassembler
from emu.engine.traps import Trap
from emu.errors import ConfigError
from emu.inspect import read_virtual
from emu.symbols import Symbols

log = logging.getLogger(__name__)


class Trace:
    """Logs what happens on one board, on the vCPU thread. Only the channels asked for cost anything."""

    def __init__(self, board: Board, symbols: Symbols, channels: Collection[str]) -> None:
        """Hook into the board's engine, between slices; ConfigError for a channel that does not exist."""
        for name in channels:
            if name not in LOG_CHANNELS:
                raise ConfigError(f"log channel {name!r:.40} is unknown, known are {', '.join(LOG_CHANNELS)}")
        self._board = board
        self._symbols = symbols
        self._shown: set[tuple[int, int]] = set()  # pc and size of blocks
        self._in_asm = "in_asm" in channels
        self._exec = "exec" in channels
        if self._in_asm or self._exec:
            board.engine.trace_blocks(self._block)
        if "int" in channels:
            board.engine.trace_traps(self._trap)

    def _block(self, pc: int, size: int) -> None:
        if self._in_asm and (pc, size) not in self._shown:
            self._shown.add((pc, size))
            code = read_virtual(self._board.engine, self._board.memory, pc, size)
            lines = disassembler(code_of(self._board.engine)).lines(pc, code)
            log.debug("%s", "\n".join([f"IN: {self._symbols.name(pc)}".rstrip(), *lines]))
        if self._exec:
            log.debug("%s", f"Trace: {self._place(pc)}")

    def _trap(self, trap: Trap) -> None:
        meaning = f" ({trap.meaning})" if trap.meaning else ""
        log.debug("%s", f"{trap.kind} {trap.number}{meaning} at {self._place(trap.pc)}")

    def _place(self, address: int) -> str:
        return f"{address:#x} {self._symbols.name(address)}".rstrip()
