"""The PICs as their driver and their CPU meet them."""

from __future__ import annotations

from devices.i8259 import ELCR, MASTER, SLAVE, PicPair
from tests.devices.fakes import Wire

EOI, SPECIFIC_EOI, READ_IRR, READ_ISR, POLL = 0x20, 0x60, 0x0A, 0x0B, 0x0C


def started(*, auto_eoi: bool = False) -> tuple[PicPair, Wire]:
    """As a kernel sets them up, nothing masked: vectors 0x30 to 0x3f."""
    wire = Wire()
    pics = PicPair("pic", wire.irq)
    for port, base, cascade in ((MASTER, 0x30, 4), (SLAVE, 0x38, 2)):
        pics.write(port, 1, 0x11)
        pics.write(port + 1, 1, base)
        pics.write(port + 1, 1, cascade)
        pics.write(port + 1, 1, 3 if auto_eoi else 1)
        pics.write(port + 1, 1, 0)
    return pics, wire


def test_a_rising_edge_asks_once() -> None:
    pics, wire = started()
    pics.line(4).set(True)
    assert wire.level
    assert pics.acknowledge() == 0x34
    assert not wire.level

    pics.write(MASTER, 1, EOI)

    assert not wire.level  # the line is still high


def test_a_level_triggered_line_asks_until_it_is_low() -> None:
    pics, wire = started()
    pics.make_level_triggered(10)
    pics.line(10).set(True)
    assert pics.acknowledge() == 0x3A
    pics.write(SLAVE, 1, EOI)
    pics.write(MASTER, 1, EOI)
    assert wire.level

    pics.line(10).set(False)

    assert not wire.level


def test_the_lower_line_comes_first_and_interrupts_the_higher() -> None:
    pics, wire = started()
    pics.line(4).set(True)
    pics.line(1).set(True)
    assert pics.acknowledge() == 0x31
    assert not wire.level  # 4 has to wait for the end of 1
    pics.write(MASTER, 1, EOI)
    assert pics.acknowledge() == 0x34

    pics.line(0).set(True)

    assert wire.level


def test_a_masked_line_waits() -> None:
    pics, wire = started()
    pics.write(MASTER + 1, 1, 1 << 4)
    pics.line(4).set(True)
    assert not wire.level

    pics.write(MASTER + 1, 1, 0)

    assert wire.level


def test_an_edge_taken_back_before_the_acknowledge_is_spurious() -> None:
    pics, _wire = started()
    pics.line(4).set(True)
    pics.line(4).set(False)

    assert pics.acknowledge() == 0x37
    pics.write(MASTER, 1, READ_ISR)
    assert pics.read(MASTER, 1) == 0


def test_the_slave_is_in_service_at_both() -> None:
    pics, _wire = started()
    pics.line(8).set(True)
    assert pics.acknowledge() == 0x38

    for port, served in ((MASTER, 1 << 2), (SLAVE, 1)):
        pics.write(port, 1, READ_ISR)
        assert pics.read(port, 1) == served


def test_a_specific_end_ends_that_one() -> None:
    pics, wire = started()
    pics.line(4).set(True)
    pics.acknowledge()
    pics.line(5).set(True)
    assert not wire.level

    pics.write(MASTER, 1, SPECIFIC_EOI | 4)

    assert wire.level


def test_automatic_end_needs_none() -> None:
    pics, wire = started(auto_eoi=True)
    pics.line(4).set(True)
    pics.line(5).set(True)
    assert pics.acknowledge() == 0x34
    assert wire.level
    assert pics.acknowledge() == 0x35


def test_a_poll_is_an_acknowledge() -> None:
    pics, wire = started()
    pics.line(4).set(True)
    pics.write(MASTER, 1, POLL)

    assert pics.read(MASTER, 1) == 0x84
    assert not wire.level


def test_lines_that_are_always_edges_stay_so() -> None:
    pics, _wire = started()
    pics.write(ELCR, 1, 0xFF)
    pics.write(ELCR + 1, 1, 0xFF)

    assert (pics.read(ELCR, 1), pics.read(ELCR + 1, 1)) == (0xF8, 0xDE)


def test_what_waits_goes_with_the_state() -> None:
    pics, _wire = started()
    pics.line(4).set(True)
    wire = Wire()
    there = PicPair("pic", wire.irq)

    there.load(pics.save())

    assert wire.level
    assert there.acknowledge() == 0x34
