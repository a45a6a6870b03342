"""The 68040's state goes through the engine and back unchanged; its exceptions and interrupts are as the manual has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.errors import EngineError, StateError
from migration.vmstate import dump, parse
from targets.m68k.cpu import SR_LEGAL, M68kCpu, M68kState
from tests.targets.bench import SIZE, Bench, bench, differences

CODE, HANDLER, VECTORS, STACK = 0x1000, 0x2000, 0x3000, 0x8000
STOP = "4e722700"  # stop #0x2700
WAIT = "4e722000"  # stop #0x2000: interrupts on
NOWHERE = 0x4000_0000
u16s, u32s, u64s = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


@pytest.fixture
def m68k() -> Iterator[Bench[M68kCpu]]:
    with bench("m68k", 0, M68kCpu) as made:
        for vector in range(256):
            made.put(VECTORS + 4 * vector, f"{HANDLER + 16 * vector:08x}" if vector < 64 else f"{HANDLER:08x}")
            if vector < 64:
                made.put(HANDLER + 16 * vector, STOP)
        state = made.cpu.save()
        state.vbr, state.isp, state.pc = VECTORS, STACK, CODE
        made.cpu.load(state)
        yield made


@st.composite
def states(draw: st.DrawFn) -> M68kState:
    """Legal states: what another CPU could have saved."""
    words = {name: draw(u32s) for name in ("pc", "usp", "isp", "msp", "fpsr", "vbr", "cacr", "urp", "srp", "mmusr", "mmu_ar")}
    words |= {name: draw(u32s) for name in ("itt0", "itt1", "dtt0", "dtt1")}
    return M68kState(
        **words,
        sr=draw(u16s) & SR_LEGAL,
        d=draw(st.lists(u32s, min_size=8, max_size=8)),
        a=draw(st.lists(u32s, min_size=7, max_size=7)),
        fp_mantissa=draw(st.lists(u64s, min_size=8, max_size=8)),
        fp_exponent=draw(st.lists(u16s, min_size=8, max_size=8)),
        fpcr=draw(u16s),
        sfc=draw(st.integers(0, 7)),
        dfc=draw(st.integers(0, 7)),
        tcr=draw(u16s),
        mmu_ssw=draw(u16s),
        asleep=draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(m68k: Bench[M68kCpu], state: M68kState) -> None:
    taken = parse(M68kState, M68kState.VMSTATE.version, dump(state))

    m68k.cpu.load(taken)

    assert differences(m68k.cpu.save(), state) == {}


def test_a_status_register_with_bits_it_does_not_have_is_refused() -> None:
    with pytest.raises(StateError, match="sr is 0x800, must be within 0xf71f"):
        M68kState(sr=0x0800).check()


def test_bits_that_the_status_register_does_not_have_are_not_saved(m68k: Bench[M68kCpu]) -> None:
    m68k.put(CODE, "46fc 2fe0" + "4e72 2fe0")  # move #0x2fe0,%sr; stop #0x2fe0

    m68k.run_until_asleep()

    assert parse(M68kState, 1, dump(m68k.cpu.save())).sr == 0x2700


def test_reset_is_the_state_after_power_on(m68k: Bench[M68kCpu]) -> None:
    m68k.cpu.reset()

    assert m68k.cpu.save().sr == 0x2700
    assert m68k.cpu.registers()["vbr"] == 0


def test_a_trap_leaves_a_frame_that_rte_goes_back_by(m68k: Bench[M68kCpu]) -> None:
    m68k.put(CODE, "4e43 7401" + STOP)  # trap #3; moveq #1,%d2
    m68k.put(HANDLER + 16 * 35, "4e73")  # rte

    m68k.run_until_asleep()

    assert m68k.get(STACK - 8, 2) == 0x2700
    assert m68k.get(STACK - 6, 4) == CODE + 2
    assert m68k.get(STACK - 2, 2) == 4 * 35  # format 0, vector offset
    assert (m68k.cpu.save().d[2], m68k.cpu.engine.pc) == (1, CODE + 8)


@pytest.mark.parametrize("code", ["4afc", "4848"], ids=["illegal", "bkpt"])
def test_an_illegal_instruction_is_told_with_its_own_address(m68k: Bench[M68kCpu], code: str) -> None:
    m68k.put(CODE, "4e71" + code)  # behind a nop

    m68k.run_until_asleep()

    assert m68k.cpu.engine.pc == HANDLER + 16 * 4 + 4
    assert m68k.get(m68k.cpu.save().isp + 2, 4) == CODE + 2


@pytest.mark.parametrize(
    "code", ["f2a0 0000", "f2ff 0000 0000", "f240 003f", "f278 0020"], ids=["fbcc.w", "fbcc.l", "fscc", "ftrapcc"]
)
def test_a_floating_point_condition_that_does_not_exist_is_no_end(m68k: Bench[M68kCpu], code: str) -> None:
    m68k.put(CODE, code + STOP)

    m68k.run_until_asleep()


def test_an_assertion_in_the_translator_stops_the_cpu_alone(m68k: Bench[M68kCpu]) -> None:
    m68k.put(CODE, "f206 4e71")  # a packed decimal from %d6: no data register is as wide

    with pytest.raises(EngineError, match="the library has no answer to what the guest did"):
        m68k.run_until_asleep()

    m68k.put(CODE, STOP)
    m68k.cpu.engine.invalidate_code(CODE, 4)
    m68k.cpu.engine.pc = CODE
    m68k.run_until_asleep()


def test_a_trap_of_user_mode_goes_to_the_interrupt_stack(m68k: Bench[M68kCpu]) -> None:
    state = m68k.cpu.save()
    state.sr, state.usp = 0, 0x9000
    m68k.cpu.load(state)
    m68k.put(CODE, STOP)  # privileged

    m68k.run_until_asleep()

    assert m68k.cpu.engine.pc == HANDLER + 16 * 8 + 4
    assert (m68k.cpu.save().usp, m68k.cpu.save().isp) == (0x9000, STACK - 8)


def test_an_interrupt_wakes_the_cpu_and_enters_its_handler(m68k: Bench[M68kCpu]) -> None:
    m68k.put(CODE, WAIT)
    m68k.run_until_asleep()

    m68k.cpu.interrupt.set(True)

    assert not m68k.cpu.asleep
    m68k.run_until_asleep()
    assert m68k.cpu.engine.pc == HANDLER + 16 * 25 + 4
    assert (m68k.get(STACK - 8, 2), m68k.get(STACK - 6, 4)) == (0x2000, CODE + 4)


def test_an_interrupt_below_the_mask_lets_the_cpu_sleep(m68k: Bench[M68kCpu]) -> None:
    m68k.put(CODE, STOP)
    m68k.run_until_asleep()

    m68k.cpu.interrupt.set(True)

    assert m68k.cpu.asleep


@pytest.mark.parametrize(
    ("code", "status"),
    [("2010", 0x0505), ("2080", 0x0405), ("4ed0", 0x0506)],
    ids=["load", "store", "jump"],  # move.l (%a0),%d0; move.l %d0,(%a0); jmp (%a0)
)
def test_an_access_to_nothing_is_an_access_fault(m68k: Bench[M68kCpu], code: str, status: int) -> None:
    state = m68k.cpu.save()
    state.a[0] = NOWHERE
    m68k.cpu.load(state)
    m68k.put(CODE, code + STOP)

    m68k.run_until_asleep()

    assert m68k.cpu.engine.pc == HANDLER + 16 * 2 + 4
    frame = STACK - 60  # format 7 (M68040UM 8.4.6)
    assert m68k.get(frame + 6, 2) == 0x7000 | 4 * 2
    assert (m68k.get(frame + 0x0C, 2), m68k.get(frame + 0x14, 4)) == (status, NOWHERE)


@pytest.mark.parametrize("change", [{"isp": NOWHERE}, {"vbr": NOWHERE}], ids=["stack", "vectors"])
@pytest.mark.parametrize("code", ["4e43", "4afc", "2039 40000000", "23c0 40000000", "4ef9 40000000", "4e73"])
def test_an_exception_that_cannot_be_entered_halts_the_cpu_and_not_the_process(
    m68k: Bench[M68kCpu], change: dict[str, int], code: str
) -> None:
    state = m68k.cpu.save()
    for name, value in change.items():
        setattr(state, name, value)
    m68k.put(STACK, "2700 50000000 f000")  # what rte finds: a format that does not exist, and a pc outside of memory
    m68k.cpu.load(state)
    m68k.put(CODE, code)

    with pytest.raises(EngineError, match=r"halted at pc .*: double bus fault"):
        for _ in range(4):
            m68k.cpu.run()

    m68k.cpu.reset()
    m68k.cpu.load(M68kState(pc=CODE, isp=STACK))
    m68k.put(CODE, STOP)
    m68k.cpu.engine.flush_code()
    m68k.run_until_asleep()


def test_an_interrupt_with_the_stack_outside_of_memory_halts_the_cpu(m68k: Bench[M68kCpu]) -> None:
    state = m68k.cpu.save()
    state.isp = SIZE + 0x1000
    m68k.cpu.load(state)
    m68k.put(CODE, WAIT)
    m68k.run_until_asleep()

    m68k.cpu.interrupt.set(True)

    with pytest.raises(EngineError, match="double bus fault"):
        m68k.cpu.run()


def test_a_control_register_the_library_does_not_know_ends_the_guest_and_not_the_process(m68k: Bench[M68kCpu]) -> None:
    m68k.put(CODE, "4e7a 0fff" + STOP)  # movec of no register

    with pytest.raises(EngineError, match="CPU cannot go on near pc 0x1000"):
        m68k.cpu.run()

    m68k.put(CODE, STOP)
    m68k.cpu.engine.flush_code()
    m68k.run_until_asleep()


@pytest.mark.parametrize("code", ["4ac8", "4e70", "f478", "f280 0000"])
def test_what_other_members_of_the_family_have_does_not_end_the_process(m68k: Bench[M68kCpu], code: str) -> None:
    m68k.put(CODE, code + STOP)  # halt of ColdFire; reset; cpusha; fbf

    m68k.run_until_asleep()
