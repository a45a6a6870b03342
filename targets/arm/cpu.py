"""What the 64-bit and the 32-bit CPU share: exceptions, the interrupt line, the generic timer's registers.

Unicorn executes instructions and checks privileges; delivering exceptions is left to its user, so they go to QEMU's own entry
code, which is part of the library. Interrupts are delivered by the library itself while the line is high. The guest lives at
EL1 and EL0; what is above is this program, which answers HVC and SMC (psci.py).
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from devices.generic_timer import GenericTimer
from emu.board import BoardCpu
from emu.engine.core import Engine
from emu.engine.holes import Access
from emu.irq import IrqLine


class Excp(IntEnum):
    """QEMU's exception numbers (target/arm/cpu.h)."""

    PREFETCH_ABORT = 3
    DATA_ABORT = 4
    HVC = 11
    SMC = 13


# Syndromes of exceptions taken to EL1 (ARM DDI 0487, D13.2.37)
EC_SHIFT = 26
EC_INSTRUCTION_ABORT, EC_DATA_ABORT, EC_FROM_EL1 = 0x20, 0x24, 1
ISS_IL, ISS_FNV, ISS_WNR, ISS_EXTERNAL_ABORT = 1 << 25, 1 << 10, 1 << 6, 0x10
FAULT_STATUS_EXTERNAL_ABORT = 0x8  # of a short-descriptor IFSR or DFSR (G8.2.32)


class VirtCpu(BoardCpu, Protocol):
    """What the board and its firmware need of a CPU."""

    pc: int
    on_call: Callable[[], None] | None

    @property
    def interrupt(self) -> IrqLine:
        """The line that the interrupt controller drives."""

    def connect_timer(self, timer: GenericTimer) -> None:
        """Let the guest at the timer's registers; called once, when the board is built."""

    def enter(self, tree: int) -> None:
        """Set the registers, which are those after a reset, for a guest that finds a device tree at `tree`."""

    def read(self, number: int) -> int:
        """General register `number`."""

    def write(self, number: int, value: int) -> None:
        """Write general register `number`."""


class ArmCpu(ABC):
    """One CPU on the engine. Runs on the vCPU thread, `stop` apart."""

    def __init__(self, engine: Engine) -> None:
        self.name = "cpu0"
        self.engine = engine
        self.on_call: Callable[[], None] | None = None  # HVC and SMC; None: nobody answers
        self.interrupt = IrqLine(self._set_interrupt)
        self._interrupt_level = False
        self._pc = engine.field("pc")
        self._syndrome = engine.field("syndrome")
        self._fault_status = engine.field("fault_status")
        self._fault_address = engine.field("fault_address")
        self._target_el = engine.field("target_el")
        self._do_interrupt = engine.function("arm_cpu_do_interrupt", None, ctypes.c_void_p)
        self._rebuild_flags = engine.function("arm_rebuild_hflags", None, ctypes.c_void_p)
        self._update_breakpoints = engine.function("hw_breakpoint_update_all", None, ctypes.c_void_p)
        self._update_watchpoints = engine.function("hw_watchpoint_update_all", None, ctypes.c_void_p)
        engine.on_exception(self._exception)
        engine.on_unmapped(self._external_abort)

    # emu.vcpu.Cpu

    @property
    def asleep(self) -> bool:
        """Whether the CPU is in WFI and its interrupt line is low; whether the guest takes interrupts does not matter."""
        return self.engine.halted and not self._interrupt_level

    def run(self) -> None:
        """Run one slice."""
        self.engine.run()

    def stop(self) -> None:
        """End the slice; any thread."""
        self.engine.stop()

    @property
    def pc(self) -> int:
        """The program counter."""
        return int(self._pc.value)

    @pc.setter
    def pc(self, value: int) -> None:
        self._pc.value = value

    @property
    @abstractmethod
    def in_user_mode(self) -> bool:
        """Whether the CPU is at EL0."""

    # Exceptions

    def _set_interrupt(self, level: bool) -> None:
        self._interrupt_level = level
        self.engine.set_interrupt(level)

    def _exception(self, number: int) -> None:
        if number in (Excp.HVC, Excp.SMC):  # the pc is behind it already
            if self.on_call is not None:
                self.on_call()
            return
        self._do_interrupt(self.engine.cpu)

    def _external_abort(self, access: Access, address: int) -> int:
        """The exception for an access to a physical address where there is nothing: a synchronous external abort.

        FAR gets the physical address, which is all the engine knows, and the syndrome says that it is not valid.
        """
        fetch = access is Access.FETCH
        ec = (EC_INSTRUCTION_ABORT if fetch else EC_DATA_ABORT) | (0 if self.in_user_mode else EC_FROM_EL1)
        write = ISS_WNR if access is Access.STORE else 0
        self._syndrome.value = ec << EC_SHIFT | ISS_IL | ISS_FNV | write | ISS_EXTERNAL_ABORT
        self._fault_status.value = FAULT_STATUS_EXTERNAL_ABORT | (1 << 11 if write else 0)
        self._fault_address.value = address
        self._target_el.value = 1
        return Excp.PREFETCH_ABORT if fetch else Excp.DATA_ABORT

    def _settle(self) -> None:
        """Have the library derive what it keeps of registers that were written behind its back."""
        self._update_breakpoints(self.engine.cpu)
        self._update_watchpoints(self.engine.cpu)
        self._rebuild_flags(self.engine.env)
        self.engine.flush_tlb()
