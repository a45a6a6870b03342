"""The UART's input: when it comes in, when it interrupts, and where the rest waits."""

from __future__ import annotations

import pytest

from devices.ns16550 import INPUT_CLOCK, Fcr, Ier, Iir, Lcr, Lsr, Reg
from emu.chardev import BACKLOG_MAX
from tests.devices.uart import DIVISOR, TRIGGER_8, WORD_8, Port

LINUX_CLEARS_FIFOS = (Fcr.ENABLE, Fcr.ENABLE | Fcr.RESET_RX | Fcr.RESET_TX, 0)

# What the guest is told of


def test_without_fifo_each_character_interrupts_and_the_rest_waits(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI, fcr=0)

    taken = port.line.feed(b"ab")
    source = port.source()
    first, second = port.read(Reg.RBR), port.read(Reg.RBR)

    assert taken == 2
    assert source == Iir.DATA
    assert (first, second) == (ord("a"), ord("b"))
    assert not port.wire.level
    assert not port.read(Reg.LSR) & Lsr.DR


@pytest.mark.parametrize(("trigger", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_fifo_interrupts_at_its_trigger_level_and_until_below(port: Port, trigger: int, level: int) -> None:
    port.set_up(ier=Ier.ERBFI, fcr=Fcr.ENABLE | trigger)

    port.line.feed(bytes(level - 1))
    below = port.wire.level
    port.line.feed(b"!")
    reached = port.source()
    port.read(Reg.RBR)

    assert not below
    assert reached == Iir.DATA
    assert not port.wire.level


def test_input_below_the_trigger_level_interrupts_after_four_character_times(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"x")

    port.advance_characters(3.9)
    early = port.wire.level
    port.advance_characters(0.2)

    assert not early
    assert port.wire.level
    assert port.source() == Iir.TIMEOUT
    assert port.source() == Iir.TIMEOUT  # until a character is read


def test_each_character_and_each_read_puts_the_timeout_off(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"xy")
    port.advance_characters(3)
    port.line.feed(b"z")
    port.advance_characters(3)
    port.read(Reg.RBR)
    port.advance_characters(3)
    put_off = port.wire.level
    port.advance_characters(2)

    assert not put_off
    assert port.wire.level


def test_reading_takes_the_timeout_back_and_an_empty_fifo_has_none(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"x")
    port.advance_characters(5)

    port.read(Reg.RBR)
    port.advance_characters(50)

    assert not port.wire.level
    assert port.clock.next_deadline() is None


@pytest.mark.parametrize(("lcr", "bits"), [(0x00, 7), (0x03, 10), (0x07, 11), (0x0B, 11), (0x1F, 12)])
def test_timeout_counts_the_bits_of_a_frame(port: Port, lcr: int, bits: int) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.write(Reg.LCR, lcr)

    port.line.feed(b"x")

    assert port.clock.next_deadline() == 4 * bits * 16 * DIVISOR * 1_000_000_000 // INPUT_CLOCK


def test_divisor_0_still_tells_input(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.write(Reg.LCR, Lcr.DLAB)
    port.write(Reg.DLL, 0)
    port.write(Reg.LCR, WORD_8)

    port.line.feed(b"x")
    port.advance_characters(4)

    assert port.source() == Iir.TIMEOUT


def test_long_paste_comes_whole_and_in_order_as_the_guest_reads(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    paste = bytes(range(256)) * 4

    taken = port.line.feed(paste)

    assert taken == len(paste)
    assert port.source() == Iir.DATA
    assert port.read_while_ready() == paste


def test_resetting_the_receive_fifo_empties_it_and_takes_what_waits(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"01234567, more")

    port.write(Reg.FCR, Fcr.ENABLE | Fcr.RESET_RX | TRIGGER_8)

    assert port.read_while_ready() == b", more"


@pytest.mark.parametrize("fcr", [0, Fcr.RESET_RX])
def test_switching_the_fifo_off_empties_it(port: Port, fcr: int) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"abc")

    port.write(Reg.FCR, fcr)

    assert not port.read(Reg.LSR) & Lsr.DR
    assert port.clock.next_deadline() is None


def test_fcr_bits_without_enable_are_not_programmed(port: Port) -> None:
    port.write(Reg.FCR, 0xC8)

    assert port.uart.save().fcr == 0


def test_resetting_the_transmit_fifo_loses_nothing(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.write(Reg.THR, 65)
    port.line.feed(b"a")

    port.write(Reg.FCR, Fcr.ENABLE | Fcr.RESET_TX)

    assert port.line.output == b"A"
    assert port.read(Reg.RBR) == ord("a")


# What waits on the line


@pytest.mark.parametrize("fcrs", [(Fcr.ENABLE,), LINUX_CLEARS_FIFOS])
def test_input_from_before_the_driver_started_is_not_lost_when_it_empties_the_fifo(port: Port, fcrs: tuple[int, ...]) -> None:
    typed_ahead = b"typed while the kernel was still booting"
    port.line.feed(typed_ahead)

    for fcr in fcrs:
        port.write(Reg.FCR, fcr)
    port.set_up(ier=Ier.ERBFI)

    assert port.source() == Iir.DATA
    assert port.read_while_ready() == typed_ahead


def test_guest_that_polls_has_one_character_at_a_time_in_the_fifo(port: Port) -> None:
    port.set_up()
    port.line.feed(b"abc")
    told = [port.read(Reg.LSR) & Lsr.DR for _poll in range(3)]

    port.write(Reg.FCR, Fcr.ENABLE | Fcr.RESET_RX)

    assert told == [Lsr.DR] * 3
    assert port.read_while_ready() == b"bc"


@pytest.mark.parametrize(("trigger", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_fifo_fills_up_to_where_it_interrupts(port: Port, trigger: int, level: int) -> None:
    port.set_up(ier=Ier.ERBFI, fcr=Fcr.ENABLE | trigger)

    port.line.feed(bytes(range(20)))

    assert port.uart.save().rx == bytes(range(level))
    assert port.read_while_ready() == bytes(range(20))


def test_lower_trigger_level_keeps_what_is_there(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"0123456789")

    port.write(Reg.FCR, Fcr.ENABLE)

    assert port.source() == Iir.DATA
    assert port.read_while_ready() == b"0123456789"


def test_backlog_is_bounded_and_room_is_announced(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)

    first = port.line.feed(bytes(BACKLOG_MAX))
    second = port.line.feed(bytes(BACKLOG_MAX))
    refused = port.line.feed(b"x")
    before = port.line.rooms
    port.read(Reg.RBR)

    assert (first, second, refused) == (BACKLOG_MAX, 8, 0)
    assert before == 0
    assert port.line.rooms == 1
    assert port.line.feed(b"xy") == 1


def test_line_has_one_device(port: Port) -> None:
    with pytest.raises(ValueError, match="one device"):
        port.line.connect(port.uart)


def test_typed_ahead_input_survives_a_reset(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"01234567, later")

    port.uart.reset()

    assert port.read_while_ready() == b", later"


def test_polling_guest_gets_input_after_a_reset(port: Port) -> None:
    port.set_up()
    port.line.feed(b"0123456789abcdefg")
    port.uart.reset()

    assert port.read(Reg.LSR) & Lsr.DR
