"""A MIPS CPU's state goes through the engine and back unchanged, and its exceptions and interrupts are exact."""

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
from emu.errors import StateError
from migration.vmstate import dump, parse
from targets.mips.cpu import INTERRUPT, MipsCpu
from targets.mips.state import CP0, PAGE_MASKS, STATES, Mips32State, Mips64State, Mode

SIZE = 16 * mmap.PAGESIZE
CODE, VECTOR, DATA = 0x1000, 0x180, 0x2000  # physical; kseg0's EBase is 0 there
KSEG0, KSEG1, NOWHERE = -0x8000_0000, -0x6000_0000, 0x0800_0000
WAIT, SYSCALL, NOP, RESERVED, BREAK = 0x42000020, 0x0000000C, 0, 0x0000003D, 0x0000000D
B_OVER, LW_T1_T0, SW_T1_T0, JR_T0 = 0x10000002, 0x8D090000, 0xAD090000, 0x01000008
MFC0_T1_COUNT, MTC0_T0_CAUSE = 0x40094800, 0x40886800
MTC0_T0_ENTRYHI, MTC0_T1_ENTRYHI, TLBWR, LW_T2_T0 = 0x40885000, 0x40895000, 0x42000006, 0x8D0A0000
INT, TLBL_CODE, TLBS_CODE, ADEL_CODE, ADES_CODE, DBE_CODE, IBE_CODE, SYS_CODE, RI_CODE = 0, 2, 3, 4, 5, 7, 6, 8, 10
BD = 1 << 31
T0, T1, T2, T3 = 8, 9, 10, 11
STATUS_IE, STATUS_IM, STATUS_KERNEL = 1, 0xFF00, 0x2000_0000


@dataclass(slots=True)
class Bench:
    """A CPU with some RAM from 0 on, in kernel mode at CODE in kseg0, whose vectors hold a WAIT."""

    cpu: MipsCpu
    memory: mmap.mmap
    order: str

    @property
    def bits(self) -> int:
        return self.cpu.STATE.MODEL.all_bits

    def put(self, address: int, *code: int) -> None:
        data = b"".join(word.to_bytes(4, "big" if self.order == "big" else "little") for word in code)
        self.memory[address : address + len(data)] = data

    def set_cp0(self, **values: int) -> None:
        state = self.cpu.save()
        for name, value in values.items():
            state.cp0[CP0.index(name)] = value & self.bits
        self.cpu.load(state)

    def run(self, *code: int, status: int = 0) -> None:
        """Run `code` and then the vector's WAIT."""
        self.put(CODE, *code)
        self.put(VECTOR, WAIT)
        self.set_cp0(Status=STATUS_KERNEL | status)
        self.cpu.engine.pc = CODE + KSEG0 & self.bits
        self.go_on()

    def go_on(self) -> None:
        for _ in range(100):
            self.cpu.run()
            if self.cpu.asleep:
                return
        raise AssertionError(f"the CPU is still awake at {self.cpu.engine.pc:#x}")

    @property
    def exception(self) -> tuple[int, int]:
        """Cause without pending interrupts, and EPC as an offset in kseg0."""
        return self.cpu.read_cp0("Cause") & (BD | 0x7C), (self.cpu.read_cp0("EPC") - KSEG0) & self.bits


@pytest.fixture(params=list(STATES))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    engine = Engine(request.param)
    memory = mmap.mmap(-1, SIZE)
    engine.map_ram(0, ctypes.addressof(ctypes.c_char.from_buffer(memory)), SIZE)
    yield Bench(MipsCpu(engine, VirtualClock()), memory, "little" if request.param.endswith("el") else "big")
    engine.close()


