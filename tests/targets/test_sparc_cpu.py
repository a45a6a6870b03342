"""The LEON3's state goes through the engine and back unchanged; its traps and interrupts are as the manual has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.errors import EngineError, StateError
from migration.vmstate import dump, parse
from targets.sparc.cpu import WINDOWS, SparcCpu, SparcState
from tests.targets.bench import Bench, bench, differences

BASE = 0x4000_0000
CODE, TABLE = BASE + 0x1000, BASE + 0x2000
SLEEP, NOP = "a7800000", "01000000"  # wr %g0,%asr19; nop
NOWHERE = 0x7000_0000
TRAPS_ON = 0xF30000E0  # supervisor, before it too, window 0
u32s, u64s = (st.integers(0, (1 << bits) - 1) for bits in (32, 64))


@pytest.fixture
def sparc() -> Iterator[Bench[SparcCpu]]:
    with bench("sparc", BASE, SparcCpu) as made:
        for trap in range(256):
            made.put(TABLE + 16 * trap, SLEEP)
        state = made.cpu.save()
        state.psr, state.tbr, state.pc, state.npc = TRAPS_ON, TABLE, CODE, CODE + 4
        made.cpu.load(state)
        yield made


def change(sparc: Bench[SparcCpu], **fields: int | list[int]) -> None:
    state = sparc.cpu.save()
    for name, value in fields.items():
        setattr(state, name, value)
    sparc.cpu.load(state)


@st.composite
def states(draw: st.DrawFn) -> SparcState:
    """Legal states: what another CPU could have saved."""

    def several(items: st.SearchStrategy[int], count: int) -> list[int]:
        return draw(st.lists(items, min_size=count, max_size=count))

    return SparcState(
        pc=draw(u32s) & ~3,
        npc=draw(u32s) & ~3,
        g=[0, *several(u32s, 7)],
        windows=[value + n for n in range(WINDOWS) for value in several(st.integers(0, 0xFFFF_FF00), 16)],
        f=several(u64s, 16),
        psr=0xF3000000 | draw(u32s) & 0x00F01FE0 | draw(st.integers(0, WINDOWS - 1)),
        wim=draw(st.integers(0, 0xFF)),
        tbr=draw(u32s),
        y=draw(u32s),
        fsr=draw(u32s),
        mmu=several(u32s, 32),
        cache_control=draw(u32s),
        asleep=draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(sparc: Bench[SparcCpu], state: SparcState) -> None:
    taken = parse(SparcState, SparcState.VMSTATE.version, dump(state))

    sparc.cpu.load(taken)

    assert differences(sparc.cpu.save(), state) == {}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("psr", 0xF300_0008, "psr has window 8, there are 8"),
        ("psr", 0xF300_4000, "psr is 0xf3004000, must be within"),
        ("g", [1] + [0] * 7, r"g\[0\] is 0x1, must be 0"),
    ],
)
def test_a_state_no_cpu_can_have_is_refused(field: str, value: object, words: str) -> None:
    state = SparcState()
    setattr(state, field, value)
    with pytest.raises(StateError, match=words):
        state.check()


def test_reset_is_the_state_after_power_on(sparc: Bench[SparcCpu]) -> None:
    sparc.cpu.reset()

    state = sparc.cpu.save()
    assert (state.pc, state.npc, state.psr & 0xA0) == (0, 4, 0x80)


def test_a_trap_takes_pc_and_npc_to_the_next_window(sparc: Bench[SparcCpu]) -> None:
    sparc.put(CODE, NOP + "91d02003")  # nop; ta 3

    sparc.run_until_asleep()

    state, registers = sparc.cpu.save(), sparc.cpu.registers()
    assert state.tbr == TABLE + 16 * 0x83
    assert (state.psr & 0x1F, state.psr & 0x20) == (WINDOWS - 1, 0)
    assert (registers["l1"], registers["l2"]) == (CODE + 4, CODE + 8)


def test_a_trap_in_a_delay_slot_keeps_the_branch(sparc: Bench[SparcCpu]) -> None:
    sparc.put(CODE, "10800010 00000000")  # ba .+64; unimp

    sparc.run_until_asleep()

    registers = sparc.cpu.registers()
    assert registers["tbr"] == TABLE + 16 * 0x02
    assert (registers["l1"], registers["l2"]) == (CODE + 4, CODE + 64)


def test_a_cpu_saved_in_a_delay_slot_goes_on_to_the_branch(sparc: Bench[SparcCpu]) -> None:
    sparc.put(CODE, "86102001")  # mov 1,%g3
    sparc.put(CODE + 64, SLEEP)
    change(sparc, pc=CODE, npc=CODE + 64)

    sparc.run_until_asleep()

    assert (sparc.cpu.engine.pc, sparc.cpu.save().g[3]) == (CODE + 68, 1)


def test_an_interrupt_wakes_the_cpu_and_enters_its_handler(sparc: Bench[SparcCpu]) -> None:
    sparc.put(CODE, SLEEP)
    sparc.run_until_asleep()

    sparc.cpu.interrupt.set(True)

    assert not sparc.cpu.asleep
    sparc.cpu.run()
    assert sparc.cpu.registers()["tbr"] == TABLE + 16 * 0x18
    assert sparc.cpu.registers()["l1"] == CODE + 4


def test_an_interrupt_below_the_level_lets_the_cpu_sleep(sparc: Bench[SparcCpu]) -> None:
    change(sparc, psr=TRAPS_ON | 0x800)
    sparc.put(CODE, SLEEP)
    sparc.run_until_asleep()

    sparc.cpu.interrupt.set(True)

    assert sparc.cpu.asleep


@pytest.mark.parametrize(
    ("code", "trap", "status"),
    [("c4004000", 9, 0x36), ("c4204000", 9, 0xB6), ("81c04000", 1, 0x76)],
    ids=["load", "store", "jump"],  # ld [%g1],%g2; st %g2,[%g1]; jmp %g1
)
def test_an_access_to_nothing_is_an_access_exception(sparc: Bench[SparcCpu], code: str, trap: int, status: int) -> None:
    change(sparc, g=[0, NOWHERE, *[0] * 6])
    sparc.put(CODE, code + NOP + SLEEP)

    sparc.run_until_asleep()

    state = sparc.cpu.save()
    assert state.tbr == TABLE + 16 * trap
    assert state.mmu[3:5] == [status, NOWHERE]
    assert sparc.cpu.registers()["l1"] == (NOWHERE if trap == 1 else CODE)


@pytest.mark.parametrize("code", ["91d02003", "00000000", "c4004000", "c4204000", "81c04000"])
def test_a_trap_while_traps_are_off_is_error_mode_and_not_the_end_of_the_process(sparc: Bench[SparcCpu], code: str) -> None:
    change(sparc, psr=TRAPS_ON & ~0x20, g=[0, NOWHERE, *[0] * 6])
    sparc.put(CODE, code + NOP)

    with pytest.raises(EngineError, match=r"CPU in error mode at pc .* while traps are off"):
        sparc.cpu.run()

    change(sparc, psr=TRAPS_ON, pc=CODE, npc=CODE + 4)
    sparc.put(CODE, SLEEP)
    sparc.cpu.engine.flush_code()
    sparc.run_until_asleep()


def test_an_address_is_translated_without_a_trace_of_it(sparc: Bench[SparcCpu]) -> None:
    before = sparc.cpu.save()

    assert sparc.cpu.engine.translate(CODE + 5) == CODE + 5

    assert differences(sparc.cpu.save(), before) == {}
