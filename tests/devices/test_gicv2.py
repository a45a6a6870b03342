"""The GIC: what interrupts, in which order, and what the guest reads about it."""

from __future__ import annotations

import pytest

from devices.gicv2 import (
    CPU_INTERFACE,
    CTLR_ENABLE,
    CTLR_EOIMODE,
    IDLE_PRIORITY,
    SPURIOUS,
    Gicc,
    Gicd,
    GicV2,
    GicV2State,
)
from emu.errors import StateError
from migration.vmstate import Wire as WireValue
from migration.vmstate import dump, parse
from tests.devices.fakes import Wire

TIMER, UART, DISK = 27, 33, 48


class Bench:
    """A GIC and a driver that knows its registers."""

    def __init__(self) -> None:
        self.irq = Wire()
        self.gic = GicV2("gic", self.irq.irq)
        self.lines = {number: self.gic.line(number) for number in (TIMER, UART, DISK)}

    def read(self, register: int, size: int = 4) -> int:
        return self.gic.read(register, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        self.gic.write(register, size, value)

    def set_up(self, *interrupts: int, ctlr: int = CTLR_ENABLE, priority: int = 0x80) -> Bench:
        self.write(Gicd.CTLR, CTLR_ENABLE)
        self.write(CPU_INTERFACE + Gicc.PMR, 0xFF)
        self.write(CPU_INTERFACE + Gicc.CTLR, ctlr)
        for interrupt in interrupts:
            self.write(Gicd.IPRIORITYR + interrupt, priority, 1)
            self.write(Gicd.ISENABLER + 4 * (interrupt // 32), 1 << interrupt % 32)
        return self

    def raise_(self, interrupt: int) -> None:
        self.lines[interrupt].set(True)

    def lower(self, interrupt: int) -> None:
        self.lines[interrupt].set(False)

    def acknowledge(self) -> int:
        return self.read(CPU_INTERFACE + Gicc.IAR)

    def end(self, interrupt: int) -> None:
        self.write(CPU_INTERFACE + Gicc.EOIR, interrupt)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_line_interrupts_until_it_is_acknowledged(bench: Bench) -> None:
    bench.set_up(UART)
    bench.raise_(UART)
    raised = bench.irq.level

    taken = bench.acknowledge()

    assert (raised, taken, bench.irq.level) == (True, UART, False)


def test_a_line_that_is_still_high_at_the_end_interrupts_again(bench: Bench) -> None:
    bench.set_up(UART)
    bench.raise_(UART)
    bench.acknowledge()

    bench.end(UART)
    again = bench.irq.level
    bench.lower(UART)

    assert (again, bench.irq.level) == (True, False)
    assert bench.acknowledge() == SPURIOUS


@pytest.mark.parametrize("missing", ["distributor", "cpu interface", "enable", "mask"])
def test_each_gate_holds_an_interrupt_back(bench: Bench, missing: str) -> None:
    bench.set_up(UART)
    closing = {
        "distributor": (Gicd.CTLR, 0),
        "cpu interface": (CPU_INTERFACE + Gicc.CTLR, 0),
        "enable": (Gicd.ICENABLER + 4, 1 << UART - 32),
        "mask": (CPU_INTERFACE + Gicc.PMR, 0x80),
    }
    bench.write(*closing[missing])

    bench.raise_(UART)

    assert not bench.irq.level
    assert bench.acknowledge() == SPURIOUS


def test_the_highest_priority_goes_first_and_the_lowest_number_among_equals(bench: Bench) -> None:
    bench.set_up(TIMER, UART, DISK)
    bench.write(Gicd.IPRIORITYR + DISK, 0x10, 1)
    for interrupt in (UART, TIMER, DISK):
        bench.raise_(interrupt)
    highest_pending = bench.read(CPU_INTERFACE + Gicc.HPPIR)
    order = []

    for _ in range(3):
        order.append(bench.acknowledge())
        bench.lower(order[-1])
        bench.end(order[-1])

    assert highest_pending == DISK
    assert order == [DISK, TIMER, UART]


def test_only_a_higher_group_priority_preempts(bench: Bench) -> None:
    bench.set_up(UART, DISK)
    bench.write(CPU_INTERFACE + Gicc.BPR, 3)  # the upper four bits
    bench.raise_(UART)
    bench.acknowledge()
    running = bench.read(CPU_INTERFACE + Gicc.RPR)

    bench.raise_(DISK)
    same = bench.irq.level
    bench.write(Gicd.IPRIORITYR + DISK, 0x7F, 1)
    higher = bench.irq.level

    assert (running, same, higher) == (0x80, False, True)
    assert bench.acknowledge() == DISK
    assert bench.read(CPU_INTERFACE + Gicc.RPR) == 0x70
    bench.end(DISK)
    assert bench.read(CPU_INTERFACE + Gicc.RPR) == 0x80
    bench.end(UART)
    assert bench.read(CPU_INTERFACE + Gicc.RPR) == IDLE_PRIORITY


def test_in_eoi_mode_the_end_drops_the_priority_alone(bench: Bench) -> None:
    bench.set_up(UART, ctlr=CTLR_ENABLE | CTLR_EOIMODE)
    bench.raise_(UART)
    bench.acknowledge()

    bench.end(UART)
    after_end = bench.irq.level, bench.read(Gicd.ISACTIVER + 4)
    bench.write(CPU_INTERFACE + Gicc.DIR, UART)

    assert after_end == (False, 1 << UART - 32)
    assert bench.irq.level


def test_an_edge_is_remembered_and_taken_once(bench: Bench) -> None:
    bench.set_up(UART)
    bench.write(Gicd.ICFGR + 8, 2 << 2 * (UART - 32))
    bench.raise_(UART)
    bench.lower(UART)

    taken = bench.acknowledge()
    bench.end(taken)

    assert taken == UART
    assert not bench.irq.level
    assert bench.read(Gicd.ICFGR + 8) == 2 << 2 * (UART - 32)


def test_an_edge_that_comes_while_the_last_is_served_is_served_after_it(bench: Bench) -> None:
    bench.set_up(UART)
    bench.write(Gicd.ICFGR + 8, 2 << 2 * (UART - 32))
    bench.raise_(UART)
    bench.acknowledge()
    bench.lower(UART)
    bench.raise_(UART)

    bench.end(UART)

    assert bench.irq.level
    assert bench.acknowledge() == UART


def test_software_makes_interrupts_pending_and_takes_them_back(bench: Bench) -> None:
    bench.set_up(UART)
    bench.write(Gicd.ISPENDR + 4, 1 << UART - 32)
    pending = bench.irq.level, bench.read(Gicd.ICPENDR + 4)

    bench.write(Gicd.ICPENDR + 4, 1 << UART - 32)

    assert pending == (True, 1 << UART - 32)
    assert not bench.irq.level


@pytest.mark.parametrize(
    ("value", "comes"),
    [(0x0001_0003, True), (0x0002_0003, False), (0x0100_0003, False), (0x0200_0003, True), (0x0300_0003, False)],
)
def test_software_interrupts_reach_this_cpu_alone(bench: Bench, value: int, comes: bool) -> None:
    bench.set_up(3)

    bench.write(Gicd.SGIR, value)

    assert bench.irq.level is comes
    assert bench.acknowledge() == (3 if comes else SPURIOUS)


def test_pending_software_interrupts_are_set_and_cleared_by_byte(bench: Bench) -> None:
    bench.set_up(3)
    bench.write(Gicd.ISPENDR, 1 << 3)  # not by this register
    not_by_it = bench.irq.level
    bench.write(Gicd.SPENDSGIR + 3, 1, 1)
    read = bench.read(Gicd.CPENDSGIR)

    bench.write(Gicd.CPENDSGIR, 0x0100_0000)

    assert (not_by_it, read) == (False, 0x0100_0000)
    assert not bench.irq.level


def test_active_bits_can_be_set_and_cleared(bench: Bench) -> None:
    bench.set_up(UART)
    bench.raise_(UART)
    bench.write(Gicd.ISACTIVER + 4, 1 << UART - 32)
    active = bench.irq.level

    bench.write(Gicd.ICACTIVER + 4, 1 << UART - 32)

    assert not active
    assert bench.irq.level


def test_a_driver_finds_out_what_it_drives(bench: Bench) -> None:
    assert bench.read(Gicd.TYPER) == 8  # 288 interrupts, one CPU, no security
    assert bench.read(0xFE8) & 0xF0 == 0x20  # GICv2
    assert bench.read(CPU_INTERFACE + Gicc.IIDR) == 0x0002_043B
    assert bench.read(Gicd.ITARGETSR + 32) == 0
    assert bench.read(Gicd.ICFGR) == 0xAAAA_AAAA


@pytest.mark.parametrize("offset", [0x3C, 0x1FC, 0x7FC, 0xCFC, 0xFCC, 0x1000, 0xFFFC, 0x1_0FFC, 0x1_FFFC])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_is_reserved_reads_zero_and_takes_nothing(bench: Bench, offset: int, size: int) -> None:
    before = dump(bench.gic.save())

    bench.write(offset, (1 << 8 * size) - 1, size)

    assert bench.read(offset, size) == 0
    assert dump(bench.gic.save()) == before


def test_active_priorities_can_be_read_and_put_back(bench: Bench) -> None:
    bench.set_up(UART)
    bench.raise_(UART)
    bench.acknowledge()

    kept = bench.read(CPU_INTERFACE + Gicc.APR + 8)
    bench.write(CPU_INTERFACE + Gicc.APR + 8, 0)
    idle = bench.read(CPU_INTERFACE + Gicc.RPR)
    bench.write(CPU_INTERFACE + Gicc.APR + 8, kept)

    assert (kept, idle) == (1, IDLE_PRIORITY)
    assert bench.read(CPU_INTERFACE + Gicc.RPR) == 0x80


@pytest.mark.parametrize("number", [15, 288])
def test_a_line_that_is_not_there_is_refused(bench: Bench, number: int) -> None:
    with pytest.raises(ValueError, match=rf"has the lines 16\.\.287, not {number}"):
        bench.gic.line(number)


def test_what_was_being_served_goes_on_after_a_move(bench: Bench) -> None:
    bench.set_up(UART, DISK)
    bench.raise_(UART)
    bench.acknowledge()
    bench.raise_(DISK)
    there = Bench()

    there.gic.load(parse(GicV2State, 1, dump(bench.gic.save())))
    silent = there.irq.changes
    there.lower(UART)
    there.end(UART)

    assert silent == 0
    assert there.irq.level
    assert there.acknowledge() == DISK


@pytest.mark.parametrize("field", ["level", "edge"])
def test_a_line_of_a_software_interrupt_is_refused(field: str) -> None:
    fields: dict[str, WireValue] = {**dump(GicV2State()), field: [1] + [0] * 8}

    with pytest.raises(StateError, match=rf"gicv2\.{field}\[0\] is 0x1"):
        parse(GicV2State, 1, fields)
