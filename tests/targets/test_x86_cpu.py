"""The x86 CPUs: their state goes through the engine and back, and exceptions, interrupts and ports do what the manuals say."""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
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

SIZE = 0x10000
CODE, IDT, GDT, TSS, HANDLER, PAGE_DIRECTORY, STACK = 0x1000, 0x2000, 0x3000, 0x3800, 0x4000, 0x5000, 0x8000
HLT = b"\xf4"
IF, VIRTUAL_8086, PE, EM = 0x200, 1 << 17, 1, 4
ARITHMETIC, DIRECTION = 0x8D5, 0x400
FLAT_CODE, FLAT_DATA = 0x00CF_9B00, 0x00CF_9300
KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA = 0x08, 0x10, 0x1B, 0x23
GENERAL_PROTECTION, DOUBLE_FAULT_VECTOR, INVALID_OPCODE, PAGE_FAULT = 13, 8, 6, 14
# mov eax, PAGE_DIRECTORY; mov cr3, eax; mov eax, cr4; or al, PSE; mov cr4, eax; mov eax, cr0; or eax, PG; mov cr0, eax; ud2
PAGING_AND_UD2 = bytes.fromhex("b800500000 0f22d8 0f20e0 0c10 0f22e0 0f20c0 0d00000080 0f22c0 0f0b")
words = st.integers(0, ALL_BITS)


