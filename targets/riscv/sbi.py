"""The supervisor binary interface for guests that start in S-mode (RISC-V SBI specification 2.0).

Extensions BASE, TIME, IPI, RFENCE, HSM, SRST and DBCN, for the one hart there is. Remote fences act on that hart alone. The
legacy extensions and PMU, SUSP, NACL, STA are absent, which probing tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emu.chardev import Chardev
from emu.clock import Clock
from emu.device import Device
from emu.errors import GuestError
from emu.memory import GuestMemory
from migration.vmstate import State, VMState, optional_u64
from targets.riscv.cpu import NS_PER_TICK, RiscvCpu
from targets.riscv.state import Irq

SPEC_VERSION = 2 << 24  # 2.0: major in bits 30..24
IMPLEMENTATION_ID = 0x656D75  # "emu"; not registered
IMPLEMENTATION_VERSION = 1
NEVER = (1 << 64) - 1  # as the timer's value (6.1)
MAX_CONSOLE_WRITE = 1 << 16  # bytes taken by one call; the guest is told how many and calls again


class Ext(IntEnum):
    """Extension ids (chapters 4 to 12)."""

    BASE = 0x10
    TIME = 0x54494D45
    IPI = 0x735049
    RFENCE = 0x52464E43
    HSM = 0x48534D
    SRST = 0x53525354
    DBCN = 0x4442434E


class Err(IntEnum):
    """Standard errors (chapter 3)."""

    SUCCESS = 0
    FAILED = -1
    NOT_SUPPORTED = -2
    INVALID_PARAM = -3
    INVALID_ADDRESS = -5
    ALREADY_AVAILABLE = -6


class ResetType(IntEnum):
    """System reset types (10.1)."""

    SHUTDOWN = 0
    COLD_REBOOT = 1
    WARM_REBOOT = 2


HART_STARTED = 0  # HSM state (table 3)

Result = tuple[int, int]  # sbiret: error, value


@dataclass(slots=True, kw_only=True)
class SbiState(State):
    """What the firmware remembers: the timer."""

    VMSTATE: ClassVar[VMState] = VMState("riscv-sbi", version=1, minimum=1)
    timer: int | None = optional_u64()  # time CSR value at which STIP is raised


class Sbi(Device[SbiState]):
    """Answers ecalls from S-mode."""

    STATE = SbiState

    def __init__(
        self,
        name: str,
        *,
        cpu: RiscvCpu,
        clock: Clock,
        memory: GuestMemory,
        console: Chardev,
        power_off: Callable[[int], None],
        request_reset: Callable[[], None],
    ) -> None:
        self._cpu = cpu
        self._xlen = cpu.width.xlen
        self._ones = cpu.width.all_bits
        self._memory = memory
        self._console = console
        self._power_off = power_off
        self._request_reset = request_reset
        self._timer = clock.timer(self._timer_due)
        self._calls: dict[tuple[int, int], Callable[[list[int]], Result]] = {
            (Ext.BASE, 0): lambda _args: (Err.SUCCESS, SPEC_VERSION),
            (Ext.BASE, 1): lambda _args: (Err.SUCCESS, IMPLEMENTATION_ID),
            (Ext.BASE, 2): lambda _args: (Err.SUCCESS, IMPLEMENTATION_VERSION),
            (Ext.BASE, 3): lambda args: (Err.SUCCESS, int(args[0] in tuple(Ext))),
            (Ext.BASE, 4): lambda _args: (Err.SUCCESS, 0),  # mvendorid
            (Ext.BASE, 5): lambda _args: (Err.SUCCESS, 0),  # marchid
            (Ext.BASE, 6): lambda _args: (Err.SUCCESS, 0),  # mimpid
            (Ext.TIME, 0): self._set_timer,
            (Ext.IPI, 0): self._send_ipi,
            (Ext.RFENCE, 0): self._fence,  # FENCE.I: the engine sees the guest's own stores
            (Ext.RFENCE, 1): self._fence,  # SFENCE.VMA
            (Ext.RFENCE, 2): self._fence,  # SFENCE.VMA with ASID
            (Ext.HSM, 0): self._hart_start,
            (Ext.HSM, 1): self._hart_stop,
            (Ext.HSM, 2): self._hart_status,
            (Ext.SRST, 0): self._system_reset,
            (Ext.DBCN, 0): self._console_write,
            (Ext.DBCN, 1): self._console_read,
            (Ext.DBCN, 2): self._console_write_byte,
        }
        super().__init__(name)

    def after_load(self) -> None:
        """Arm the timer again."""
        self._arm()

    def call(self) -> None:
        """Carry out the ecall whose arguments are in the registers; on the vCPU thread, inside the slice."""
        extension, function = self._cpu.read(17), self._cpu.read(16)
        arguments = [self._cpu.read(10 + n) for n in range(6)]
        handler = self._calls.get((extension, function))
        error, value = handler(arguments) if handler else (Err.NOT_SUPPORTED, 0)
        self._cpu.write(10, error & self._ones)
        self._cpu.write(11, value & self._ones)

    def _arm(self) -> None:
        if self.state.timer is None:
            self._timer.cancel()
        else:
            self._timer.arm(self.state.timer * NS_PER_TICK)

    def _set_timer(self, args: list[int]) -> Result:
        self._cpu.set_pending(Irq.STIP, False)
        time = args[0] if self._xlen == 64 else args[1] << 32 | args[0]  # the one argument of 64 bits: a register pair (3)
        self.state.timer = None if time == NEVER else time
        self._arm()
        return Err.SUCCESS, 0

    def _timer_due(self) -> None:
        self.state.timer = None
        self._cpu.set_pending(Irq.STIP, True)

    def _targets_hart(self, args: list[int]) -> bool:
        """Whether hart 0 is in (hart_mask, hart_mask_base); base -1 means all (chapter 3.1)."""
        mask, base = args[0], args[1]
        return base == self._ones or (base == 0 and bool(mask & 1))

    def _send_ipi(self, args: list[int]) -> Result:
        if not self._targets_hart(args):
            return Err.INVALID_PARAM, 0
        self._cpu.set_pending(Irq.SSIP, True)
        return Err.SUCCESS, 0

    def _fence(self, args: list[int]) -> Result:
        if not self._targets_hart(args):
            return Err.INVALID_PARAM, 0
        self._cpu.engine.flush_tlb()
        return Err.SUCCESS, 0

    def _hart_start(self, args: list[int]) -> Result:
        return (Err.ALREADY_AVAILABLE if args[0] == 0 else Err.INVALID_PARAM), 0

    def _hart_stop(self, _args: list[int]) -> Result:
        return Err.FAILED, 0  # nothing could start the only hart again

    def _hart_status(self, args: list[int]) -> Result:
        return (Err.SUCCESS, HART_STARTED) if args[0] == 0 else (Err.INVALID_PARAM, 0)

    def _system_reset(self, args: list[int]) -> Result:
        kind, reason = args[0], args[1]
        if kind == ResetType.SHUTDOWN:
            self._power_off(1 if reason == 1 else 0)
        elif kind in (ResetType.COLD_REBOOT, ResetType.WARM_REBOOT):
            self._request_reset()
        else:
            return Err.INVALID_PARAM, 0
        return Err.SUCCESS, 0

    def _console_write(self, args: list[int]) -> Result:
        size = min(args[0], MAX_CONSOLE_WRITE)
        try:
            data = self._memory.read(args[2] << self._xlen | args[1], size)  # 12.1: a register each for its halves
        except GuestError:
            return Err.INVALID_PARAM, 0
        self._console.write(data)
        return Err.SUCCESS, size

    def _console_read(self, _args: list[int]) -> Result:
        return Err.SUCCESS, 0  # input goes to the UART, which Linux drives

    def _console_write_byte(self, args: list[int]) -> Result:
        self._console.write(bytes([args[0] & 0xFF]))
        return Err.SUCCESS, 0
