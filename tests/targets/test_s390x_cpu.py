"""The CPU's state goes through the engine and back unchanged; its interruptions are as the manual has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.errors import EngineError, StateError
from migration.vmstate import dump, parse
from targets.s390x.cpu import CR0_SERVICE_SIGNAL, FPC_ROUNDING, LOWCORE, PSW_64_BIT, PSW_EXTERNAL, S390xCpu, S390xState
from tests.targets.bench import Bench, bench, differences

CODE, HANDLERS, WAITING = 0x3000, 0x4000, 0x500  # the last: a PSW
WAIT = f"b2b2 0{WAITING:03x}"  # lpswe
NOWHERE = 0x4000_0000
u32s, u64s = (st.integers(0, (1 << bits) - 1) for bits in (32, 64))


@pytest.fixture
def s390x() -> Iterator[Bench[S390xCpu]]:
    with bench("s390x", 0, S390xCpu) as made:
        made.cpu.memory = made.ram
        for number, new in enumerate((0x1B0, 0x1C0, 0x1D0)):  # external, supervisor call, program
            made.put(new, f"{PSW_64_BIT | 1 << 49:016x} {HANDLERS + 16 * number:016x}")  # waits at once
        made.put(WAITING, f"{PSW_64_BIT | PSW_EXTERNAL | 1 << 49:016x} {CODE + 0x100:016x}")
        change(made, psw_mask=PSW_64_BIT, psw_address=CODE)
        yield made


def change(s390x: Bench[S390xCpu], **fields: int | list[int]) -> None:
    state = s390x.cpu.save()
    for name, value in fields.items():
        setattr(state, name, value)
    s390x.cpu.load(state)


@st.composite
def states(draw: st.DrawFn) -> S390xState:
    """Legal states: what another CPU could have saved."""

    def several(items: st.SearchStrategy[int], count: int) -> list[int]:
        return draw(st.lists(items, min_size=count, max_size=count))

    return S390xState(
        psw_mask=draw(u64s),
        psw_address=draw(u64s),
        r=several(u64s, 16),
        v=[value ^ n for n in range(16) for value in several(u64s, 4)],
        a=several(u32s, 16),
        c=several(u64s, 16),
        gscb=several(u64s, 4),
        fpc=draw(u32s) & 0xFCFC_FF70 | draw(st.sampled_from(FPC_ROUNDING)),
        prefix=draw(st.integers(0, 0x3FFFF)) * LOWCORE,
        ckc=draw(u64s),
        cputm=draw(u64s),
        todpr=draw(u32s),
        executed=draw(st.one_of(st.just(0), u64s.map(lambda value: value & ~0xF | 4))),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(s390x: Bench[S390xCpu], state: S390xState) -> None:
    taken = parse(S390xState, S390xState.VMSTATE.version, dump(state))

    s390x.cpu.load(taken)

    assert differences(s390x.cpu.save(), state) == {}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (S390xState(fpc=0x80), "fpc is 0x80, which has reserved bits or rounding modes"),
        (S390xState(fpc=4), "fpc is 0x4"),
        (S390xState(executed=0xD200_0000_0000_0003), "executed is 0xd200000000000003, must end in one of"),
        (S390xState(prefix=0x1000), "prefix is 0x1000, must be a multiple of 0x2000"),
    ],
)
def test_a_state_no_cpu_can_have_is_refused(state: S390xState, words: str) -> None:
    with pytest.raises(StateError, match=words):
        state.check()


def test_a_supervisor_call_swaps_the_psws(s390x: Bench[S390xCpu]) -> None:
    s390x.put(CODE, "0700 0a05")  # nop; svc 5

    s390x.run_until_asleep()

    assert s390x.cpu.engine.pc == HANDLERS + 16
    assert s390x.get(0x88, 4) == 2 << 16 | 5
    assert (s390x.get(0x140, 8), s390x.get(0x148, 8)) == (PSW_64_BIT, CODE + 4)


def test_an_operation_exception_is_told_behind_its_instruction(s390x: Bench[S390xCpu]) -> None:
    s390x.put(CODE, "0700 0000")

    s390x.run_until_asleep()

    assert s390x.cpu.engine.pc == HANDLERS + 32
    assert s390x.get(0x8C, 4) == 2 << 16 | 1
    assert s390x.get(0x158, 8) == CODE + 4


@pytest.mark.parametrize(
    ("code", "length"),
    [("58201000", 4), ("50201000", 4), ("e32010000024", 6)],
    ids=["load", "store", "long store"],  # l %r2,0(%r1); st %r2,0(%r1); stg %r2,0(%r1)
)
def test_an_access_to_nothing_is_an_addressing_exception(s390x: Bench[S390xCpu], code: str, length: int) -> None:
    change(s390x, r=[0, NOWHERE, *[0] * 14])
    s390x.put(CODE, code)

    s390x.run_until_asleep()

    assert s390x.cpu.engine.pc == HANDLERS + 32
    assert s390x.get(0x8C, 4) == length << 16 | 5
    assert s390x.get(0x158, 8) == CODE + length


def test_an_interruption_wakes_the_cpu_that_waits(s390x: Bench[S390xCpu]) -> None:
    change(s390x, c=[CR0_SERVICE_SIGNAL, *[0] * 15])
    s390x.put(CODE, WAIT)
    s390x.run_until_asleep()
    assert s390x.cpu.engine.pc == CODE + 0x100

    s390x.cpu.interrupt.set(True)

    assert not s390x.cpu.asleep
    s390x.run_until_asleep()
    assert s390x.cpu.engine.pc == HANDLERS
    assert s390x.get(0x84, 4) == 0x2401
    assert (s390x.get(0x130, 8), s390x.get(0x138, 8)) == (PSW_64_BIT | PSW_EXTERNAL | 1 << 49, CODE + 0x100)


def test_an_interruption_is_taken_when_the_guest_enables_it(s390x: Bench[S390xCpu]) -> None:
    change(s390x, c=[CR0_SERVICE_SIGNAL, *[0] * 15])
    s390x.put(CODE, "ad010600 a7f40000")  # stosm 0x600,1; j .
    s390x.cpu.interrupt.set(True)

    s390x.run_until_asleep()

    assert s390x.cpu.engine.pc == HANDLERS
    assert s390x.get(0x138, 8) == CODE + 4


@pytest.mark.parametrize("control", [0, CR0_SERVICE_SIGNAL])
def test_an_interruption_that_is_not_enabled_lets_the_cpu_wait(s390x: Bench[S390xCpu], control: int) -> None:
    change(s390x, c=[control, *[0] * 15])
    if control:
        s390x.put(WAITING, f"{PSW_64_BIT | 1 << 49:016x}")
    s390x.put(CODE, WAIT)
    s390x.run_until_asleep()

    s390x.cpu.interrupt.set(True)

    assert s390x.cpu.asleep


def test_a_prefix_area_outside_of_memory_is_a_check_stop_and_not_the_end_of_the_process(s390x: Bench[S390xCpu]) -> None:
    change(s390x, prefix=0x2000_0000)
    s390x.put(CODE, "0a05")

    with pytest.raises(EngineError, match="CPU in the check-stop state at pc 0x3000"):
        s390x.cpu.run()


def test_reset_is_the_state_after_power_on(s390x: Bench[S390xCpu]) -> None:
    s390x.cpu.reset()

    assert s390x.cpu.save() == S390xState()
