"""What the tests of both ARM CPUs run programs on: a CPU with a page of RAM and a generic timer."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from devices.generic_timer import GenericTimer
from emu.engine.core import Engine
from targets.arm.cpu32 import Arm32Cpu
from targets.arm.cpu64 import Arm64Cpu
from tests.devices.fakes import FakeClock, Wire

RAM, SIZE = 0x4000_0000, mmap.PAGESIZE
VECTORS = RAM + 0x800

CpuT = TypeVar("CpuT", Arm32Cpu, Arm64Cpu)


class ArmBench(Generic[CpuT]):
    """A CPU of `isa` and what stands around it; `close` the engine after use."""

    def __init__(self, isa: str, build: Callable[[Engine], CpuT]) -> None:
        self.engine = Engine(isa)
        self.memory = mmap.mmap(-1, SIZE)
        self.engine.map_ram(RAM, ctypes.addressof(ctypes.c_char.from_buffer(self.memory)), SIZE)
        self.clock = FakeClock()
        self.cpu = build(self.engine)
        self.wires = Wire(), Wire()
        self.timer = GenericTimer("timer", self.clock, physical=self.wires[0].irq, virtual=self.wires[1].irq)
        self.cpu.connect_timer(self.timer)

    def put(self, address: int, *code: int, size: int = 4) -> None:
        """Write instructions of `size` bytes."""
        data = b"".join(word.to_bytes(size, "little") for word in code)
        self.memory[address - RAM : address - RAM + len(data)] = data
        self.engine.invalidate_code(address, len(data))

    def change(self, **fields: object) -> None:
        """Load the state there is with some fields changed."""
        self.cpu.load(replace(self.cpu.save(), **fields))  # type: ignore[arg-type]  # values of the fields' types

    def run_until_asleep(self) -> None:
        """Run slices until the CPU waits for an interrupt."""
        while not self.cpu.asleep:
            self.cpu.run()
