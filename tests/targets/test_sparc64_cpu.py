"""The UltraSPARC's state goes through the engine and back unchanged; its traps and interrupts are as the manual has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.errors import EngineError, StateError
from migration.vmstate import dump, parse
from targets.sparc.cpu64 import CANSAVE_MAX, LOOK_AGAIN, MAX_TL, PSTATE_LEGAL, TRAP_LEVELS, WINDOWS, Sparc64Cpu, Sparc64State
from tests.devices.fakes import FakeClock
from tests.targets.bench import SIZE, Bench, bench, differences

BASE = 0x10_0000
TABLE, CODE = BASE, BASE + 0xC000
NESTED = 0x4000  # from the first table to that of traps at a trap level above 0
SHUTDOWN, NOP = "81b01000", "01000000"
TRAP_3, ILLEGAL = "91d02003", "00000000"
LOAD, STORE, JUMP = "c4584000", "c4704000", "81c04000"  # ldx [%g1],%g2; stx %g2,[%g1]; jmp %g1
NOWHERE = 0x7000_0000
ON, OFF = 0x16, 0x14  # PSTATE: privileged, the FPU on, interrupts on or off
USER = 0x12
BOARD_INTERRUPT = 0x48
u64s = st.integers(0, (1 << 64) - 1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sparc(clock: FakeClock) -> Iterator[Bench[Sparc64Cpu]]:
    with bench("sparc64", BASE, lambda engine: Sparc64Cpu(engine, clock)) as made:
        made.cpu.memory = made.ram
        for trap in range(0, SIZE - 0x4000, 32):
            made.put(TABLE + trap, SHUTDOWN)
        change(made, pstate=ON, tba=TABLE, pc=CODE, npc=CODE + 4)
        yield made


def change(sparc: Bench[Sparc64Cpu], **fields: int | list[int]) -> None:
    state = sparc.cpu.save()
    for name, value in fields.items():
        setattr(state, name, value)
    sparc.cpu.load(state)


def g1(value: int) -> list[int]:
    """All sets of globals, with this in g1 of the normal one."""
    return [0, value, *[0] * 30]


def trap_of(state: Sparc64State) -> list[int]:
    """TPC, TNPC, TSTATE, TT of the current trap level."""
    return state.trap_stack[4 * state.tl : 4 * state.tl + 4]


@st.composite
def states(draw: st.DrawFn) -> Sparc64State:
    """Legal states: what another CPU could have saved."""

    def several(count: int) -> list[int]:
        return draw(st.lists(u64s, min_size=count, max_size=count))

    def below(limit: int) -> int:
        return draw(st.integers(0, limit - 1))

    globals_ = several(32)
    globals_[::8] = [0] * 4
    first = draw(u64s) >> 8
    return Sparc64State(
        pc=draw(u64s) & ~3,
        npc=draw(u64s) & ~3,
        globals=globals_,
        windows=[first + n for n in range(WINDOWS * 16)],
        f=several(32),
        cwp=below(WINDOWS),
        cansave=below(CANSAVE_MAX + 1),
        canrestore=below(8),
        otherwin=below(8),
        cleanwin=below(8),
        wstate=below(64),
        y=draw(u64s),
        ccr=below(256),
        asi=below(256),
        fprs=below(8),
        fsr=draw(u64s),
        gsr=draw(u64s),
        pstate=below(0x1000) & PSTATE_LEGAL,
        pil=below(16),
        tba=draw(u64s),
        tl=below(TRAP_LEVELS),
        trap_stack=several(32),
        softint=below(1 << 32),
        tick_cmpr=draw(u64s),
        stick_cmpr=draw(u64s),
        lsu=draw(u64s),
        immu=several(16),
        dmmu=several(16),
        itlb=[first + n for n in range(128)],
        dtlb=[first - n for n in range(128)] if first > 128 else [0] * 128,
        scratch=several(8),
        ivec=several(4),
        asleep=draw(st.booleans()),
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(sparc: Bench[Sparc64Cpu], state: Sparc64State) -> None:
    taken = parse(Sparc64State, Sparc64State.VMSTATE.version, dump(state))

    sparc.cpu.load(taken)

    assert differences(sparc.cpu.save(), state) == {}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("globals", [0] * 8 + [1] + [0] * 23, "globals has 0x1 in ag g0, must be 0"),
        ("pstate", 0x40, "pstate is 0x40, must be within 0xf3f"),
    ],
)
def test_a_state_no_cpu_can_have_is_refused(field: str, value: object, words: str) -> None:
    state = Sparc64State()
    setattr(state, field, value)
    with pytest.raises(StateError, match=words):
        state.check()


def test_reset_is_the_state_after_power_on(sparc: Bench[Sparc64Cpu]) -> None:
    sparc.cpu.reset()

    state = sparc.cpu.save()
    assert (state.pc, state.npc, state.pstate, state.tl) == (0, 4, OFF, 0)


def test_a_trap_keeps_pc_npc_and_state_and_changes_the_globals(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, globals=g1(7), cwp=3, ccr=0x99, asi=0x80)
    sparc.put(CODE, NOP + TRAP_3)

    sparc.run_until_asleep()

    state = sparc.cpu.save()
    assert trap_of(state) == [CODE + 4, CODE + 8, 0x99 << 32 | 0x80 << 24 | ON << 8 | 3, 0x103]
    assert (state.pc, state.tl, state.pstate) == (TABLE + 0x103 * 32 + 4, 1, 0x15)
    assert (state.globals[1], sparc.cpu.registers()["g1"]) == (7, 0)


def test_a_trap_in_a_delay_slot_keeps_the_branch(sparc: Bench[Sparc64Cpu]) -> None:
    sparc.put(CODE, "10800010" + ILLEGAL)  # ba .+64

    sparc.run_until_asleep()

    assert trap_of(sparc.cpu.save())[:2] == [CODE + 4, CODE + 64]


def test_a_cpu_saved_in_a_delay_slot_goes_on_to_the_branch(sparc: Bench[Sparc64Cpu]) -> None:
    sparc.put(CODE, "86102001")  # mov 1,%g3
    sparc.put(CODE + 64, SHUTDOWN)
    change(sparc, pc=CODE, npc=CODE + 64)

    sparc.run_until_asleep()

    assert (sparc.cpu.engine.pc, sparc.cpu.save().globals[3]) == (CODE + 68, 1)


def test_a_window_that_is_not_there_is_spilled(sparc: Bench[Sparc64Cpu]) -> None:
    sparc.put(CODE, "9de3bf40")  # save %sp,-192,%sp
    change(sparc, cansave=0, cwp=1)

    sparc.run_until_asleep()

    state = sparc.cpu.save()
    assert trap_of(state)[3] == 0x80
    assert state.cwp == 3  # two up: the one to be spilled


def test_the_windows_overlap(sparc: Bench[Sparc64Cpu]) -> None:
    windows = [100 * (n // 16) + n % 16 for n in range(16 * WINDOWS)]
    change(sparc, windows=windows, cwp=0)

    registers = sparc.cpu.registers()

    assert (registers["o0"], registers["l0"], registers["i0"]) == (0, 8, 700)


def test_an_interrupt_wakes_the_cpu_and_enters_its_handler(sparc: Bench[Sparc64Cpu]) -> None:
    sparc.put(CODE, SHUTDOWN)
    sparc.run_until_asleep()

    sparc.cpu.interrupt.set(True)

    assert not sparc.cpu.asleep
    sparc.cpu.run()
    state = sparc.cpu.save()
    assert (trap_of(state)[0], trap_of(state)[3]) == (CODE + 4, BOARD_INTERRUPT)


def test_an_interrupt_below_the_level_lets_the_cpu_sleep(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, pil=8)
    sparc.put(CODE, SHUTDOWN)
    sparc.run_until_asleep()

    sparc.cpu.interrupt.set(True)

    assert sparc.cpu.asleep


def test_an_interrupt_is_taken_once_the_guest_turns_them_on(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, pstate=OFF)
    sparc.put(CODE, NOP + "8d902016" + NOP + "8d902014" + SHUTDOWN)  # wrpr 0x16,%pstate; nop; wrpr 0x14,%pstate

    sparc.cpu.interrupt.set(True)
    sparc.cpu.run()

    state = sparc.cpu.save()
    assert trap_of(state)[3] == BOARD_INTERRUPT
    assert CODE + 8 <= trap_of(state)[0] <= CODE + 12


def test_an_interrupt_that_pil_held_back_is_taken_at_the_next_jump(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, pil=15, globals=g1(CODE + 64))
    sparc.put(CODE, "91902000" + NOP + JUMP + NOP)  # wrpr 0,%pil
    sparc.put(CODE + 64, SHUTDOWN)

    sparc.cpu.interrupt.set(True)
    sparc.cpu.run()

    state = sparc.cpu.save()
    assert trap_of(state)[3] == BOARD_INTERRUPT
    assert trap_of(state)[0] == CODE + 64


def test_an_interrupt_that_pil_holds_back_ends_the_slice_soon(sparc: Bench[Sparc64Cpu], clock: FakeClock) -> None:
    change(sparc, pil=15)
    sparc.put(CODE, SHUTDOWN)
    sparc.cpu.interrupt.set(True)

    sparc.cpu.run()

    assert clock.next_deadline() == LOOK_AGAIN


def test_a_counted_slice_ends_where_pil_lets_an_interrupt_through(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, pil=15)
    sparc.put(CODE, "91902000" + NOP + NOP + SHUTDOWN)  # wrpr 0,%pil
    sparc.cpu.interrupt.set(True)
    engine = sparc.cpu.engine

    engine.budget = 1000
    sparc.cpu.run()
    assert (engine.executed, engine.pc) == (1, CODE + 4)

    engine.budget = 1000
    sparc.cpu.run()
    state = sparc.cpu.save()
    assert (trap_of(state)[0], trap_of(state)[3]) == (CODE + 4, BOARD_INTERRUPT)


def test_user_code_may_not_wait(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, pstate=USER)
    sparc.put(CODE, SHUTDOWN)

    sparc.cpu.run()

    assert trap_of(sparc.cpu.save())[3] == 0x11  # privileged_opcode


@pytest.mark.parametrize(("code", "trap"), [(LOAD, 0x32), (STORE, 0x32), (JUMP, 0x0A)], ids=["load", "store", "jump"])
def test_an_access_to_nothing_is_an_access_error(sparc: Bench[Sparc64Cpu], code: str, trap: int) -> None:
    change(sparc, globals=g1(NOWHERE))
    sparc.put(CODE, code + NOP + SHUTDOWN)

    sparc.run_until_asleep()

    state = sparc.cpu.save()
    assert trap_of(state)[3] == trap
    assert trap_of(state)[0] == (NOWHERE if trap == 0x0A else CODE)


@pytest.mark.parametrize("code", [TRAP_3, ILLEGAL, LOAD, STORE, JUMP])
def test_a_trap_at_the_last_level_is_error_state_and_not_the_end_of_the_process(sparc: Bench[Sparc64Cpu], code: str) -> None:
    change(sparc, tl=MAX_TL, globals=g1(NOWHERE))
    sparc.put(CODE, code + NOP)

    with pytest.raises(EngineError, match=r"CPU in error_state at pc .* at trap level 5"):
        sparc.cpu.run()

    change(sparc, tl=0, pc=CODE, npc=CODE + 4)
    sparc.put(CODE, SHUTDOWN)
    sparc.cpu.engine.flush_code()
    sparc.run_until_asleep()


def test_an_interrupt_at_the_last_level_is_not_the_end_of_the_process(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, tl=MAX_TL)
    sparc.cpu.interrupt.set(True)

    with pytest.raises(EngineError, match=r"CPU in error_state at pc .*: trap 0x48 at trap level 5"):
        sparc.cpu.run()


@pytest.mark.parametrize("value", [8, 100, 0x1234_5678, 0x8000_0001, 0xFFFF_FFFF])
@pytest.mark.parametrize("register", ["95904000", "93904000", "8f904000"], ids=["cansave", "cwp", "tl"])  # wrpr %g1,...
def test_a_register_beyond_its_range_spills_into_nothing(sparc: Bench[Sparc64Cpu], register: str, value: int) -> None:
    change(sparc, globals=g1(value), trap_stack=[CODE] * 32)
    # then: wrpr 0,%tl; flushw; a trap that spills, in a window that exists
    sparc.put(CODE, register + "8f902000" + "81580000" + SHUTDOWN)

    sparc.run_until_asleep()

    state = sparc.cpu.save()
    state.check()
    assert trap_of(state)[3] == 0x80
    parse(Sparc64State, Sparc64State.VMSTATE.version, dump(state))


def test_time_of_the_cpus_own_stands_still(sparc: Bench[Sparc64Cpu]) -> None:
    sparc.put(CODE, "87410000" + SHUTDOWN)  # rd %tick,%g3

    sparc.run_until_asleep()

    assert sparc.cpu.save().globals[3] == 0


def test_an_address_is_translated_without_a_trace_of_it(sparc: Bench[Sparc64Cpu]) -> None:
    entry = 1 << 63 | BASE | 2  # valid, 8 KiB, writable
    change(sparc, dtlb=[0x4000_0000, entry, *[0] * 126], lsu=0x8)
    before = sparc.cpu.save()

    assert sparc.cpu.engine.translate(0x4000_0123) == BASE + 0x123
    assert sparc.cpu.engine.translate(0x5000_0000) is None

    assert differences(sparc.cpu.save(), before) == {}


# What ended the process


def test_an_assertion_of_the_librarys_that_a_guest_breaks_is_not_the_end_of_the_process(sparc: Bench[Sparc64Cpu]) -> None:
    change(sparc, globals=g1(BASE))
    sparc.put(CODE, "c4e84440")  # ldstuba [%g1]0x22,%g2: an address space that is for quadwords

    with pytest.raises(EngineError, match="CPU cannot go on near pc"):
        sparc.cpu.run()

    change(sparc, pc=CODE + 4, npc=CODE + 8)
    sparc.put(CODE + 4, SHUTDOWN)
    sparc.run_until_asleep()


@pytest.mark.parametrize("condition", [0, 4])
def test_a_reserved_condition_never_holds(sparc: Bench[Sparc64Cpu], condition: int) -> None:
    change(sparc, globals=[0, 0, 7, *[0] * 29])
    branch, move = 0x00C0_4010 | condition << 25, 0x8578_6005 | condition << 10  # BPr %g1,.+64; MOVr %g1,5,%g2
    sparc.put(CODE, f"{branch:08x}" + NOP + f"{move:08x}" + SHUTDOWN)

    sparc.run_until_asleep()

    assert (sparc.cpu.engine.pc, sparc.cpu.save().globals[2]) == (CODE + 16, 7)
