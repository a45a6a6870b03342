"""The TC1797's state goes through the engine and back unchanged; its traps and interrupts are as the manual has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.tc1797_scu import Tc1797Scu
from emu.errors import EngineError
from images.tricore.assembler import Section, read_line
from migration.vmstate import dump, parse
from targets.tricore.cpu import LOOK_AGAIN, TriCoreCpu, TriCoreState
from tests.devices.fakes import FakeClock
from tests.targets.bench import Bench, bench, differences

BASE = 0x8000_0000
TRAPS, INTERRUPTS = BASE + 0x100, BASE + 0x200
INTERRUPT = INTERRUPTS + 32
CODE, SUBROUTINE, CONTEXTS = BASE + 0x1000, BASE + 0x1100, BASE + 0x2000
SCU = 0xF000_0000
WAIT = ("movh.a %a15, 0xf000", "lea %a15, [%a15] 0x5b0", "mov %d1, 1", "st.w [%a15] 0, %d1", "j here")
ILLEGAL, SYSCALL_7 = ".word 0x0fc0000d", ".word 0x008070ad"
FREE = 16  # context save areas
PSW_RESET, ICR_IE = 0xB80, 0x100
INTERRUPTS_ON = (1 << 23) | (1 << 22)  # in PCXI: they were, and the context is an upper one
NOWHERE = 0x9000_0000
u32s = st.integers(0, 0xFFFF_FFFF)


def link(address: int) -> int:
    """As FCX and PCXI have an address."""
    return (address >> 28) << 16 | address >> 6 & 0xFFFF


def put(tricore: Bench[TriCoreCpu], address: int, *lines: str) -> None:
    """Assemble code; a jump to `here` is one to itself."""
    for line in lines:
        tricore.put(address, Section([read_line(line)]).assemble(address, {"here": address}).hex())
        address += 4


def word(tricore: Bench[TriCoreCpu], address: int) -> int:
    return int.from_bytes(tricore.memory[address - BASE :][:4], "little")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tricore(clock: FakeClock) -> Iterator[Bench[TriCoreCpu]]:
    """Every handler waits; at reset, with vectors and a list of free contexts."""
    with bench("tricore", BASE, lambda engine: TriCoreCpu(engine, clock)) as made:
        made.cpu.memory = made.ram
        scu = Tc1797Scu("scu", on_idle=made.cpu.idle)
        made.cpu.engine.map_mmio(SCU, 0x4000, scu.read, scu.write)
        for vector in (*range(TRAPS, TRAPS + 256, 32), INTERRUPT):
            put(made, vector, *WAIT)
        for number in range(FREE - 1):
            area = CONTEXTS + 64 * number
            made.put(area, link(area + 64).to_bytes(4, "little").hex())
        change(
            made,
            pc=CODE,
            btv=TRAPS,
            biv=INTERRUPTS,
            fcx=link(CONTEXTS),
            lcx=link(CONTEXTS + 64 * (FREE - 3)),
            icr=ICR_IE,
            isp=BASE + 0x8000,
        )
        yield made


def change(tricore: Bench[TriCoreCpu], **fields: int | list[int]) -> None:
    state = tricore.cpu.save()
    for name, value in fields.items():
        setattr(state, name, value)
    tricore.cpu.load(state)


@st.composite
def states(draw: st.DrawFn) -> TriCoreState:
    """Any numbers are a legal state."""

    def several(count: int) -> list[int]:
        return draw(st.lists(u32s, min_size=count, max_size=count))

    names = ("pc", "psw", "pcxi", "syscon", "biv", "btv", "isp", "icr", "fcx", "lcx", "compat")
    return TriCoreState(
        **{name: draw(u32s) for name in names},
        d=several(16),
        a=several(16),
        protection=several(72),
        mmu=several(6),
        integrity=several(9),
        debug=several(15),
        asleep=draw(st.booleans()),
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(tricore: Bench[TriCoreCpu], state: TriCoreState) -> None:
    taken = parse(TriCoreState, TriCoreState.VMSTATE.version, dump(state))

    tricore.cpu.load(taken)

    assert differences(tricore.cpu.save(), state) == {}


def test_reset_is_the_state_after_power_on(tricore: Bench[TriCoreCpu]) -> None:
    tricore.cpu.reset()

    state = tricore.cpu.save()
    assert (state.psw, state.icr, state.fcx, state.asleep) == (PSW_RESET, 0, 0, False)


def test_the_library_enters_a_trap_and_interrupts_are_off_in_it(tricore: Bench[TriCoreCpu]) -> None:
    put(tricore, CODE, "nop", ILLEGAL)

    tricore.run_until_asleep()

    state = tricore.cpu.save()
    assert state.pc == TRAPS + 2 * 32 + 16
    assert (state.a[11], state.d[15]) == (CODE + 4, 1)
    assert state.icr & ICR_IE == 0
    assert state.pcxi == INTERRUPTS_ON | link(CONTEXTS)
    assert state.fcx == link(CONTEXTS + 64)


@pytest.mark.parametrize(
    ("code", "number", "pc"),
    [
        ("ld.w %d2, [%a2] 0", 2, CODE),
        ("st.w [%a2] 0, %d2", 3, CODE),
        ("ji %a2", 1, NOWHERE),
    ],
    ids=["load", "store", "jump"],
)
def test_an_access_to_nothing_is_a_bus_error(tricore: Bench[TriCoreCpu], code: str, number: int, pc: int) -> None:
    change(tricore, a=[0, 0, NOWHERE, *[0] * 13])
    put(tricore, CODE, code, "j here")

    tricore.run_until_asleep()

    state = tricore.cpu.save()
    assert state.pc == TRAPS + 4 * 32 + 16
    assert (state.a[11], state.d[15]) == (pc, number)
    assert (state.icr & ICR_IE, state.pcxi & INTERRUPTS_ON) == (0, INTERRUPTS_ON)


def test_an_interrupt_wakes_the_cpu_and_saves_the_upper_context(tricore: Bench[TriCoreCpu]) -> None:
    change(tricore, d=list(range(100, 116)), a=list(range(200, 216)), psw=0x8000_0980)  # user 1, no interrupt stack, carry
    put(tricore, CODE, *WAIT)
    tricore.run_until_asleep()

    tricore.cpu.interrupt.set(True)

    assert not tricore.cpu.asleep
    tricore.cpu.run()
    state = tricore.cpu.save()
    assert state.icr == 1 << 16 | 1  # pending, and the current one
    assert (state.a[10], state.a[11]) == (BASE + 0x8000, CODE + 16)
    assert state.psw == 0x8000_0A80
    assert state.pcxi == INTERRUPTS_ON | link(CONTEXTS)
    saved = [word(tricore, CONTEXTS + 4 * n) for n in range(1, 16)]
    assert saved == [0x8000_0980, 210, 211, 108, 109, 110, 111, 212, 213, 214, SCU + 0x5B0, 112, 113, 114, 115]


def test_it_goes_on_behind_the_handler_as_if_nothing_had_been(tricore: Bench[TriCoreCpu]) -> None:
    registers = [*range(100, 110), *[0] * 6]
    change(tricore, d=registers)
    put(tricore, CODE, "nop", *WAIT[:3], "j here")
    put(tricore, INTERRUPT, "svlcx", "mov %d5, 5", "mov %d9, 5", "mtcr $btv, %d9", "rslcx", "rfe")
    tricore.cpu.interrupt.set(True)

    tricore.cpu.engine.run(3)
    assert tricore.cpu.save().d[9] == 5
    tricore.cpu.interrupt.set(False)
    tricore.cpu.engine.run(8)

    state = tricore.cpu.save()
    assert (state.btv, state.icr) == (5, ICR_IE)
    assert (state.pcxi, state.fcx) == (0, link(CONTEXTS))
    assert (state.pc, state.d[1:10]) == (CODE + 16, [1, *registers[2:10]])


def test_what_waits_is_in_the_state_whatever_the_guest_has_written(tricore: Bench[TriCoreCpu]) -> None:
    tricore.cpu.interrupt.set(True)
    tricore.cpu.engine.field("icr").value = 5 << 16

    assert tricore.cpu.save().icr == 1 << 16


@pytest.mark.parametrize("icr", [0, ICR_IE | 1], ids=["off", "priority"])
def test_an_interrupt_that_is_masked_wakes_the_cpu_and_is_not_taken(tricore: Bench[TriCoreCpu], icr: int) -> None:
    change(tricore, icr=icr)
    put(tricore, CODE, *WAIT)
    tricore.run_until_asleep()

    tricore.cpu.interrupt.set(True)
    put(tricore, CODE + 16, *WAIT)
    tricore.cpu.engine.flush_code()
    tricore.cpu.run()

    assert tricore.cpu.save().pc == CODE + 32


def test_an_interrupt_is_taken_at_the_jump_behind_enable(tricore: Bench[TriCoreCpu]) -> None:
    change(tricore, icr=0, a=[0, 0, SUBROUTINE, *[0] * 13])
    put(tricore, CODE, "nop", "enable", "nop", "ji %a2")
    put(tricore, SUBROUTINE, "disable", *WAIT)
    tricore.cpu.interrupt.set(True)

    tricore.cpu.run()

    assert tricore.cpu.save().a[11] == SUBROUTINE


def test_an_interrupt_that_is_off_ends_the_slice_soon(tricore: Bench[TriCoreCpu], clock: FakeClock) -> None:
    change(tricore, icr=0)
    put(tricore, CODE, *WAIT)
    tricore.cpu.interrupt.set(True)

    tricore.cpu.run()

    assert clock.next_deadline() == LOOK_AGAIN


def test_a_counted_slice_ends_right_behind_an_enable_that_lets_an_interrupt_through(tricore: Bench[TriCoreCpu]) -> None:
    change(tricore, icr=0)
    put(tricore, CODE, "nop", "enable", "nop", "j here")
    put(tricore, INTERRUPT, *WAIT)
    tricore.cpu.interrupt.set(True)
    engine = tricore.cpu.engine

    engine.budget = 1000
    tricore.cpu.run()
    assert (engine.executed, engine.pc) == (2, CODE + 8)

    engine.budget = 1000
    tricore.cpu.run()
    assert tricore.cpu.save().a[11] == CODE + 8


def test_the_last_free_context_is_told_by_a_trap(tricore: Bench[TriCoreCpu]) -> None:
    last = CONTEXTS + 64 * (FREE - 3)
    change(tricore, fcx=link(last))
    put(tricore, CODE, "j here")
    tricore.cpu.interrupt.set(True)

    tricore.cpu.run()

    state = tricore.cpu.save()
    assert (state.pc, state.d[15], state.syscon & 1) == (TRAPS + 3 * 32 + 16, 1, 1)
    assert (state.a[11], state.pcxi & 0xF_FFFF) == (INTERRUPT, link(last + 64))


def test_no_free_context_is_a_trap_without_one(tricore: Bench[TriCoreCpu]) -> None:
    change(tricore, fcx=0)
    put(tricore, CODE, ILLEGAL)

    tricore.run_until_asleep()

    state = tricore.cpu.save()
    assert (state.pc, state.d[15]) == (TRAPS + 3 * 32 + 16, 4)
    assert (state.fcx, state.pcxi & 0xF_FFFF) == (0, 0)


def make_circle(tricore: Bench[TriCoreCpu]) -> None:
    """One context, which is free and saved, the last and the next."""
    tricore.put(CONTEXTS, link(CONTEXTS).to_bytes(4, "little").hex())
    change(tricore, pcxi=link(CONTEXTS), lcx=link(CONTEXTS), a=[0, 0, NOWHERE, *[0] * 13])


def test_a_trap_that_finds_a_circle_of_contexts_is_not_the_end_of_the_process(tricore: Bench[TriCoreCpu]) -> None:
    make_circle(tricore)
    put(tricore, CODE, ILLEGAL)

    with pytest.raises(EngineError, match="CPU cannot go on near pc"):
        tricore.cpu.run()

    change(tricore, pc=CODE + 64, lcx=0)
    put(tricore, CODE + 64, *WAIT)
    tricore.run_until_asleep()


def test_a_bus_error_that_finds_a_circle_of_contexts_is_a_trap_for_them(tricore: Bench[TriCoreCpu]) -> None:
    make_circle(tricore)
    put(tricore, CODE, "ld.w %d2, [%a2] 0")

    tricore.run_until_asleep()

    assert (tricore.cpu.save().pc, tricore.cpu.save().d[15]) == (TRAPS + 3 * 32 + 16, 1)


def test_a_context_that_is_not_in_memory_is_not_the_end_of_the_process(tricore: Bench[TriCoreCpu]) -> None:
    change(tricore, fcx=link(NOWHERE), a=[0, 0, NOWHERE, *[0] * 13])
    put(tricore, CODE, "ld.w %d2, [%a2] 0")

    with pytest.raises(EngineError, match="its context save area is not in memory"):
        tricore.run_until_asleep()


# What the library does not have


def test_syscall_does_nothing(tricore: Bench[TriCoreCpu]) -> None:
    put(tricore, CODE, SYSCALL_7, *WAIT)

    tricore.run_until_asleep()

    assert tricore.cpu.save().pc == CODE + 4 * len(WAIT)


def test_user_code_may_write_system_registers(tricore: Bench[TriCoreCpu]) -> None:
    change(tricore, psw=PSW_RESET & ~0xC00, d=[0, 0, 0x1234_5600, *[0] * 13])  # I/O privilege level 0
    put(tricore, CODE, "mtcr $biv, %d2", *WAIT)

    tricore.run_until_asleep()

    assert tricore.cpu.save().biv == 0x1234_5600