class Bench:
    """A 32-bit CPU in flat protected mode, its memory, and what it asked for."""

    def __init__(self) -> None:
        self.engine = Engine("i386")
        self.memory = mmap.mmap(-1, SIZE)
        self.engine.map_ram(0, ctypes.addressof(ctypes.c_char.from_buffer(self.memory)), SIZE)
        self.clock = FakeClock()
        self.asked: list[str] = []
        self.ports: list[tuple[int, int, int]] = []
        self.vector = 0x30
        self.cpu = X86Cpu(
            self.engine,
            self.clock,
            acknowledge=self.acknowledge,
            on_triple_fault=lambda: self.ask("triple fault"),
            on_end=lambda: self.ask("end"),
        )
        self.cpu.hooks.map_ports(
            lambda port, size: port + size, lambda port, size, value: self.ports.append((port, size, value))
        )
        descriptors = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF)
        for number, descriptor in enumerate(descriptors):
            self.put(GDT + 8 * number, descriptor.to_bytes(8, "little"))
        self.put(TSS, bytes(4) + STACK.to_bytes(4, "little") + KERNEL_DATA.to_bytes(4, "little"))
        self.put(TSS + 0x66, (0x68).to_bytes(2, "little"))  # the I/O permission bitmap
        self.put(TSS + 0x68, b"\xff" * 8)

    def ask(self, what: str) -> None:
        self.asked.append(what)

    def acknowledge(self) -> int:
        self.asked.append("acknowledge")
        self.cpu.interrupt.set(False)
        return self.vector

    def put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data
        self.engine.invalidate_code(address, len(data))

    def gate(self, vector: int, address: int = HANDLER, dpl: int = 0) -> None:
        gate = address & 0xFFFF | KERNEL_CODE << 16 | (0x8E00 | dpl << 13) << 32 | address >> 16 << 48
        self.put(IDT + 8 * vector, gate.to_bytes(8, "little"))

    def start(self, code: bytes, *, flags: int = 0, user: bool = False) -> None:
        """Put `code` in place and enter it with `flags`; what ends it is the HLT in every handler."""
        self.put(CODE, code)
        self.put(HANDLER, HLT)
        state = self.cpu.save()
        dpl = 0x6000 if user else 0
        data = DescriptorState(selector=USER_DATA if user else KERNEL_DATA, limit=0xFFFF_FFFF, flags=FLAT_DATA | dpl)
        state.descriptors = [data] * 6 + [
            DescriptorState(),
            DescriptorState(selector=0x28, base=TSS, limit=0x70, flags=0x8900),
            DescriptorState(base=GDT, limit=0x2F),
            DescriptorState(base=IDT, limit=0x7FF),
        ]
        selector = USER_CODE if user else KERNEL_CODE
        state.descriptors[1] = DescriptorState(selector=selector, limit=0xFFFF_FFFF, flags=FLAT_CODE | dpl)
        state.hflags = 0xB0 | (3 if user else 0)
        state.eflags = 2 | flags
        state.pc = CODE
        self.cpu.load(state)
        self.cpu.write("rsp", STACK - 0x1000)

    def run(self) -> None:
        for _ in range(10):
            if not self.cpu.asleep and not self.asked:
                self.cpu.run()

    @property
    def pushed(self) -> list[int]:
        """What lies on the kernel's stack, the last first."""
        at = self.cpu.read("rsp") & 0xFFFF_FFFF
        return [int.from_bytes(self.memory[at + 4 * n : at + 4 * n + 4], "little") for n in range(4)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.engine.close()


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


def test_an_exception_enters_its_handler_with_the_pc_of_its_instruction(bench: Bench) -> None:
    bench.gate(INVALID_OPCODE)
    bench.start(b"\x90\x0f\x0b")  # nop; ud2

    bench.run()

    assert bench.cpu.pc == HANDLER + 1
    assert bench.pushed[0] == CODE + 1


def test_exceptions_do_not_end_slices(bench: Bench) -> None:
    bench.gate(INVALID_OPCODE)
    bench.start(bytes.fromhex("b964000000 0f0b f4"))  # mov ecx, 100; ud2; hlt
    bench.put(HANDLER, bytes.fromhex("49 7401 cf f4"))  # dec ecx; jz hlt; iret, to the ud2 again; hlt

    bench.engine.run()

    assert bench.cpu.asleep
    assert bench.cpu.read("rcx") == 0


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_a_stop_ends_an_endless_loop_of_page_faults(bench: Bench, seconds: float) -> None:
    bench.gate(INVALID_OPCODE, 4 << 20)
    bench.gate(PAGE_FAULT, 4 << 20)
    bench.put(PAGE_DIRECTORY, bytes([0x83, *[0] * 4095]))
    bench.start(PAGING_AND_UD2)
    alarm = bench.engine.alarm()
    alarm.set(int(seconds * 1e9))

    bench.engine.run()

    alarm.close()
    assert not bench.cpu.asleep


def test_a_counted_slice_ends_in_an_endless_loop_of_page_faults(bench: Bench) -> None:
    bench.gate(INVALID_OPCODE, 4 << 20)
    bench.gate(PAGE_FAULT, 4 << 20)
    bench.put(PAGE_DIRECTORY, bytes([0x83, *[0] * 4095]))  # the first 4 MiB and nothing else
    bench.start(PAGING_AND_UD2)
    top = bench.cpu.read("rsp")

    bench.engine.run(100)

    assert bench.engine.executed == 100
    assert top - bench.cpu.read("rsp") == 12 + 16 * 91  # what ud2 and each fault push


def test_a_software_interrupt_returns_behind_itself(bench: Bench) -> None:
    bench.gate(0x80, dpl=3)
    bench.start(b"\xcd\x80", user=True)

    bench.run()

    assert bench.cpu.pc == HANDLER + 1
    assert bench.pushed[:2] == [CODE + 2, USER_CODE]


def test_a_software_interrupt_that_user_mode_may_not_make_is_a_fault_at_itself(bench: Bench) -> None:
    bench.gate(0x80)
    bench.gate(GENERAL_PROTECTION)
    bench.start(b"\x90\xcd\x80", user=True)

    bench.run()

    assert bench.pushed[:2] == [0x80 * 8 + 2, CODE + 1]  # error code, pc


def test_a_fault_with_no_handler_at_all_is_a_triple_fault(bench: Bench) -> None:
    bench.start(b"\x0f\x0b")

    bench.run()

    assert bench.asked == ["triple fault"]


@pytest.mark.parametrize("task", [DescriptorState(), DescriptorState(selector=0x28, base=TSS, limit=0x70, flags=0x8B00)])
def test_a_fault_without_a_task_segment_for_its_stack_is_a_shutdown(bench: Bench, task: DescriptorState) -> None:
    bench.gate(INVALID_OPCODE)
    bench.start(b"\x0f\x0b", user=True)
    state = bench.cpu.save()
    state.descriptors[7] = task  # a guest may load TR with the null selector
    bench.cpu.load(state)

    bench.run()

    assert bench.asked == ["triple fault"]


def test_a_fault_with_no_handler_of_its_own_is_a_double_fault(bench: Bench) -> None:
    bench.gate(DOUBLE_FAULT_VECTOR)
    bench.start(b"\x0f\x0b")

    bench.run()

    assert bench.asked == ["end"]  # by the handler's HLT
    assert bench.cpu.pc == HANDLER + 1


def test_an_interrupt_wakes_a_halted_cpu_and_is_acknowledged_once(bench: Bench) -> None:
    bench.gate(0x30)
    bench.start(b"\xf4", flags=IF)
    bench.run()
    assert bench.cpu.asleep

    bench.cpu.interrupt.set(True)
    assert not bench.cpu.asleep
    bench.cpu.run()

    assert bench.asked == ["acknowledge", "end"]
    assert bench.pushed[0] == CODE + 1


def test_an_interrupt_waits_for_the_instruction_behind_sti(bench: Bench) -> None:
    bench.gate(0x30)
    bench.start(b"\xfb\x90\x90\xf4")  # sti; nop; nop; hlt
    bench.cpu.interrupt.set(True)

    bench.run()

    assert bench.asked[0] == "acknowledge"
    assert bench.pushed[0] == CODE + 2


def test_hlt_with_interrupts_off_is_the_end(bench: Bench) -> None:
    bench.start(HLT)

    bench.run()

    assert bench.asked == ["end"]


def test_ports_are_the_kernels(bench: Bench) -> None:
    bench.start(bytes.fromhex("e460 e661 66bacf0c 66ef f4"))  # in al, 0x60; out 0x61, al; mov dx, 0xccf; out dx, ax; hlt

    bench.run()

    assert bench.ports == [(0x61, 1, 0x61), (0xCCF, 2, 0x61)]


@pytest.mark.parametrize("code", ["e460", "e660", "66e560", "e560", "e760"])
def test_a_port_access_of_user_mode_is_a_fault_at_itself(bench: Bench, code: str) -> None:
    bench.gate(GENERAL_PROTECTION)
    bench.start(b"\x90\x90" + bytes.fromhex(code), user=True)

    bench.run()

    assert bench.ports == []
    assert bench.pushed[:2] == [0, CODE + 2]


def test_user_mode_reaches_ports_that_the_tss_allows(bench: Bench) -> None:
    bench.gate(GENERAL_PROTECTION)
    bench.put(TSS + 0x68, b"\xfe")  # port 0
    bench.start(bytes.fromhex("e600 e601"), user=True)

    bench.run()

    assert [port for port, _size, _value in bench.ports] == [0]
    assert bench.pushed[1] == CODE + 2


def test_user_mode_with_io_privilege_reaches_every_port(bench: Bench) -> None:
    bench.gate(GENERAL_PROTECTION)
    bench.start(bytes.fromhex("e601 f4"), user=True, flags=3 << 12)

    bench.run()

    assert [port for port, _size, _value in bench.ports] == [1]
    assert bench.pushed[1] == CODE + 2  # HLT is not for user mode


@pytest.mark.parametrize("code", ["e460", "e660", "66e560", "e560", "e760"])
def test_virtual_8086_mode_reaches_no_port_whatever_its_io_privilege(bench: Bench, code: str) -> None:
    bench.gate(GENERAL_PROTECTION)
    bench.start(b"\x90\x90" + bytes.fromhex(code), user=True, flags=VIRTUAL_8086 | 3 << 12)

    bench.run()

    assert bench.ports == []
    assert bench.pushed[:2] == [0, CODE + 2]


def test_the_time_stamp_counter_is_guest_time(bench: Bench) -> None:
    bench.clock.advance(0x1_2345_6789)
    bench.start(b"\x0f\x31\xf4")

    bench.run()

    assert (bench.cpu.read("rdx"), bench.cpu.read("rax")) == (1, 0x2345_6789)


def test_sysenter_goes_where_its_registers_say(bench: Bench) -> None:
    bench.put(HANDLER, HLT)
    bench.start(b"\x0f\x34", user=True, flags=IF)
    for name, value in (("sysenter_cs", KERNEL_CODE), ("sysenter_esp", STACK), ("sysenter_eip", HANDLER)):
        bench.engine.field(name).value = value

    bench.run()

    state = bench.cpu.save()
    assert (state.pc, state.regs[REGS.index("rsp")], state.hflags & 3, state.eflags & IF) == (HANDLER + 1, STACK, 0, 0)


def test_a_stop_from_another_thread_skips_no_instruction_that_a_hook_stands_for(bench: Bench) -> None:
    """RDTSC and SYSENTER, stopped as often as can be."""
    times = 30_000
    bench.clock.advance(1 << 32)
    bench.start(bytes.fromhex("0f31 01d7 0f34 f4"))  # rdtsc; add edi, edx; sysenter; hlt
    bench.put(
        HANDLER, bytes.fromhex("49 7406") + b"\x68" + CODE.to_bytes(4, "little") + b"\xc3\xf4"
    )  # dec ecx; jz; push; ret; hlt
    bench.cpu.write("rcx", times)
    bench.cpu.write("rdi", 0)
    for name, value in (("sysenter_cs", KERNEL_CODE), ("sysenter_esp", STACK), ("sysenter_eip", HANDLER)):
        bench.engine.field(name).value = value
    ended = threading.Event()

    def pester() -> None:
        while not ended.is_set():
            bench.engine.stop()
            time.sleep(0)  # gives the GIL away

    thread = threading.Thread(target=pester)
    thread.start()
    slices = 0
    while not bench.cpu.asleep:
        bench.cpu.run()
        slices += 1
    ended.set()
    thread.join()

    assert (bench.cpu.read("rcx"), bench.cpu.read("rdi")) == (0, times)
    assert bench.cpu.pc == HANDLER + 10
    assert slices > 10
