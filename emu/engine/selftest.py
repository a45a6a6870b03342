"""Checks by behaviour what the layout table claims, in a few milliseconds, whenever a machine is built.

A wrong offset need not crash: it may make a device write twice, once in a million stops. So each check runs a few instructions
whose outcome differs if the engine does not do what its contract says.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from emu.engine.core import Engine, Exit
from emu.engine.isas import PROBES
from emu.engine.layout import Probe
from emu.engine.registers import registers
from emu.errors import EngineError

DEVICE = 0x1000_0000
COUNT = 1000  # instructions; even, for a loop of two


def self_test(isa: str) -> None:
    """EngineError that names the first behaviour of `isa` that is not as it must be."""
    if isa not in PROBES:
        raise EngineError(f"no self-test for {isa!r}, there are {', '.join(sorted(PROBES))}")
    with _bench(isa) as bench:
        bench.device_write_happens_once()
        bench.code_written_by_the_host_is_executed()
        if bench.probe.waits:
            bench.waiting_halts()
        bench.count_is_exact()
        if bench.probe.trap:
            bench.exception_reaches_its_handler()


@contextmanager
def _bench(isa: str) -> Iterator[_Bench]:
    engine = Engine(isa)
    memory = mmap.mmap(-1, engine.layout.map_unit)
    try:
        yield _Bench(engine, memory, PROBES[isa])
    finally:
        engine.close()


class _Bench:
    def __init__(self, engine: Engine, memory: mmap.mmap, probe: Probe) -> None:
        self.engine = engine
        self.memory = memory
        self.probe = probe
        self.counter = registers(engine.isa)[probe.counter]
        self.writes = 0
        self.traps: list[tuple[int, int]] = []  # number, pc
        engine.map_ram(probe.base, ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory))
        engine.map_mmio(DEVICE, len(memory), lambda _offset, _size: 0, self.on_write)
        engine.on_exception(self.on_exception)
        engine.write_register(registers(engine.isa)[probe.pointer], DEVICE)

    def on_write(self, _offset: int, _size: int, _value: int) -> None:
        self.writes += 1
        self.engine.end_slice()

    def on_exception(self, number: int) -> None:
        self.traps.append((number, self.engine.pc))
        self.engine.end_slice()

    def run(self, code: bytes, count: int = 0) -> Exit:
        self.memory[: len(code)] = code
        self.engine.invalidate_code(self.probe.base, len(code))
        self.engine.pc = self.probe.base
        return self.engine.run(count)

    def device_write_happens_once(self) -> None:
        before = self.engine.read_register(self.counter)
        end = self.run(self.probe.store)
        _expect(end is Exit.STOPPED, "a slice that was ended passes for a CPU that waits")
        _expect(self.writes == 1, f"a device write that ends the slice happens {self.writes} times")
        _expect(self.engine.read_register(self.counter) == before + 1, "a slice does not end at the head of a block")

    def code_written_by_the_host_is_executed(self) -> None:
        self.run(self.probe.one)
        self.run(self.probe.two)
        _expect(self.engine.read_register(self.counter) == 2, "code that the host rewrote runs as it was before")

    def waiting_halts(self) -> None:
        end = self.run(self.probe.one)
        _expect(end is Exit.HALTED, "waiting for an interrupt does not halt the CPU")
        _expect(self.engine.pc == self.probe.base + len(self.probe.one), "a halted CPU's pc is not past its instruction")

    def count_is_exact(self) -> None:
        before = self.engine.read_register(self.counter)
        self.run(self.probe.loop, COUNT)
        done = self.engine.read_register(self.counter) - before
        _expect(
            (self.engine.executed, done, self.engine.pc) == (COUNT, COUNT // 2, self.probe.base),
            f"a slice of {COUNT} instructions executes {self.engine.executed}",
        )

    def exception_reaches_its_handler(self) -> None:
        self.run(self.probe.trap)
        expected = [(self.probe.trap_number, self.probe.base)]
        _expect(self.traps == expected, f"a trap arrives as {self.traps} (number, pc), not {expected}")


def _expect(as_it_must_be: bool, failure: str) -> None:
    if not as_it_must_be:
        raise EngineError(f"self-test of the CPU engine failed: {failure}")