@st.composite
def states(draw: st.DrawFn, cls: type[Mips64State]) -> Mips64State:
    """Legal states: what another CPU could have saved."""
    model = cls.MODEL
    words = st.integers(0, model.all_bits)
    cp0 = {name: draw(words) & model.bits[name] for name in CP0}
    cp0["Wired"] = draw(st.integers(0, model.tlb - 1))
    cp0["PageMask"] = draw(st.sampled_from(PAGE_MASKS))

    def some(length: int) -> list[int]:
        return draw(st.lists(words, min_size=length, max_size=length))

    return cls(
        pc=draw(words),
        r=[0, *some(31)],
        hi=some(4),
        lo=some(4),
        dsp_control=draw(st.integers(0, 0xFFFF_FFFF)),
        f=draw(st.lists(st.integers(0, (1 << 64) - 1), min_size=32, max_size=32)),
        fcsr=draw(st.integers(0, 0xFFFF_FFFF)),
        cp0=list(cp0.values()),
        mode=draw(st.sampled_from(Mode.BRANCHES)) | draw(st.integers(0, Mode.ALL)) & Mode.ALL & ~Mode.BRANCH,
        btarget=draw(words),
        bcond=draw(words),
        lladdr=draw(words),
        llval=draw(words),
        tlb_entry_hi=[index << 13 | draw(st.integers(0, 255)) for index in range(model.tlb)],
        tlb_page_mask=draw(st.lists(st.sampled_from(PAGE_MASKS), min_size=model.tlb, max_size=model.tlb)),
        tlb_entry_lo0=[draw(st.integers(0, 0x3F)) & ~1 for _ in range(model.tlb)],
        tlb_entry_lo1=[draw(st.integers(0, 0x3F)) & ~1 for _ in range(model.tlb)],
        asleep=draw(st.booleans()),
        random=draw(st.integers(0, (1 << 32) - 1)),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_legal_state_comes_back_as_it_went_in(bench: Bench, data: st.DataObject) -> None:
    cls = bench.cpu.STATE
    state = data.draw(states(cls))

    bench.cpu.load(parse(cls, cls.VMSTATE.version, dump(state)))
    saved = bench.cpu.save()

    assert saved.cp0 == state.cp0, [name for name, a, b in zip(CP0, saved.cp0, state.cp0, strict=True) if a != b]
    # What of an entry the page's size leaves unused is the engine's choice; what it chose it keeps.
    bench.cpu.load(saved)
    assert bench.cpu.save() == saved
    free = {"tlb_entry_hi": [], "tlb_page_mask": [], "tlb_entry_lo0": [], "tlb_entry_lo1": []}
    assert replace(saved, **free) == replace(state, **free)


def test_tlb_entries_come_back_as_they_were_written(bench: Bench) -> None:
    state = bench.cpu.save()
    entries = range(bench.cpu.STATE.MODEL.tlb)
    state.tlb_entry_hi = [0x0040_0000 + (index << 13) | index for index in entries]
    state.tlb_entry_lo0 = [index << 7 | 0x1E for index in entries]
    state.tlb_entry_lo1 = [index << 7 | 0x1A for index in entries]

    bench.cpu.load(state)

    assert bench.cpu.save() == state


@pytest.mark.parametrize("cls", [Mips32State, Mips64State])
@pytest.mark.parametrize(
    ("register", "value", "told"),
    [
        ("Wired", 64, "Wired is 64, must be less than"),
        ("PageMask", 0x2000, "PageMask is 0x2000, must be one of 0x0, 0x6000"),
        ("Config0", 8, "Config0 is 0x8, must be within 0x7"),
        ("Status", 1 << 19, "Status is 0x80000, must be within"),
    ],
)
def test_a_register_with_what_it_cannot_hold_is_refused(cls: type[Mips64State], register: str, value: int, told: str) -> None:
    state = cls()
    state.cp0[CP0.index(register)] = value
    if register == "Status" and cls.MODEL.bits["Status"] & value:
        pytest.skip("this model has the bit")
    with pytest.raises(StateError, match=told):
        state.check()


@pytest.mark.parametrize("mode", [0x2800, 0x3800, 0x20])
def test_a_branch_there_is_not_is_refused(mode: int) -> None:
    with pytest.raises(StateError, match=f"mode is {mode:#x}"):
        replace(Mips32State(), mode=mode).check()


def test_a_page_mask_of_an_entry_is_looked_at_too() -> None:
    state = Mips64State()
    state.tlb_page_mask[63] = 0xFFFF_FFFF
    with pytest.raises(StateError, match="PageMask is 0xffffffff"):
        state.check()


def test_the_entry_that_tlbwr_takes_goes_down_to_the_wired_ones_and_is_saved(bench: Bench) -> None:
    last = bench.cpu.STATE.MODEL.tlb - 1
    draws = [0x40000800 | register << 16 for register in (T0, T1, T2, T3)]  # mfc0 register, Random

    def drawn() -> list[int]:
        bench.run(*draws, SYSCALL)
        return [bench.cpu.read(register) for register in (T0, T1, T2, T3)]

    bench.set_cp0(Wired=last - 2)
    assert drawn() == [last, last - 1, last - 2, last]
    saved = dump(bench.cpu.save())
    assert drawn() == [last - 1, last - 2, last, last - 1]
    bench.cpu.load(parse(bench.cpu.STATE, bench.cpu.STATE.VMSTATE.version, saved))
    assert drawn() == [last - 1, last - 2, last, last - 1]


@pytest.mark.parametrize(("instruction", "code"), [(LW_T1_T0, TLBL_CODE), (SW_T1_T0, TLBS_CODE)])
def test_a_tlb_miss_is_no_bus_error_as_well(bench: Bench, instruction: int, code: int) -> None:
    bench.cpu.write(T0, 0x0040_0000)

    bench.run(instruction)

    assert bench.exception == (code << 2, CODE)


def test_an_entry_that_tlbwr_displaced_is_gone(bench: Bench) -> None:
    global_page = DATA >> 6 | 0x1F  # cached, dirty, valid
    bench.set_cp0(Wired=bench.cpu.STATE.MODEL.tlb - 1, EntryLo0=global_page, EntryLo1=global_page)
    bench.cpu.write(T0, 0x0040_0000)
    bench.cpu.write(T1, 0x0080_0000)

    bench.run(MTC0_T0_ENTRYHI, TLBWR, LW_T2_T0, MTC0_T1_ENTRYHI, TLBWR, LW_T1_T0)

    assert bench.exception == (TLBL_CODE << 2, CODE + 20)


def test_reset_is_the_state_after_power_on(bench: Bench) -> None:
    fresh = bench.cpu.save()
    bench.cpu.write(5, 77)
    bench.set_cp0(Status=STATUS_KERNEL)

    bench.cpu.reset()

    assert bench.cpu.save() == fresh


@pytest.mark.parametrize(("instruction", "code"), [(SYSCALL, SYS_CODE), (RESERVED, RI_CODE), (BREAK, 9)])
def test_a_trap_enters_the_guests_handler_with_cause_and_pc(bench: Bench, instruction: int, code: int) -> None:
    bench.run(NOP, instruction)

    assert bench.exception == (code << 2, CODE + 4)


def test_a_trap_in_a_delay_slot_tells_the_branch(bench: Bench) -> None:
    bench.run(NOP, B_OVER, SYSCALL)

    assert bench.exception == (BD | SYS_CODE << 2, CODE + 4)


@pytest.mark.parametrize("instruction", [LW_T1_T0, SW_T1_T0], ids=["load", "store"])
@pytest.mark.parametrize("slot", [False, True], ids=["", "in a delay slot"])
def test_an_access_to_nothing_is_a_bus_error(bench: Bench, instruction: int, slot: bool) -> None:
    bench.cpu.write(T0, NOWHERE + KSEG1 & bench.bits)
    bench.cpu.write(T1, 5)

    bench.run(*((NOP, B_OVER, instruction) if slot else (NOP, instruction)))

    assert bench.exception == ((BD if slot else 0) | DBE_CODE << 2, CODE + 4)
    assert bench.cpu.read(T1) == 5


def test_a_jump_to_nothing_is_a_bus_error(bench: Bench) -> None:
    bench.cpu.write(T0, NOWHERE + KSEG1 & bench.bits)

    bench.run(JR_T0, NOP)

    assert bench.exception == (IBE_CODE << 2, NOWHERE + KSEG1 - KSEG0)


@pytest.mark.parametrize(("instruction", "code"), [(LW_T1_T0, ADEL_CODE), (SW_T1_T0, ADES_CODE)], ids=["load", "store"])
def test_an_unaligned_access_is_the_guests_exception_and_no_error_of_the_slice(
    bench: Bench, instruction: int, code: int
) -> None:
    bench.cpu.write(T0, DATA + 1 + KSEG0 & bench.bits)

    bench.run(NOP, instruction)

    assert bench.exception == (code << 2, CODE + 4)
    assert bench.cpu.read_cp0("BadVAddr") == DATA + 1 + KSEG0 & bench.bits


def test_an_interrupt_wakes_a_sleeping_cpu_and_enters_its_handler(bench: Bench) -> None:
    bench.run(WAIT, NOP, status=STATUS_IM | STATUS_IE)

    bench.cpu.interrupt.set(True)

    assert not bench.cpu.asleep
    bench.put(VECTOR, NOP)  # no WAIT, which would end at once
    bench.cpu.engine.run(1)
    assert bench.exception == (INT, CODE + 4)
    assert bench.cpu.engine.pc == VECTOR + 4 + KSEG0 & bench.bits


def test_an_interrupt_that_only_ie_holds_back_ends_wait(bench: Bench) -> None:
    bench.run(WAIT, WAIT, status=STATUS_IM)

    bench.cpu.interrupt.set(True)
    assert not bench.cpu.asleep
    bench.cpu.run()

    assert bench.cpu.engine.pc == CODE + 8 + KSEG0 & bench.bits
    assert bench.exception == (0, 0 - KSEG0 & bench.bits)  # none


def test_an_interrupt_that_is_masked_lets_the_cpu_sleep(bench: Bench) -> None:
    bench.run(WAIT, status=STATUS_IE)

    bench.cpu.interrupt.set(True)

    assert bench.cpu.asleep
    assert bench.cpu.read_cp0("Cause") & INTERRUPT


def test_a_software_interrupt_is_taken(bench: Bench) -> None:
    bench.cpu.write(T0, 0x100)
    bench.put(VECTOR, 0x40806000, WAIT)  # mtc0 zero, Status

    bench.put(CODE, MTC0_T0_CAUSE, NOP, NOP)
    bench.set_cp0(Status=STATUS_KERNEL | STATUS_IM | STATUS_IE)
    bench.cpu.engine.pc = CODE + KSEG0 & bench.bits
    bench.go_on()

    assert bench.exception == (INT, CODE + 4)


def test_the_slice_may_end_between_a_branch_and_its_slot(bench: Bench) -> None:
    bench.put(CODE, B_OVER, 0x25290001, BREAK, 0x25290002, SYSCALL)  # slot: t1 += 1; target: t1 += 2
    bench.put(VECTOR, WAIT)
    bench.set_cp0(Status=STATUS_KERNEL)
    bench.cpu.write(T1, 0)
    bench.cpu.engine.pc = CODE + KSEG0 & bench.bits

    for _ in range(4):
        bench.cpu.engine.run(1)
        state = bench.cpu.save()
        bench.cpu.reset()
        bench.cpu.load(state)

    assert bench.cpu.read(T1) == 3
    assert bench.exception == (SYS_CODE << 2, CODE + 16)


def test_a_run_of_instructions_without_a_branch_may_be_long(bench: Bench) -> None:
    """The translator gives its temporaries back only at a block's end, and has 512."""
    bench.run(*[0x25290001] * 3000, SYSCALL)  # addiu t1, t1, 1

    assert bench.cpu.read(T1) == 3000
    assert bench.exception == (SYS_CODE << 2, CODE + 12000)


def test_zeros_up_to_where_there_is_nothing_end_in_a_bus_error(bench: Bench) -> None:
    bench.run(NOP)

    assert bench.exception == (IBE_CODE << 2, SIZE)


def test_count_stands_still(bench: Bench) -> None:
    """A limit of this engine: the board's timer is what tells the time."""
    bench.run(MFC0_T1_COUNT, *[NOP] * 100, SYSCALL)

    assert bench.cpu.read(T1) == 0
