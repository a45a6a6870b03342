"""A PowerPC CPU's state goes through the engine and back unchanged, and its exceptions and interrupts are exact."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.clock import VirtualClock
from emu.engine.core import Engine
from emu.errors import EngineError, StateError
from migration.vmstate import dump, parse
from targets.ppc.cpu import MSR_EE, MSR_HV, MSR_ME, MSR_POW, MSR_SF, PpcCpu
from targets.ppc.state import STATES, Ppc64State, PpcState

SIZE = 16 * mmap.PAGESIZE
CODE, NOWHERE = 0x4000, 0x0800_0000
NOP, SC, SC_1, ILLEGAL, TRAP, SELF = 0x60000000, 0x44000002, 0x44000022, 0, 0x7FE00008, 0x48000000
LWZ_R4_R3, STW_R4_R3, BLR, MTMSR_R3 = 0x80830000, 0x90830000, 0x4E800020, 0x7C600124
MFTB_R4, MFTBU_R4, MFDEC_R4, MTDEC_R3, MTTBL_R3 = 0x7C8C42E6, 0x7C8D42E6, 0x7C9602A6, 0x7C7603A6, 0x7C7C43A6
ADDI_R4, STOP, MTMSRD_R3 = 0x38840001, 0x4C0002E4, 0x7C600164  # addi r4, r4, 1
NAP = 1 << 22
MSR_IR, MSR_DR, LPCR_AIL_RESERVED = 1 << 5, 1 << 4, 1 << 23
VECTORS = {"machine check": 0x200, "external": 0x500, "program": 0x700, "system call": 0xC00, "emulation assistance": 0xE40}
doubles = st.integers(0, (1 << 64) - 1)


@dataclass(slots=True)
class Bench:
    """A CPU with some RAM from 0 on, whose vectors put it to sleep."""

    cpu: PpcCpu
    memory: mmap.mmap

    @property
    def wide(self) -> bool:
        return self.cpu.STATE is Ppc64State

    def put(self, address: int, *code: int) -> None:
        data = b"".join(word.to_bytes(4, "big") for word in code)
        self.memory[address : address + len(data)] = data

    def run(self, *code: int, msr: int = MSR_ME) -> None:
        """Run `code` until one of the vectors is reached."""
        self.put(CODE, *code)
        for vector in VECTORS.values():
            self.put(vector, SELF)
        state = self.cpu.save()
        state.msr, state.pc = msr | (MSR_SF | MSR_HV if self.wide else 0), CODE
        if not self.wide:
            state.sprs[list(self.cpu.STATE.MODEL.sprs).index("HID0")] = NAP
        self.cpu.load(state)
        self.go_on()

    def go_on(self) -> None:
        for _ in range(20):
            self.cpu.engine.run(500)
            if self.cpu.asleep or self.cpu.engine.pc in VECTORS.values():
                return
        raise AssertionError(f"the CPU is at {self.cpu.engine.pc:#x}")

    @property
    def exception(self) -> tuple[int, int]:
        """The vector, and where the exception came from."""
        assisted = self.cpu.engine.pc == VECTORS["emulation assistance"]
        return self.cpu.engine.pc, self.cpu.read_spr("HSRR0" if assisted else "SRR0")

    def sleep(self, *, msr: int) -> None:
        """Run what puts this CPU to sleep with `msr`; it is the third instruction."""
        if self.wide:
            self.run(NOP, NOP, STOP, NOP, SC, msr=msr)
        else:
            self.cpu.write(3, msr | MSR_POW)
            self.run(NOP, NOP, MTMSR_R3, NOP, SC)


@pytest.fixture(params=list(STATES))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    engine = Engine(request.param)
    memory = mmap.mmap(-1, SIZE)
    engine.map_ram(0, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
    yield Bench(PpcCpu(engine, VirtualClock()), memory)
    engine.close()


@st.composite
def states(draw: st.DrawFn, cls: type[PpcState] | type[Ppc64State]) -> PpcState | Ppc64State:
    """Legal states: what another CPU could have saved."""
    model = cls.MODEL
    words = st.integers(0, model.all_bits)
    msr = draw(words) & model.msr_bits
    state = cls(
        msr=msr & ~(1 << 14) if cls is Ppc64State else msr,
        sprs=[draw(words) for _ in model.sprs],
        fpscr=draw(words),
        vscr=draw(st.sampled_from([0, 1, 0x1_0000, 0x1_0001])),
        asleep=draw(st.booleans()),
    )
    for name in model.words:
        one_bit = name in ("so", "ov", "ca", "ov32", "ca32", "resume_as_sreset")
        setattr(state, name, draw(words) & (1 if one_bit else model.all_bits))
    items = {"cr": st.integers(0, 15), "slb_esid": segments(), "slb_vsid": segment_ids()}
    for name, count in model.lists.items():
        item = items.get(name, doubles if name in ("f", "vr_high", "vr_low") else words)
        setattr(state, name, draw(st.lists(item, min_size=count, max_size=count)))
    return state


def segments() -> st.SearchStrategy[int]:
    return st.integers(0, (1 << 37) - 1).map(lambda number: number << 27)


def segment_ids() -> st.SearchStrategy[int]:
    return st.builds(
        lambda number, size, pages: size << 62 | number << 12 | pages,
        st.integers(0, (1 << 50) - 1),
        st.sampled_from([0, 1]),
        st.sampled_from([0, 0x100, 0x110]),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_legal_state_comes_back_as_it_went_in(bench: Bench, data: st.DataObject) -> None:
    cls = bench.cpu.STATE
    state = data.draw(states(cls))

    bench.cpu.load(parse(cls, cls.VMSTATE.version, dump(state)))
    saved = bench.cpu.save()

    differ = {name: (getattr(saved, name), getattr(state, name)) for name in cls.__slots__}
    assert {name: both for name, both in differ.items() if both[0] != both[1]} == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"msr": 1 << 62}, "msr is 0x4000000000000000, must be within"),
        ({"msr": 1 << 14}, "PR must come with 0x8030"),
        ({"slb_esid": [1, *[0] * 63]}, r"slb\[0\] is 0x1, 0x0, which is no segment"),
        ({"slb_vsid": [*[0] * 63, 0x20]}, r"slb\[63\] is 0x0, 0x20, which is no segment"),
    ],
)
def test_a_state_no_power10_can_have_is_refused(change: dict[str, int | list[int]], told: str) -> None:
    with pytest.raises(StateError, match=told):
        replace(Ppc64State(), **change).check()  # type: ignore[arg-type]  # values of the fields' types


@pytest.mark.parametrize(("change", "told"), [({"msr": 1 << 31}, "msr is 0x80000000"), ({"vscr": 2}, "vscr is 0x2")])
def test_a_state_no_cpu_can_have_is_refused(change: dict[str, int], told: str) -> None:
    with pytest.raises(StateError, match=told):
        replace(PpcState(), **change).check()  # type: ignore[arg-type]  # values of the fields' types


def test_a_reserved_place_of_the_vectors_stops_the_cpu_alone(bench: Bench) -> None:
    if not bench.wide:
        pytest.skip("its vectors have no other place")
    state = bench.cpu.save()
    state.sprs[list(bench.cpu.STATE.MODEL.sprs).index("LPCR")] |= LPCR_AIL_RESERVED
    bench.cpu.load(state)

    with pytest.raises(EngineError, match=r"exception \d+ has no way in"):
        bench.run(NOP, msr=MSR_ME | MSR_IR | MSR_DR)


def test_reset_is_the_state_after_power_on(bench: Bench) -> None:
    fresh = bench.cpu.save()
    bench.cpu.write(5, 77)

    bench.cpu.reset()

    assert bench.cpu.save() == fresh


@pytest.mark.parametrize(
    ("instruction", "vector", "came_from"),
    [(SC, 0xC00, CODE + 8), (SC_1, 0xC00, CODE + 8), (ILLEGAL, 0x700, CODE + 4), (TRAP, 0x700, CODE + 4)],
)
def test_a_trap_enters_the_guests_handler_with_its_address(bench: Bench, instruction: int, vector: int, came_from: int) -> None:
    bench.run(NOP, instruction)

    if instruction == ILLEGAL and bench.wide:
        vector = VECTORS["emulation assistance"]
    assert bench.exception == (vector, came_from)


@pytest.mark.parametrize("instruction", [LWZ_R4_R3, STW_R4_R3], ids=["load", "store"])
def test_an_access_to_nothing_is_a_machine_check(bench: Bench, instruction: int) -> None:
    bench.cpu.write(3, NOWHERE)
    bench.cpu.write(4, 5)

    bench.run(NOP, instruction)

    assert bench.exception == (0x200, CODE + 4)
    assert bench.cpu.read(4) == 5


def test_a_jump_to_nothing_is_a_machine_check(bench: Bench) -> None:
    state = bench.cpu.save()
    state.lr = NOWHERE
    bench.cpu.load(state)

    bench.run(BLR)

    assert bench.exception == (0x200, NOWHERE)


def test_a_machine_check_that_is_off_stops_the_cpu_and_not_the_process(bench: Bench) -> None:
    bench.cpu.write(3, NOWHERE)

    with pytest.raises(EngineError, match="checkstop, a load at physical address 0x8000000"):
        bench.run(LWZ_R4_R3, msr=0)


def test_an_interrupt_wakes_a_sleeping_cpu_and_enters_its_handler(bench: Bench) -> None:
    bench.sleep(msr=MSR_ME | MSR_EE)
    assert bench.cpu.asleep

    bench.cpu.interrupt.set(True)

    assert not bench.cpu.asleep
    bench.go_on()
    assert bench.exception == (0x500, CODE + 12)
    assert bench.cpu.read_spr("SRR1") & 0xFFFF_FFFF == MSR_ME | MSR_EE


def test_an_interrupt_that_is_off_leaves_a_7400_asleep_and_ends_a_power10s_stop(bench: Bench) -> None:
    bench.sleep(msr=MSR_ME)

    bench.cpu.interrupt.set(True)

    assert bench.cpu.asleep is not bench.wide
    if bench.wide:
        bench.go_on()
        assert bench.exception == (0xC00, CODE + 20)


def test_a_pending_interrupt_is_taken_at_the_instruction_that_allows_it(bench: Bench) -> None:
    bench.cpu.interrupt.set(True)
    bench.cpu.write(3, MSR_ME | MSR_EE | (MSR_SF | MSR_HV if bench.wide else 0))

    bench.run(NOP, MTMSRD_R3 if bench.wide else MTMSR_R3, NOP, SC)

    assert bench.exception == (0x500, CODE + 8)


def test_time_stands_still(bench: Bench) -> None:
    """A limit of this engine: the board's timer is what tells the time, and the decrementer is a register like others."""
    bench.cpu.write(3, 1)

    bench.run(MTDEC_R3, MTTBL_R3, *[NOP] * 100, MFTB_R4, MFTBU_R4, MFDEC_R4, SC)

    assert bench.exception[0] == 0xC00
    assert bench.cpu.read(4) == 1


def test_a_run_of_instructions_without_a_branch_may_be_long(bench: Bench) -> None:
    bench.cpu.write(4, 0)
    bench.run(*[ADDI_R4] * 3000, SC)

    assert bench.cpu.read(4) == 3000


def test_a_program_may_not_set_the_time(bench: Bench) -> None:
    if bench.wide:
        pytest.skip("its programs have translated addresses")

    bench.run(MTTBL_R3, msr=MSR_ME | 1 << 14)

    assert bench.exception == (0x700, CODE)
