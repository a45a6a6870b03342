"""SYSCALL does what the AMD64 manual says, from 64-bit code and from compatibility code."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.engine.core import Engine
from targets.x86.cpu import X86Cpu
from targets.x86.state import ALL_BITS, CONTROL, DESCRIPTORS, REGS, DescriptorState
from tests.devices.fakes import FakeClock

SIZE = 0x10000
CODE, HANDLER64, HANDLER32, GDT = 0x1000, 0x2000, 0x3000, 0x4000
SYSCALL, HLT = b"\x0f\x05", b"\xf4"
PE_CS32_SS32, ADDSEG, LMA, CS64 = 0xB0, 1 << 6, 1 << 14, 1 << 15
SCE, LME, EFER_LMA = 1, 1 << 8, 1 << 10
RF, IF, FIXED = 1 << 16, 1 << 9, 2
SETTABLE = 0x3F_4FD5 & ~(1 << 17 | 1 << 8)  # without VM86 and TF
KERNEL = 0x10
CODE64, CODE32, DATA = 0x00A0_9B00, 0x00C0_9B00, 0x00C0_9300
flat = DescriptorState(selector=0x2B, base=0x1000, limit=0xFFFF, flags=0x00CF_F300)


@pytest.fixture
def cpu() -> Iterator[X86Cpu]:
    engine = Engine("x86_64")
    memory = mmap.mmap(-1, SIZE)
    engine.map_ram(0, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
    for address, code in ((CODE, SYSCALL), (HANDLER64, HLT), (HANDLER32, HLT)):
        memory[address : address + len(code)] = code
    yield X86Cpu(engine, FakeClock(), acknowledge=lambda: 0, on_triple_fault=lambda: None, on_end=lambda: None)
    engine.close()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wide=st.booleans(), flags=st.integers(0, 0x3F_FFFF), mask=st.integers(0, ALL_BITS), stack=st.integers(0, ALL_BITS))
def test_syscall_enters_the_kernel(cpu: X86Cpu, wide: bool, flags: int, mask: int, stack: int) -> None:
    flags = flags & SETTABLE | FIXED
    state = cpu.save()
    state.pc, state.eflags, state.hflags = CODE, flags, PE_CS32_SS32 | LMA | (CS64 if wide else ADDSEG) | 3
    state.regs[REGS.index("rsp")] = stack
    state.descriptors = [flat] * 6 + state.descriptors[6:]
    state.descriptors[DESCRIPTORS.index("cs")].base = 0
    control = dict(zip(CONTROL, state.control, strict=True))
    control |= {"cr0": control["cr0"] | 1, "efer": SCE | LME | EFER_LMA, "fmask": mask & 0xFFFF_FFFF}
    control |= {"star": (KERNEL | 3) << 32, "lstar": HANDLER64, "cstar": HANDLER32}
    state.control = list(control.values())
    state.descriptors[DESCRIPTORS.index("cs")] = DescriptorState(selector=0x33, base=0, limit=0xFFFF_FFFF, flags=0x00AF_FB00)
    cpu.load(state)

    cpu.run()

    after = cpu.save()
    named = dict(zip(REGS, after.regs, strict=True))
    assert after.pc == (HANDLER64 if wide else HANDLER32) + 1
    assert (named["rcx"], named["r11"], named["rsp"]) == (CODE + 2, flags & ~RF, stack)
    assert after.eflags == flags & ~(mask | RF) & 0x3F_7FD7 | FIXED & ~mask
    assert after.hflags == PE_CS32_SS32 | LMA | CS64
    kernel = {"base": 0, "limit": 0xFFFF_FFFF}
    assert after.descriptors[DESCRIPTORS.index("cs")] == DescriptorState(selector=KERNEL, flags=CODE64, **kernel)
    assert after.descriptors[DESCRIPTORS.index("ss")] == DescriptorState(selector=KERNEL + 8, flags=DATA, **kernel)
