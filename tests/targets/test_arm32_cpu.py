"""The 32-bit CPU: its state goes through the engine and back unchanged, its exceptions reach the guest, Thumb is exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.generic_timer import ENABLE, NS_PER_TICK
from emu.errors import StateError
from migration.vmstate import dump, parse
from targets.arm.cpu32 import (
    ALL_BITS,
    BANKS,
    CPSR_MASK,
    CPSR_MODE,
    CPSR_START,
    FPEXC_MASK,
    FPSCR_MASK,
    LEGAL,
    MASK32,
    MODES,
    SYSTEM,
    Arm32Cpu,
    ArmState,
)
from tests.targets.armbench import RAM, VECTORS, ArmBench

NOP, WFI, UDF, SVC, HVC, SMC, BKPT = 0xE320F000, 0xE320F003, 0xE7F000F0, 0xEF000000, 0xE1400070, 0xE1600070, 0xE1200070
NOWHERE = 0x2000_0000
DFSR, IFSR, FAR, VBAR = (SYSTEM.index(name) for name in ("dfsr", "ifsr", "far", "vbar"))
THUMB = 1 << 5
words = st.integers(0, MASK32)
wide = st.integers(0, ALL_BITS)
EXACT_SECONDS = 0.5


class Bench(ArmBench[Arm32Cpu]):
    """A CPU with vectors."""

    def __init__(self) -> None:
        super().__init__("arm", Arm32Cpu)

    def run(self, *code: int, cpsr: int = CPSR_START) -> ArmState:
        """Run code at RAM, with vectors that sleep, until the CPU sleeps."""
        self.put(RAM, *code)
        self.put(VECTORS, *[WFI] * 8)
        system = self.cpu.save().system
        system[VBAR] = VECTORS
        self.change(pc=RAM, cpsr=cpsr, system=system)
        self.run_until_asleep()
        return self.cpu.save()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.close()


@st.composite
def states(draw: st.DrawFn) -> ArmState:
    """Legal states: what another CPU could have saved."""
    cpsr = draw(words) & CPSR_MASK & ~CPSR_MODE | draw(st.sampled_from(MODES))

    def many(count: int) -> list[int]:
        return draw(st.lists(words, min_size=count, max_size=count))

    return ArmState(
        pc=draw(words) & ~(1 if cpsr & THUMB else 3),
        r=many(15),
        cpsr=cpsr,
        spsr=draw(words),
        banked_r13=many(BANKS),
        banked_r14=many(BANKS),
        banked_spsr=many(BANKS),
        usr_r8_12=many(5),
        fiq_r8_12=many(5),
        d=draw(st.lists(wide, min_size=32, max_size=32)),
        fpscr=draw(words) & FPSCR_MASK,
        fpexc=draw(words) & FPEXC_MASK,
        system=[draw(wide) & LEGAL[name] for name in SYSTEM],
        exclusive=draw(st.lists(wide, min_size=2, max_size=2)),
        interrupt=draw(st.booleans()),
        asleep=draw(st.booleans()),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states())
def test_a_legal_state_comes_back_as_it_went_in(bench: Bench, state: ArmState) -> None:
    bench.cpu.load(parse(ArmState, ArmState.VMSTATE.version, dump(state)))

    saved = bench.cpu.save()
    assert {name: getattr(saved, name) for name in ArmState.__slots__} == {
        name: getattr(state, name) for name in ArmState.__slots__
    }


@pytest.mark.parametrize(
    ("change", "words_of_it"),
    [
        ({"cpsr": 0x1DA}, "cpsr has mode 0x1a"),  # HYP
        ({"cpsr": 0x1D6}, "cpsr has mode 0x16"),  # monitor
        ({"cpsr": 0x1D3 | 1 << 24}, "cpsr is 0x10001d3"),
        ({"pc": 2}, "pc is 0x2"),
        ({"pc": 1, "cpsr": CPSR_START | THUMB}, "pc is 0x1"),
        ({"fpscr": 1 << 8}, "fpscr is 0x100"),
        ({"fpexc": 1}, "fpexc is 0x1"),
    ],
)
def test_a_state_no_guest_can_have_is_refused(change: dict[str, int], words_of_it: str) -> None:
    state = replace(ArmState(), **change)  # type: ignore[arg-type]  # values of the fields' types
    with pytest.raises(StateError, match=words_of_it):
        state.check()


@pytest.mark.parametrize("name", [name for name in LEGAL if LEGAL[name] != ALL_BITS])
def test_a_register_with_bits_it_cannot_hold_is_refused_by_name(name: str) -> None:
    state = ArmState()
    state.system[SYSTEM.index(name)] = ALL_BITS
    with pytest.raises(StateError, match=f"{name} is 0xf+, must be within"):
        state.check()


def test_reset_is_the_state_after_power_on(bench: Bench) -> None:
    fresh = bench.cpu.save()
    bench.change(r=[7] * 15, cpsr=0x1F, interrupt=True)

    bench.cpu.reset()

    assert bench.cpu.save() == fresh


@pytest.mark.parametrize(
    ("instruction", "vector", "mode"),
    [(UDF, 0x04, 0x1B), (SVC, 0x08, 0x13), (BKPT, 0x0C, 0x17)],
    ids=["undefined", "svc", "bkpt"],
)
def test_an_exception_enters_the_guests_vector_with_mode_and_pc(bench: Bench, instruction: int, vector: int, mode: int) -> None:
    state = bench.run(instruction)

    assert state.pc == VECTORS + vector + 4
    assert state.cpsr & CPSR_MODE == mode
    assert state.r[14] == RAM + 4


@pytest.mark.parametrize(
    ("instruction", "vector", "register", "status"),
    [(0xE5910000, 0x10, DFSR, 0x008), (0xE5810000, 0x10, DFSR, 0x808), (0xE12FFF11, 0x0C, IFSR, 0x008)],
    ids=["load", "store", "jump"],
)
def test_an_access_to_nothing_is_an_external_abort(
    bench: Bench, instruction: int, vector: int, register: int, status: int
) -> None:
    bench.cpu.write(1, NOWHERE)

    state = bench.run(instruction)

    assert state.pc == VECTORS + vector + 4
    assert state.system[register] == status


@pytest.mark.parametrize("instruction", [HVC, SMC], ids=["hvc", "smc"])
def test_a_call_reaches_the_firmware_once_and_goes_on_behind_it(bench: Bench, instruction: int) -> None:
    calls: list[int] = []
    bench.cpu.on_call = lambda: calls.append(bench.cpu.pc)

    state = bench.run(instruction, WFI)

    assert calls == [RAM + 4]
    assert state.pc == RAM + 8


def test_an_interrupt_wakes_a_sleeping_cpu_and_enters_its_vector(bench: Bench) -> None:
    bench.run(WFI, cpsr=0x13)

    bench.cpu.interrupt.set(True)

    assert not bench.cpu.asleep
    bench.put(VECTORS + 0x18, NOP)
    bench.engine.run(1)
    state = bench.cpu.save()
    assert (state.pc, state.r[14], state.cpsr & CPSR_MODE) == (VECTORS + 0x1C, RAM + 8, 0x12)


def test_the_timer_registers_are_the_timers(bench: Bench) -> None:
    bench.clock.advance(1000 * NS_PER_TICK)
    bench.cpu.write(0, 500)
    bench.cpu.write(1, ENABLE)
    # mrrc p15, 1, r2, r3, c14 (CNTVCT); mcr p15, 0, r0, c14, c3, 0 (CNTV_TVAL); mcr p15, 0, r1, c14, c3, 1 (CNTV_CTL)
    # mrrc p15, 3, r4, r5, c14 (CNTV_CVAL); mrc p15, 0, r6, c14, c0, 0 (CNTFRQ)
    bench.run(0xEC532F1E, 0xEE0E0F13, 0xEE0E1F33, 0xEC554F3E, 0xEE1E6F10, WFI)

    assert [bench.cpu.read(n) for n in range(2, 7)] == [1000, 0, 1500, 0, 62_500_000]
    bench.clock.advance(500 * NS_PER_TICK)
    assert bench.wires[1].level


def test_banked_registers_are_saved_wherever_they_live(bench: Bench) -> None:
    state = bench.run(0xF1020012, 0xE3A0D0AA, 0xF1020013, 0xE3A0D0BB, WFI)  # cps #irq; mov sp, #0xaa; cps #svc; mov sp, #0xbb
    there = Bench()
    there.memory[:] = bench.memory[:]
    there.cpu.load(parse(ArmState, 1, dump(replace(state, asleep=False))))

    there.put(RAM + 20, 0xE1A0000D, 0xF1020012, 0xE1A0100D, WFI)  # mov r0, sp; cps #irq; mov r1, sp
    there.run_until_asleep()

    assert (there.cpu.read(0), there.cpu.read(1)) == (0xBB, 0xAA)
    there.engine.close()


def test_thumb_code_goes_on_as_thumb_after_a_move(bench: Bench) -> None:
    bench.put(RAM, 0x2001, 0xBF30, 0x3005, 0xBF30, size=2)  # movs r0, #1; wfi; adds r0, #5; wfi
    bench.change(pc=RAM, cpsr=CPSR_START | THUMB)
    bench.run_until_asleep()
    there = Bench()
    there.memory[:] = bench.memory[:]

    there.cpu.load(parse(ArmState, 1, dump(replace(bench.cpu.save(), asleep=False))))
    there.run_until_asleep()

    assert there.cpu.read(0) == 6
    there.engine.close()


def test_stops_land_between_thumb_instructions(bench: Bench) -> None:
    # ldr r0, [r1]; adds r0, #1; str r0, [r1]; adds r2, #1; b .-8
    bench.put(RAM, 0x6808, 0x3001, 0x6008, 0x3201, 0xE7FA, size=2)
    bench.change(pc=RAM, cpsr=CPSR_START | THUMB, r=[0, RAM + 0x400, *[0] * 13])
    over = threading.Event()

    def stop_again_and_again() -> None:
        while not over.wait(0.0002):
            bench.cpu.stop()

    stopper = threading.Thread(target=stop_again_and_again)
    stopper.start()
    slices, end = 0, time.monotonic() + EXACT_SECONDS
    while time.monotonic() < end:
        bench.cpu.run()
        slices += 1
        assert bench.cpu.pc == RAM
    over.set()
    stopper.join()

    assert slices > 10
    assert int.from_bytes(bench.memory[0x400:0x404], "little") == bench.cpu.read(2)
