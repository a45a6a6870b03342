"""The x86 CPUs: their state goes through the engine and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.engine.core import Engine
from emu.errors import StateError
from migration.vmstate import dump, parse
from targets.x86.cpu import X86Cpu
from targets.x86.state import ALL_BITS, CONTROL, EFLAGS, REGS, DescriptorState, FpuState, X86State
from tests.devices.fakes import FakeClock
from tests.targets import x86bench
from tests.targets.x86bench import ARITHMETIC, DIRECTION, PE, Bench, words

bench = x86bench.bench


@pytest.fixture(params=["i386", "x86_64"])
def cpu(request: pytest.FixtureRequest) -> Iterator[X86Cpu]:
    engine = Engine(str(request.param))
    yield X86Cpu(engine, FakeClock(), acknowledge=lambda: 0, on_triple_fault=lambda: None, on_end=lambda: None)
    engine.close()


@st.composite
def states(draw: st.DrawFn) -> X86State:
    """Legal states: what another CPU could have saved."""
    control = {name: draw(words) & legal for name, legal in CONTROL.items()}
    control["cr0"] |= PE
    control["efer"] &= ~(1 << 10)
    descriptor = st.builds(
        DescriptorState,
        selector=st.integers(0, 0xFFFF),
        base=words,
        limit=st.integers(0, 0xFFFF_FFFF),
        flags=st.integers(0, 0xFFFF_FFFF),
    )
    return X86State(
        pc=draw(words),
        eflags=draw(words) & EFLAGS & ~0x28 | 2,
        hflags=draw(st.sampled_from([0xB0, 0xB3, 0xB8, 0x4000B0])),
        regs=[draw(words) for _ in REGS],
        descriptors=draw(st.lists(descriptor, min_size=10, max_size=10)),
        control=list(control.values()),
        dr=[*(draw(words) for _ in range(4)), 0, 0, 0xFFFF_0FF0, 0x400],
        fpu=FpuState(
            fpstt=draw(st.integers(0, 7)),
            fpus=draw(st.integers(0, 0xFFFF)) & ~0x3800,
            fpuc=draw(st.integers(0, 0xFFFF)),
            fpop=draw(st.integers(0, 0xFFFF)),
            fpip=draw(words),
            fpdp=draw(words),
            mxcsr=draw(st.integers(0, 0xFFFF)),
            tags=bytes(draw(st.lists(st.integers(0, 1), min_size=8, max_size=8))),
            registers=draw(st.binary(min_size=80, max_size=80)),
            xmm=draw(st.binary(min_size=256, max_size=256)),
        ),
        asleep=draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(cpu: X86Cpu, state: X86State) -> None:
    taken = parse(X86State, X86State.VMSTATE.version, dump(state))

    cpu.load(taken)

    assert cpu.save() == state


@pytest.mark.parametrize("flags", [ARITHMETIC, 0, ARITHMETIC | DIRECTION])
def test_flags_that_were_loaded_are_those_the_guest_finds(bench: Bench, flags: int) -> None:
    bench.start(bytes.fromhex("9c 58 f4"), flags=flags)  # pushf; pop eax; hlt

    bench.run()

    assert bench.cpu.read("rax") == flags | 2


def test_reset_is_the_state_after_power_on(cpu: X86Cpu) -> None:
    fresh = cpu.save()
    cpu.write("rax", 77)

    cpu.reset()

    assert cpu.save() == fresh


def spoil_tags(state: X86State) -> None:
    state.fpu.tags = b"\2" + bytes(7)


def set_hflags(value: int) -> Callable[[X86State], None]:
    def change(state: X86State) -> None:
        state.hflags = value

    return change


@pytest.mark.parametrize(
    ("change", "words_of_it"),
    [
        (set_hflags(1 << 7), "its PE must be that of cr0"),
        (set_hflags(1 << 14), "its LMA must be that of efer"),
        (set_hflags(1 << 15), "64-bit code needs long mode"),
        (set_hflags(1 << 20), "hflags is 0x100000, must be within"),
        (spoil_tags, "tags is 02"),
    ],
)
def test_a_state_no_cpu_can_have_is_refused(change: Callable[[X86State], None], words_of_it: str) -> None:
    state = X86State()
    change(state)
    with pytest.raises(StateError, match=words_of_it):
        state.check()


@pytest.mark.parametrize("name", [name for name, legal in CONTROL.items() if legal != ALL_BITS])
def test_a_control_register_with_bits_it_cannot_hold_is_refused_by_name(name: str) -> None:
    state = X86State()
    state.control[list(CONTROL).index(name)] = ALL_BITS
    with pytest.raises(StateError, match=f"{name} is 0xf+, must be within"):
        state.check()
