"""A 32-bit x86 CPU in flat protected mode, for the tests of what it does."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from emu.engine.core import Engine
from targets.x86.cpu import X86Cpu
from targets.x86.state import ALL_BITS, DescriptorState
from tests.devices.fakes import FakeClock

SIZE = 0x10000
CODE, IDT, GDT, TSS, HANDLER, PAGE_DIRECTORY, STACK = 0x1000, 0x2000, 0x3000, 0x3800, 0x4000, 0x5000, 0x8000
HLT = b"\xf4"
IF, VIRTUAL_8086, PE, EM = 0x200, 1 << 17, 1, 4
ARITHMETIC, DIRECTION = 0x8D5, 0x400
FLAT_CODE, FLAT_DATA = 0x00CF_9B00, 0x00CF_9300
KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA = 0x08, 0x10, 0x1B, 0x23
GENERAL_PROTECTION, DOUBLE_FAULT_VECTOR, INVALID_OPCODE, PAGE_FAULT = 13, 8, 6, 14
# mov eax, PAGE_DIRECTORY; mov cr3, eax; mov eax, cr4; or al, PSE; mov cr4, eax; mov eax, cr0; or eax, PG; mov cr0, eax; ud2
PAGING_AND_UD2 = bytes.fromhex("b800500000 0f22d8 0f20e0 0c10 0f22e0 0f20c0 0d00000080 0f22c0 0f0b")
words = st.integers(0, ALL_BITS)


class Bench:
    """A 32-bit CPU in flat protected mode, its memory, and what it asked for."""

    def __init__(self) -> None:
        self.engine = Engine("i386")
        self.memory = mmap.mmap(-1, SIZE)
        self.engine.map_ram(0, ctypes.addressof(ctypes.c_char.from_buffer(self.memory)), SIZE)
        self.clock = FakeClock()
        self.asked: list[str] = []
        self.ports: list[tuple[int, int, int]] = []
        self.vector = 0x30
        self.cpu = X86Cpu(
            self.engine,
            self.clock,
            acknowledge=self.acknowledge,
            on_triple_fault=lambda: self.ask("triple fault"),
            on_end=lambda: self.ask("end"),
        )
        self.cpu.hooks.map_ports(
            lambda port, size: port + size, lambda port, size, value: self.ports.append((port, size, value))
        )
        descriptors = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF)
        for number, descriptor in enumerate(descriptors):
            self.put(GDT + 8 * number, descriptor.to_bytes(8, "little"))
        self.put(TSS, bytes(4) + STACK.to_bytes(4, "little") + KERNEL_DATA.to_bytes(4, "little"))
        self.put(TSS + 0x66, (0x68).to_bytes(2, "little"))  # the I/O permission bitmap
        self.put(TSS + 0x68, b"\xff" * 8)

    def ask(self, what: str) -> None:
        self.asked.append(what)

    def acknowledge(self) -> int:
        self.asked.append("acknowledge")
        self.cpu.interrupt.set(False)
        return self.vector

    def put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data
        self.engine.invalidate_code(address, len(data))

    def gate(self, vector: int, address: int = HANDLER, dpl: int = 0) -> None:
        gate = address & 0xFFFF | KERNEL_CODE << 16 | (0x8E00 | dpl << 13) << 32 | address >> 16 << 48
        self.put(IDT + 8 * vector, gate.to_bytes(8, "little"))

    def start(self, code: bytes, *, flags: int = 0, user: bool = False) -> None:
        """Put `code` in place and enter it with `flags`; what ends it is the HLT in every handler."""
        self.put(CODE, code)
        self.put(HANDLER, HLT)
        state = self.cpu.save()
        dpl = 0x6000 if user else 0
        data = DescriptorState(selector=USER_DATA if user else KERNEL_DATA, limit=0xFFFF_FFFF, flags=FLAT_DATA | dpl)
        state.descriptors = [data] * 6 + [
            DescriptorState(),
            DescriptorState(selector=0x28, base=TSS, limit=0x70, flags=0x8900),
            DescriptorState(base=GDT, limit=0x2F),
            DescriptorState(base=IDT, limit=0x7FF),
        ]
        selector = USER_CODE if user else KERNEL_CODE
        state.descriptors[1] = DescriptorState(selector=selector, limit=0xFFFF_FFFF, flags=FLAT_CODE | dpl)
        state.hflags = 0xB0 | (3 if user else 0)
        state.eflags = 2 | flags
        state.pc = CODE
        self.cpu.load(state)
        self.cpu.write("rsp", STACK - 0x1000)

    def run(self) -> None:
        for _ in range(10):
            if not self.cpu.asleep and not self.asked:
                self.cpu.run()

    @property
    def pushed(self) -> list[int]:
        """What lies on the kernel's stack, the last first."""
        at = self.cpu.read("rsp") & 0xFFFF_FFFF
        return [int.from_bytes(self.memory[at + 4 * n : at + 4 * n + 4], "little") for n in range(4)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.engine.close()
