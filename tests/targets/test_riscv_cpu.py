"""The hart's state goes through the engine and back unchanged, whatever legal state it is."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.clock import VirtualClock
from emu.engine.core import Engine
from emu.errors import StateError
from migration.vmstate import dump, parse
from targets.riscv.cpu import ALL_BITS, CSRS, LEGAL, MIP_BITS, Irq, Priv, RiscvCpu, RiscvState

RAM, SIZE = 0x8000_0000, mmap.PAGESIZE
WFI, ILLEGAL, RDTIME_X5 = 0x10500073, 0, 0xC01022F3
MTVEC = RAM + 0x100
words = st.integers(0, ALL_BITS)


@pytest.fixture
def cpu() -> Iterator[RiscvCpu]:
    engine = Engine("riscv64")
    memory = mmap.mmap(-1, SIZE)
    engine.map_ram(RAM, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
    cpu = RiscvCpu(engine, VirtualClock())
    cpu.memory = memory  # type: ignore[attr-defined]  # kept alive with the hart, for the tests to write code to
    yield cpu
    engine.close()


@st.composite
def states(draw: st.DrawFn) -> RiscvState:
    """Legal states: what another hart could have saved."""
    csrs = {name: draw(words) & LEGAL.get(name, ALL_BITS) for name in CSRS}
    csrs["satp"] = draw(st.sampled_from([0, 8, 9, 10])) << 60 | draw(st.integers(0, (1 << 44) - 1))
    csrs["mstatus"] = settle_mstatus(csrs["mstatus"])
    for counters in ("mcounteren", "scounteren"):
        csrs[counters] &= 0xFFFF_FFFF
    csrs["pmpcfg0"] &= 0x1F1F_1F1F_1F1F_1F1F  # none locked: a locked entry would refuse the next state
    return RiscvState(
        pc=draw(words) & ~1,
        x=[0, *draw(st.lists(words, min_size=31, max_size=31))],
        f=draw(st.lists(words, min_size=32, max_size=32)),
        fcsr=draw(st.integers(0, 0xFF)),
        priv=draw(st.sampled_from([Priv.U, Priv.S, Priv.M])),
        mip=draw(words) & MIP_BITS,
        csrs=list(csrs.values()),
        reservation=draw(words),
        reserved_value=draw(words),
        asleep=draw(st.booleans()),
    )


def settle_mstatus(value: int) -> int:
    """SD (bit 63) says that FS or XS is dirty (3.1.6.6); the hart computes it."""
    dirty = value >> 13 & 3 == 3 or value >> 15 & 3 == 3
    return value & ~(1 << 63) | dirty << 63


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(cpu: RiscvCpu, state: RiscvState) -> None:
    taken = parse(RiscvState, RiscvState.VMSTATE.version, dump(state))

    cpu.load(taken)

    assert differences(cpu.save(), state) == {}


def differences(one: RiscvState, other: RiscvState) -> dict[str, object]:
    """Field or CSR name to both values, where they differ."""
    found = {name: (getattr(one, name), getattr(other, name)) for name in RiscvState.__slots__ if name != "csrs"}
    found |= {name: (hex(mine), hex(theirs)) for name, mine, theirs in zip(CSRS, one.csrs, other.csrs, strict=True)}
    return {name: both for name, both in found.items() if both[0] != both[1]}


@pytest.mark.parametrize(
    ("change", "words_of_it"),
    [
        ({"priv": 2}, "priv is 2, must be 0, 1 or 3"),
        ({"x": [1] + [0] * 31}, r"x\[0\] is 0x1, must be 0"),
        ({"mip": 1 << 2}, "mip is 0x4"),
    ],
)
def test_a_state_no_hart_can_have_is_refused(change: dict[str, int | list[int]], words_of_it: str) -> None:
    state = replace(RiscvState(), **change)  # type: ignore[arg-type]  # values of the fields' types
    with pytest.raises(StateError, match=words_of_it):
        state.check()


@pytest.mark.parametrize("name", list(LEGAL))
def test_a_csr_with_bits_it_cannot_hold_is_refused_by_name(name: str) -> None:
    state = RiscvState()
    state.csrs[list(CSRS).index(name)] = ALL_BITS
    with pytest.raises(StateError, match=f"{name} is 0xf+, must be within"):
        state.check()


def test_a_paging_mode_that_does_not_exist_is_refused() -> None:
    state = RiscvState()
    state.csrs[list(CSRS).index("satp")] = 11 << 60
    with pytest.raises(StateError, match="satp has mode 11"):
        state.check()


def test_reset_is_the_state_after_power_on(cpu: RiscvCpu) -> None:
    fresh = cpu.save()
    cpu.write(5, 77)
    cpu.priv = Priv.U

    cpu.reset()

    assert cpu.save() == fresh


def put(cpu: RiscvCpu, address: int, *code: int) -> None:
    for index, word in enumerate(code):
        start = address - RAM + 4 * index
        cpu.memory[start : start + 4] = word.to_bytes(4, "little")  # type: ignore[attr-defined]  # set by the fixture


def run_until_asleep(cpu: RiscvCpu) -> None:
    while not cpu.asleep:
        cpu.run()


def test_a_trap_enters_the_guests_handler_with_cause_and_pc(cpu: RiscvCpu) -> None:
    put(cpu, RAM, ILLEGAL)
    put(cpu, MTVEC, WFI)
    cpu.write_csr(CSRS["mtvec"], MTVEC)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read_csr(CSRS["mcause"]) == 2
    assert cpu.read_csr(CSRS["mepc"]) == RAM


def test_the_time_csr_shows_what_it_is_told_to(cpu: RiscvCpu) -> None:
    put(cpu, RAM, RDTIME_X5, WFI)
    cpu.show_time(lambda: ALL_BITS - 5)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read(5) == ALL_BITS - 5


def test_an_interrupt_wakes_a_sleeping_hart_and_enters_its_handler(cpu: RiscvCpu) -> None:
    put(cpu, RAM, WFI, WFI)
    put(cpu, MTVEC, WFI)
    cpu.write_csr(CSRS["mtvec"], MTVEC)
    cpu.write_csr(CSRS["mie"], 1 << Irq.MTIP)
    cpu.write_csr(CSRS["mstatus"], 1 << 3)  # MIE
    cpu.pc = RAM
    run_until_asleep(cpu)

    cpu.line(Irq.MTIP).set(True)

    assert not cpu.asleep
    cpu.run()
    assert cpu.read_csr(CSRS["mcause"]) == 1 << 63 | Irq.MTIP
    assert cpu.read_csr(CSRS["mepc"]) == RAM + 4


def test_an_interrupt_that_is_not_enabled_lets_the_hart_sleep(cpu: RiscvCpu) -> None:
    put(cpu, RAM, WFI)
    cpu.pc = RAM
    run_until_asleep(cpu)

    cpu.line(Irq.SEIP).set(True)

    assert cpu.asleep


@pytest.mark.parametrize(
    ("instruction", "cause"),
    [(0x0000B303, 5), (0x0062B023 & ~0xF8000 | 1 << 15, 7)],
    ids=["load", "store"],
)
def test_an_access_to_nothing_is_an_access_fault(cpu: RiscvCpu, instruction: int, cause: int) -> None:
    put(cpu, RAM, instruction)  # ld x6, 0(x1); sd x6, 0(x1)
    put(cpu, MTVEC, WFI)
    cpu.write_csr(CSRS["mtvec"], MTVEC)
    cpu.write(1, 0x4000_0000)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read_csr(CSRS["mcause"]) == cause
    assert cpu.read_csr(CSRS["mepc"]) == RAM


def test_a_jump_to_nothing_is_an_access_fault(cpu: RiscvCpu) -> None:
    put(cpu, RAM, 0x00008067)  # jr x1
    put(cpu, MTVEC, WFI)
    cpu.write_csr(CSRS["mtvec"], MTVEC)
    cpu.write(1, 0x4000_0000)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read_csr(CSRS["mcause"]) == 1
