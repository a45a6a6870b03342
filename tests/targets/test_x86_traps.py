"""Exceptions, interrupts and ports of the x86 CPUs do what the manuals say."""

from __future__ import annotations

import threading
import time

import pytest

from targets.x86.state import REGS, DescriptorState
from tests.targets import x86bench
from tests.targets.x86bench import (
    CODE,
    DOUBLE_FAULT_VECTOR,
    GENERAL_PROTECTION,
    HANDLER,
    HLT,
    IF,
    INVALID_OPCODE,
    KERNEL_CODE,
    PAGE_DIRECTORY,
    PAGE_FAULT,
    PAGING_AND_UD2,
    STACK,
    TSS,
    USER_CODE,
    VIRTUAL_8086,
    Bench,
)

bench = x86bench.bench


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
