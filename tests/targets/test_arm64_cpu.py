"""The CPU's state goes through the engine and back unchanged, its exceptions reach the guest, its timer tells guest time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.generic_timer import ENABLE, ISTATUS, NS_PER_TICK
from emu.errors import StateError
from migration.vmstate import dump, parse
from targets.arm.cpu64 import (
    ALL_BITS,
    FPCR_MASK,
    FPSR_MASK,
    LEGAL,
    MODES,
    PSTATE32_MASK,
    PSTATE_MASK,
    PSTATE_MODE,
    PSTATE_START,
    SYSTEM,
    THUMB,
    USER32,
    WORD,
    Arm64Cpu,
    Arm64State,
)
from tests.targets.armbench import RAM, VECTORS, ArmBench

SAME_EL_SYNC, SAME_EL_IRQ = VECTORS + 0x200, VECTORS + 0x280
NOP, WFI, UDF, SVC, HVC, SMC, BRK = 0xD503201F, 0xD503207F, 0x00000000, 0xD4000001, 0xD4000002, 0xD4000003, 0xD4200000
NOWHERE = 0x1_0000_0000
ELR, SPSR, ESR, FAR, VBAR = (SYSTEM.index(f"{name}_el1") for name in ("elr", "spsr", "esr", "far", "vbar"))
words = st.integers(0, ALL_BITS)


class Bench(ArmBench[Arm64Cpu]):
    """A CPU with vectors."""

    def __init__(self) -> None:
        super().__init__("arm64", Arm64Cpu)

    def run(self, *code: int, pstate: int = PSTATE_START) -> Arm64State:
        """Run code at RAM, with vectors that sleep, until the CPU sleeps."""
        self.put(RAM, *code)
        for vector in range(VECTORS, VECTORS + 0x800, 0x80):
            self.put(vector, WFI)
        system = self.cpu.save().system
        system[VBAR] = VECTORS
        self.change(pc=RAM, pstate=pstate, system=system)
        self.run_until_asleep()
        return self.cpu.save()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.close()


@st.composite
def states(draw: st.DrawFn) -> Arm64State:
    """Legal states: what another CPU could have saved."""
    if draw(st.booleans()):
        width, pstate = ALL_BITS, draw(words) & PSTATE_MASK & ~PSTATE_MODE | draw(st.sampled_from(MODES))
        pc = draw(words)
    else:
        width, pstate = WORD, draw(words) & PSTATE32_MASK & ~PSTATE_MODE | USER32
        pc = draw(words) & WORD & ~(1 if pstate & THUMB else 3)
    return Arm64State(
        pc=pc,
        x=[value & width for value in draw(st.lists(words, min_size=31, max_size=31))],
        sp_el0=draw(words),
        sp_el1=draw(words),
        pstate=pstate,
        v=draw(st.lists(words, min_size=64, max_size=64)),
        fpcr=draw(words) & FPCR_MASK,
        fpsr=draw(words) & FPSR_MASK,
        system=[draw(words) & LEGAL.get(name, ALL_BITS) for name in SYSTEM],
        exclusive=draw(st.lists(words, min_size=3, max_size=3)),
        interrupt=draw(st.booleans()),
        asleep=draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(bench: Bench, state: Arm64State) -> None:
    bench.cpu.load(parse(Arm64State, Arm64State.VMSTATE.version, dump(state)))

    saved = bench.cpu.save()
    assert {name: getattr(saved, name) for name in Arm64State.__slots__} == {
        name: getattr(state, name) for name in Arm64State.__slots__
    }


@pytest.mark.parametrize(
    ("change", "words_of_it"),
    [
        ({"pstate": 0x3C9}, "pstate has mode 0x9"),  # EL2
        ({"pstate": 0x3DF}, "pstate has mode 0x1f"),  # AArch32, but at EL1
        ({"pstate": 0x10, "x": [1 << 32] * 31}, r"x\[0\] is 0x100000000, must be at most 0xffffffff"),
        ({"pstate": 0x10, "pc": 2}, "pc is 0x2, must be a multiple of 4"),
        ({"pstate": 0x30, "pc": 1}, "pc is 0x1, must be a multiple of 2"),
        ({"pstate": 0x30, "pc": 1 << 32}, "pc is 0x100000000, must be"),
        ({"pstate": 1 << 24 | 0x10}, "pstate is 0x1000010"),
        ({"pstate": 0x3C5 | 1 << 5}, "pstate is 0x3e5"),
        ({"fpcr": 1}, "fpcr is 0x1"),
        ({"fpsr": 1 << 8}, "fpsr is 0x100"),
    ],
)
def test_a_state_no_guest_can_have_is_refused(change: dict[str, object], words_of_it: str) -> None:
    state = replace(Arm64State(), **change)  # type: ignore[arg-type]  # values of the fields' types
    with pytest.raises(StateError, match=words_of_it):
        state.check()


@pytest.mark.parametrize("name", list(LEGAL))
def test_a_register_with_bits_it_cannot_hold_is_refused_by_name(name: str) -> None:
    state = Arm64State()
    state.system[SYSTEM.index(name)] = ALL_BITS
    with pytest.raises(StateError, match=f"{name} is 0xf+, must be within"):
        state.check()


def test_reset_is_the_state_after_power_on(bench: Bench) -> None:
    fresh = bench.cpu.save()
    bench.change(x=[7] * 31, pstate=0x3C0, interrupt=True)

    bench.cpu.reset()

    assert bench.cpu.save() == fresh


@pytest.mark.parametrize(
    ("instruction", "exception_class", "behind"),
    [(UDF, 0x00, 0), (SVC, 0x15, 4), (BRK, 0x3C, 0)],
    ids=["undefined", "svc", "brk"],
)
def test_an_exception_enters_the_guests_vector_with_cause_and_pc(
    bench: Bench, instruction: int, exception_class: int, behind: int
) -> None:
    state = bench.run(instruction)

    assert state.pc == SAME_EL_SYNC + 4
    assert state.system[ESR] >> 26 == exception_class
    assert state.system[ELR] == RAM + behind


@pytest.mark.parametrize(
    ("instruction", "syndrome"),
    [(0xF9400020, 0x9600_0410), (0xF9000020, 0x9600_0450), (0xD61F0020, 0x8600_0410)],
    ids=["load", "store", "jump"],
)
def test_an_access_to_nothing_is_an_external_abort(bench: Bench, instruction: int, syndrome: int) -> None:
    bench.cpu.write(1, NOWHERE)

    state = bench.run(instruction)

    assert state.pc == SAME_EL_SYNC + 4
    assert state.system[ESR] == syndrome
    assert state.system[ELR] == (NOWHERE if instruction == 0xD61F0020 else RAM)


def test_an_access_to_nothing_by_a_program_says_where_it_came_from(bench: Bench) -> None:
    bench.cpu.write(1, NOWHERE)

    state = bench.run(0xF9400020, pstate=0x3C0)

    assert state.pc == VECTORS + 0x400 + 4
    assert state.system[ESR] == 0x9200_0410


@pytest.mark.parametrize("instruction", [HVC, SMC], ids=["hvc", "smc"])
def test_a_call_reaches_the_firmware_once_and_goes_on_behind_it(bench: Bench, instruction: int) -> None:
    calls: list[int] = []
    bench.cpu.on_call = lambda: calls.append(bench.cpu.pc)

    state = bench.run(instruction, WFI)

    assert calls == [RAM + 4]
    assert state.pc == RAM + 8


def test_an_interrupt_wakes_a_sleeping_cpu_and_enters_its_vector(bench: Bench) -> None:
    bench.run(WFI, pstate=0x0005)

    bench.cpu.interrupt.set(True)

    assert not bench.cpu.asleep
    bench.put(SAME_EL_IRQ, NOP)
    bench.engine.run(1)
    state = bench.cpu.save()
    assert (state.pc, state.system[ELR]) == (SAME_EL_IRQ + 4, RAM + 4)


def test_a_masked_interrupt_wakes_a_sleeping_cpu_and_it_goes_on(bench: Bench) -> None:
    bench.run(WFI, 0xD2800027)  # mov x7, #1

    bench.cpu.interrupt.set(True)

    assert not bench.cpu.asleep
    bench.engine.run(1)
    assert (bench.cpu.read(7), bench.cpu.pc) == (1, RAM + 8)


def test_the_counters_show_guest_time(bench: Bench) -> None:
    bench.clock.advance(1000 * NS_PER_TICK)

    bench.run(0xD53BE020, 0xD53BE041, 0xD53BE002, WFI)  # mrs x0, cntpct_el0; x1, cntvct_el0; x2, cntfrq_el0

    assert [bench.cpu.read(n) for n in range(3)] == [1000, 1000, 62_500_000]


def test_the_timer_registers_are_the_timers(bench: Bench) -> None:
    bench.cpu.write(0, 500)
    bench.cpu.write(1, ENABLE)
    # msr cntv_cval_el0, x0; msr cntv_ctl_el0, x1; mrs x2, cntv_ctl_el0; msr cntp_tval_el0, x0; mrs x3, cntp_cval_el0
    bench.run(0xD51BE340, 0xD51BE321, 0xD53BE322, 0xD51BE200, 0xD53BE243, WFI)

    assert bench.timer.virtual.state.cval == 500
    assert bench.cpu.read(2) == ENABLE
    assert bench.cpu.read(3) == 500
    bench.clock.advance(500 * NS_PER_TICK)
    assert bench.wires[1].level
    assert bench.timer.virtual.read_ctl() == ENABLE | ISTATUS


def test_a_guest_is_told_that_only_programs_can_be_32_bit_ones(bench: Bench) -> None:
    bench.run(0xD5380400, WFI)  # mrs x0, id_aa64pfr0_el1

    assert bench.cpu.read(0) & 0xFF == 0x12


@pytest.mark.parametrize(
    ("state", "code", "size", "behind"),
    [
        (USER32, (0xE2800001, 0xEF000000), 4, 8),  # add r0, r0, #1; svc 0
        (USER32 | THUMB, (0x3001, 0xDF00), 2, 4),  # adds r0, #1; svc 0
    ],
    ids=["arm", "thumb"],
)
def test_a_32_bit_program_calls_its_64_bit_kernel(
    bench: Bench, state: int, code: tuple[int, ...], size: int, behind: int
) -> None:
    bench.run(WFI)  # sets the vectors
    bench.put(RAM, *code, size=size)
    bench.change(pc=RAM, pstate=state, x=[41, *range(1, 31)], sp_el0=0x1234, asleep=False)
    assert (bench.cpu.pc, bench.cpu.in_user_mode) == (RAM, True)

    bench.run_until_asleep()

    after = bench.cpu.save()
    assert after.pc == VECTORS + 0x600 + 4  # from a lower level in AArch32 state (D1.10.2)
    assert after.x == [42, *range(1, 31)]
    assert (after.system[ELR], after.system[ESR] >> 26) == (RAM + behind, 0x11)
    assert after.system[SPSR] & (PSTATE_MODE | THUMB) == state
    assert after.sp_el0 == 0x1234


def test_a_32_bit_program_goes_on_in_the_middle_of_a_conditional_block(bench: Bench) -> None:
    bench.run(WFI)
    bench.put(RAM, 0x3001, 0x3002, 0xDF00, size=2)  # addeq r0, #1; addne r0, #2, as behind an ITE EQ; svc 0
    eq_then_ne = 0x0C << 8  # IT[7:2] of 0b00001100
    bench.change(pc=RAM, pstate=USER32 | THUMB | eq_then_ne, x=[40] * 31, asleep=False)

    bench.run_until_asleep()

    assert bench.cpu.read(0) == 42


def test_a_failing_timer_ends_the_slice_with_its_error(bench: Bench) -> None:
    def fail() -> int:
        raise RuntimeError("no time")

    bench.clock.now = fail  # type: ignore[method-assign]

    with pytest.raises(RuntimeError, match="no time"):
        bench.run(0xD53BE020, WFI)


def test_a_stack_pointer_is_saved_wherever_it_lives(bench: Bench) -> None:
    # mov sp, x0 (SP_EL1); msr spsel, #0; mov sp, x1 (SP_EL0)
    bench.cpu.write(0, 0x1000)
    bench.cpu.write(1, 0x2000)

    state = bench.run(0x9100001F, 0xD50040BF, 0x9100003F, WFI)

    assert (state.sp_el1, state.sp_el0) == (0x1000, 0x2000)
    bench.cpu.load(state)
    assert bench.cpu.save() == state


def test_an_exclusive_reservation_survives_a_move(bench: Bench) -> None:
    bench.cpu.write(1, RAM + 0x400)
    state = bench.run(0xC85F7C20, WFI, 0xC8027C23, WFI)  # ldxr x0, [x1]; stxr w2, x3, [x1]
    there = Bench()
    there.memory[:] = bench.memory[:]
    state.x[3], state.asleep = 77, False

    there.cpu.load(parse(Arm64State, 1, dump(state)))
    there.cpu.run()

    assert there.cpu.read(2) == 0
    assert int.from_bytes(there.memory[0x400:0x408], "little") == 77
    there.engine.close()
