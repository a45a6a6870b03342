"""A CPU with a few pages of RAM and nothing else, for the tests of the targets' CPUs."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from emu.board import BoardCpu
from emu.engine.core import Engine
from emu.errors import GuestError
from migration.vmstate import State, codecs

CpuT = TypeVar("CpuT", bound=BoardCpu)
SIZE = 16 * mmap.PAGESIZE
SLICES = 100  # more than any of these programs takes until it sleeps


class Ram:
    """Memory as a board would give it to a CPU."""

    def __init__(self, base: int, memory: mmap.mmap) -> None:
        self._base = base
        self._memory = memory

    def read(self, address: int, size: int) -> bytes:
        """Bytes; GuestError where there are none."""
        offset = address - self._base
        if not 0 <= offset <= len(self._memory) - size:
            raise GuestError("nothing there")
        return self._memory[offset : offset + size]

    def write(self, address: int, data: bytes) -> None:
        """Change bytes."""
        self.read(address, len(data))
        offset = address - self._base
        self._memory[offset : offset + len(data)] = data


@dataclass(slots=True)
class Bench(Generic[CpuT]):
    """RAM lies at `base`."""

    cpu: CpuT
    base: int
    memory: mmap.mmap

    @property
    def ram(self) -> Ram:
        """The memory, for a CPU that takes it by itself."""
        return Ram(self.base, self.memory)

    def put(self, address: int, code: str) -> None:
        """Write bytes, given in hex."""
        data = bytes.fromhex(code)
        self.memory[address - self.base : address - self.base + len(data)] = data

    def get(self, address: int, size: int) -> int:
        """A big-endian number in memory."""
        return int.from_bytes(self.memory[address - self.base : address - self.base + size], "big")

    def run_until_asleep(self) -> None:
        """Run slices; AssertionError when the CPU does not go to sleep."""
        for _ in range(SLICES):
            if self.cpu.asleep:
                return
            self.cpu.run()
        raise AssertionError("the CPU does not go to sleep")


@contextmanager
def bench(isa: str, base: int, build: Callable[[Engine], CpuT]) -> Iterator[Bench[CpuT]]:
    """A CPU of `isa` with `SIZE` bytes of RAM from `base` on."""
    engine = Engine(isa)
    memory = mmap.mmap(-1, SIZE)
    engine.map_ram(base, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
    try:
        yield Bench(build(engine), base, memory)
    finally:
        engine.close()


def differences(one: State, other: State) -> dict[str, object]:
    """Field name to both values, where two states differ."""
    both = {name: (getattr(one, name), getattr(other, name)) for name in codecs(type(one))}
    return {name: (hex_of(mine), hex_of(theirs)) for name, (mine, theirs) in both.items() if mine != theirs}


def hex_of(value: object) -> object:
    """For a failure's text."""
    if isinstance(value, list):
        return [hex_of(item) for item in value]
    return hex(value) if isinstance(value, int) else value
