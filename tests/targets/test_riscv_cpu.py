"""The hart's state goes through the engine and back unchanged, whatever legal state it is."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.clock import VirtualClock
from emu.engine.core import Engine
from emu.errors import StateError
from migration.vmstate import dump, parse
from targets.riscv.cpu import RiscvCpu
from targets.riscv.state import MIP_BITS, RV32, RV64, STATES, Irq, Priv, Riscv64State, Width

RAM, SIZE = 0x8000_0000, mmap.PAGESIZE
WFI, ILLEGAL, RDTIME_X5, RDTIMEH_X6 = 0x10500073, 0, 0xC01022F3, 0xC8102373
MTVEC = RAM + 0x100
ONES64 = (1 << 64) - 1
each_width = pytest.mark.parametrize("width", [RV32, RV64], ids=lambda width: f"rv{width.xlen}")


@pytest.fixture(params=list(STATES))
def cpu(request: pytest.FixtureRequest) -> Iterator[RiscvCpu]:
    engine = Engine(request.param)
    memory = mmap.mmap(-1, SIZE)
    engine.map_ram(RAM, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
    cpu = RiscvCpu(engine, VirtualClock())
    cpu.memory = memory  # type: ignore[attr-defined]  # kept alive with the hart, for the tests to write code to
    yield cpu
    engine.close()


@st.composite
def states(draw: st.DrawFn, width: Width) -> Riscv64State:
    """Legal states: what another hart could have saved."""
    words = st.integers(0, width.all_bits)
    csrs = {name: draw(words) & width.legal.get(name, width.all_bits) for name in width.csrs}
    number = {32: 22, 64: 44}[width.xlen]  # bits of satp.PPN
    csrs["satp"] = draw(st.sampled_from(width.satp_modes)) << width.satp_mode | draw(st.integers(0, (1 << number) - 1))
    csrs["mstatus"] = settle_mstatus(csrs["mstatus"], width)
    for counters in ("mcounteren", "scounteren"):
        csrs[counters] &= 0xFFFF_FFFF
    for name in width.csrs:
        if name.startswith("pmpcfg"):
            csrs[name] &= 0x1F1F_1F1F_1F1F_1F1F  # none locked: a locked entry would refuse the next state
    return STATES[f"riscv{width.xlen}"](
        pc=draw(words) & ~1,
        x=[0, *draw(st.lists(words, min_size=31, max_size=31))],
        f=draw(st.lists(st.integers(0, ONES64), min_size=32, max_size=32)),
        fcsr=draw(st.integers(0, 0xFF)),
        priv=draw(st.sampled_from([Priv.U, Priv.S, Priv.M])),
        mip=draw(words) & MIP_BITS,
        csrs=list(csrs.values()),
        reservation=draw(words),
        reserved_value=draw(words),
        asleep=draw(st.booleans()),
    )


def settle_mstatus(value: int, width: Width) -> int:
    """SD (the highest bit) says that FS or XS is dirty (3.1.6.6); the hart computes it."""
    dirty = value >> 13 & 3 == 3 or value >> 15 & 3 == 3
    highest = width.xlen - 1
    return value & ~(1 << highest) | dirty << highest


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_legal_state_comes_back_as_it_went_in(cpu: RiscvCpu, data: st.DataObject) -> None:
    state = data.draw(states(cpu.width))
    taken = parse(cpu.STATE, cpu.STATE.VMSTATE.version, dump(state))

    cpu.load(taken)

    assert differences(cpu.save(), state) == {}


def differences(one: Riscv64State, other: Riscv64State) -> dict[str, object]:
    """Field or CSR name to both values, where they differ."""
    found = {
        field.name: (getattr(one, field.name), getattr(other, field.name)) for field in fields(one) if field.name != "csrs"
    }
    found |= {name: (hex(mine), hex(theirs)) for name, mine, theirs in zip(one.WIDTH.csrs, one.csrs, other.csrs, strict=True)}
    return {name: both for name, both in found.items() if both[0] != both[1]}


@pytest.mark.parametrize(
    ("change", "words_of_it"),
    [
        ({"priv": 2}, "priv is 2, must be 0, 1 or 3"),
        ({"x": [1] + [0] * 31}, r"x\[0\] is 0x1, must be 0"),
        ({"mip": 1 << 2}, "mip is 0x4"),
    ],
)
@each_width
def test_a_state_no_hart_can_have_is_refused(width: Width, change: dict[str, int | list[int]], words_of_it: str) -> None:
    state = replace(STATES[f"riscv{width.xlen}"](), **change)  # type: ignore[arg-type]  # values of the fields' types
    with pytest.raises(StateError, match=words_of_it):
        state.check()


@pytest.mark.parametrize(("width", "name"), [(width, name) for width in (RV32, RV64) for name in width.legal])
def test_a_csr_with_bits_it_cannot_hold_is_refused_by_name(width: Width, name: str) -> None:
    state = STATES[f"riscv{width.xlen}"]()
    state.csrs[list(width.csrs).index(name)] = width.all_bits
    with pytest.raises(StateError, match=f"{name} is 0xf+, must be within"):
        state.check()


def test_a_paging_mode_that_does_not_exist_is_refused() -> None:
    state = Riscv64State()
    state.csrs[list(RV64.csrs).index("satp")] = 11 << 60
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
    cpu.write_csr(cpu.width.csrs["mtvec"], MTVEC)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read_csr(cpu.width.csrs["mcause"]) == 2
    assert cpu.read_csr(cpu.width.csrs["mepc"]) == RAM


def test_the_time_csr_shows_what_it_is_told_to(cpu: RiscvCpu) -> None:
    put(cpu, RAM, RDTIME_X5, WFI)
    cpu.show_time(lambda: ONES64 - 5)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read(5) == cpu.width.all_bits - 5


@pytest.mark.parametrize("cpu", ["riscv32"], indirect=True)
def test_the_timeh_csr_shows_the_upper_half(cpu: RiscvCpu) -> None:
    put(cpu, RAM, RDTIMEH_X6, WFI)
    cpu.show_time(lambda: 0x1234_5678_0000_0000)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read(6) == 0x1234_5678


@pytest.mark.parametrize("csr", [0xB00, 0xB02, 0xC00, 0xC02], ids=["mcycle", "minstret", "cycle", "instret"])
def test_the_counters_show_the_time_in_nanoseconds(cpu: RiscvCpu, csr: int) -> None:
    put(cpu, RAM, csr << 20 | 0x22F3, WFI)  # csrr x5, csr
    cpu.show_time(lambda: 0x1234_5678)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read(5) == 0x1234_5678 * 100 & cpu.width.all_bits


@pytest.mark.parametrize("cpu", ["riscv32"], indirect=True)
def test_cycleh_shows_the_upper_half(cpu: RiscvCpu) -> None:
    put(cpu, RAM, 0xC80022F3, WFI)
    cpu.show_time(lambda: 0x1234_5678)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read(5) == 0x1234_5678 * 100 >> 32


def test_an_interrupt_wakes_a_sleeping_hart_and_enters_its_handler(cpu: RiscvCpu) -> None:
    put(cpu, RAM, WFI, WFI)
    put(cpu, MTVEC, WFI)
    cpu.write_csr(cpu.width.csrs["mtvec"], MTVEC)
    cpu.write_csr(cpu.width.csrs["mie"], 1 << Irq.MTIP)
    cpu.write_csr(cpu.width.csrs["mstatus"], 1 << 3)  # MIE
    cpu.pc = RAM
    run_until_asleep(cpu)

    cpu.line(Irq.MTIP).set(True)

    assert not cpu.asleep
    cpu.run()
    assert cpu.read_csr(cpu.width.csrs["mcause"]) == 1 << cpu.width.xlen - 1 | Irq.MTIP
    assert cpu.read_csr(cpu.width.csrs["mepc"]) == RAM + 4


def test_an_interrupt_that_is_not_enabled_lets_the_hart_sleep(cpu: RiscvCpu) -> None:
    put(cpu, RAM, WFI)
    cpu.pc = RAM
    run_until_asleep(cpu)

    cpu.line(Irq.SEIP).set(True)

    assert cpu.asleep


@pytest.mark.parametrize(
    ("instruction", "cause"),
    [(0x0000A303, 5), (0x0060A023, 7)],
    ids=["load", "store"],
)
def test_an_access_to_nothing_is_an_access_fault(cpu: RiscvCpu, instruction: int, cause: int) -> None:
    put(cpu, RAM, instruction)  # lw x6, 0(x1); sw x6, 0(x1)
    put(cpu, MTVEC, WFI)
    cpu.write_csr(cpu.width.csrs["mtvec"], MTVEC)
    cpu.write(1, 0x4000_0000)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read_csr(cpu.width.csrs["mcause"]) == cause
    assert cpu.read_csr(cpu.width.csrs["mepc"]) == RAM


def test_a_jump_to_nothing_is_an_access_fault(cpu: RiscvCpu) -> None:
    put(cpu, RAM, 0x00008067)  # jr x1
    put(cpu, MTVEC, WFI)
    cpu.write_csr(cpu.width.csrs["mtvec"], MTVEC)
    cpu.write(1, 0x4000_0000)
    cpu.pc = RAM

    run_until_asleep(cpu)

    assert cpu.read_csr(cpu.width.csrs["mcause"]) == 1


def test_a_counted_slice_ends_though_no_handler_can_be_fetched(cpu: RiscvCpu) -> None:
    width = cpu.width
    state = cpu.save()
    state.csrs[list(width.csrs).index("satp")] = max(width.satp_modes[:2]) << width.satp_mode | RAM >> 12  # an empty table
    state.csrs[list(width.csrs).index("medeleg")] = 0xB0_BFFF  # its faults are S-mode's
    state.priv = Priv.S
    cpu.load(state)

    cpu.engine.run(100)

    assert cpu.engine.executed == 100  # exceptions count
