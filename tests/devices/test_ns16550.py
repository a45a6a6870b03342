"""The UART as a 16550A driver sees it, and the flow of characters to and from its line."""

from __future__ import annotations

import pytest

from devices.ns16550 import FIFO_DEPTH, INPUT_CLOCK, Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr, Ns16550, Ns16550State, Reg
from emu.chardev import BACKLOG_MAX
from emu.errors import StateError
from migration.vmstate import Wire as WireValue
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, MemoryChardev, Wire

WORD_8 = Lcr.WORD_LENGTH
BITS_8N1 = 10
DIVISOR = 2
CHARACTER_NS = BITS_8N1 * 16 * DIVISOR * 1_000_000_000 / INPUT_CLOCK
TRIGGER_8 = 0x80
IDLE = Lsr.THRE | Lsr.TEMT


class Port:
    """A UART, its line, its wire, and a driver that knows the registers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.line = MemoryChardev()
        self.wire = Wire()
        self.uart = Ns16550("serial", self.wire.irq, self.line, self.clock)

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)

    def set_up(self, *, ier: int = 0, fcr: int = Fcr.ENABLE | TRIGGER_8) -> Port:
        self.write(Reg.LCR, Lcr.DLAB | WORD_8)
        self.write(Reg.DLL, DIVISOR)
        self.write(Reg.DLM, 0)
        self.write(Reg.LCR, WORD_8)
        self.write(Reg.FCR, fcr)
        self.write(Reg.IER, ier)
        return self

    def read_while_ready(self) -> bytes:
        data = bytearray()
        while self.read(Reg.LSR) & Lsr.DR:
            data.append(self.read(Reg.RBR))
        return bytes(data)

    def source(self) -> int:
        return self.read(Reg.IIR) & ~Iir.FIFOS_ENABLED

    def advance_characters(self, count: float) -> None:
        self.clock.advance(round(count * CHARACTER_NS))

    def moved(self) -> Port:
        """Another process's port after a migration from this one."""
        there = Port()
        there.clock.load(self.clock.save())
        there.uart.load(parse(Ns16550State, 1, dump(self.uart.save())))
        there.wire.level = self.wire.level
        there.clock.start()
        return there


@pytest.fixture
def port() -> Port:
    return Port()


# Registers


def test_registers_after_reset(port: Port) -> None:
    registers = [port.read(register) for register in range(8)]

    assert registers == [0, 0, Iir.NONE, 0, 0, IDLE, Msr.CTS | Msr.DSR | Msr.DCD, 0]


def test_fifo_is_announced_in_iir_while_enabled(port: Port) -> None:
    port.write(Reg.FCR, Fcr.ENABLE)
    enabled = port.read(Reg.IIR)
    port.write(Reg.FCR, 0)

    assert enabled == Iir.FIFOS_ENABLED | Iir.NONE
    assert port.read(Reg.IIR) == Iir.NONE


def test_divisor_is_behind_dlab(port: Port) -> None:
    port.write(Reg.LCR, Lcr.DLAB)
    port.write(Reg.DLL, 0x34)
    port.write(Reg.DLM, 0x12)
    latched = port.read(Reg.DLL), port.read(Reg.DLM)
    port.write(Reg.LCR, 0)

    assert latched == (0x34, 0x12)
    assert port.read(Reg.IER) == 0
    assert port.line.output == b""


@pytest.mark.parametrize(("register", "kept"), [(Reg.SCR, 0xFF), (Reg.LCR, 0xFF), (Reg.IER, 0x0F), (Reg.MCR, 0x1F)])
def test_only_existing_bits_are_kept(port: Port, register: int, kept: int) -> None:
    port.write(register, 0xFF)

    assert port.read(register) == kept


def test_status_registers_are_read_only(port: Port) -> None:
    before = dump(port.uart.save())

    port.write(Reg.LSR, 0xFF)
    port.write(Reg.MSR, 0xFF)

    assert dump(port.uart.save()) == before


@pytest.mark.parametrize("offset", [8, 9, 0xFF])
def test_offsets_beyond_the_registers_take_nothing(port: Port, offset: int) -> None:
    before = dump(port.uart.save())

    port.write(offset, 0xFF)

    assert port.read(offset) == 0
    assert dump(port.uart.save()) == before


@pytest.mark.parametrize("size", [2, 4, 8])
def test_wide_access_reaches_one_register(port: Port, size: int) -> None:
    port.uart.write(Reg.SCR, size, 0x1122_3344 & (1 << 8 * size) - 1)
    port.uart.write(Reg.THR, size, 0x4241)

    assert port.uart.read(Reg.SCR, size) == 0x44
    assert port.line.output == b"A"


# Transmitting


def test_characters_leave_as_they_are_written(port: Port) -> None:
    port.set_up()

    for character in b"hello\xff":
        port.write(Reg.THR, character)

    assert port.line.output == b"hello\xff"
    assert port.read(Reg.LSR) == IDLE


def test_enabling_the_thre_interrupt_raises_it(port: Port) -> None:
    port.set_up(ier=Ier.ETBEI)

    assert port.wire.level
    assert port.source() == Iir.THR_EMPTY


def test_reading_iir_takes_the_thre_interrupt_back(port: Port) -> None:
    port.set_up(ier=Ier.ETBEI)

    port.read(Reg.IIR)

    assert not port.wire.level
    assert port.source() == Iir.NONE


def test_each_write_raises_the_thre_interrupt_again(port: Port) -> None:
    port.set_up(ier=Ier.ETBEI)
    port.read(Reg.IIR)

    port.write(Reg.THR, 65)

    assert port.source() == Iir.THR_EMPTY


def test_thre_interrupt_comes_back_when_it_is_enabled_again(port: Port) -> None:
    port.set_up(ier=Ier.ETBEI)
    port.read(Reg.IIR)
    port.write(Reg.IER, Ier.ETBEI | Ier.ERBFI)
    unchanged = port.source()

    port.write(Reg.IER, 0)
    port.write(Reg.IER, Ier.ETBEI)

    assert unchanged == Iir.NONE
    assert port.source() == Iir.THR_EMPTY


def test_disabling_the_thre_interrupt_takes_it_back(port: Port) -> None:
    port.set_up(ier=Ier.ETBEI)

    port.write(Reg.IER, 0)

    assert not port.wire.level


# Receiving


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
    port.set_up()
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
    port.line.feed(b"0123456789abcdefgh")

    port.write(Reg.FCR, Fcr.ENABLE | Fcr.RESET_RX | TRIGGER_8)

    assert port.read_while_ready() == b"gh"


@pytest.mark.parametrize("fcr", [0, Fcr.RESET_RX])
def test_switching_the_fifo_off_empties_it(port: Port, fcr: int) -> None:
    port.set_up()
    port.line.feed(b"abc")

    port.write(Reg.FCR, fcr)

    assert not port.read(Reg.LSR) & Lsr.DR
    assert port.clock.next_deadline() is None


def test_fcr_bits_without_enable_are_not_programmed(port: Port) -> None:
    port.write(Reg.FCR, 0xC8)

    assert port.uart.save().fcr == 0


def test_resetting_the_transmit_fifo_loses_nothing(port: Port) -> None:
    port.set_up()
    port.write(Reg.THR, 65)
    port.line.feed(b"a")

    port.write(Reg.FCR, Fcr.ENABLE | Fcr.RESET_TX)

    assert port.line.output == b"A"
    assert port.read(Reg.RBR) == ord("a")


# Line status


def test_line_status_comes_before_data_before_thre_before_modem(port: Port) -> None:
    port.set_up(ier=0x0F, fcr=Fcr.ENABLE)
    port.write(Reg.MCR, Mcr.LOOP)
    port.write(Reg.MCR, 0)
    port.line.feed_break()

    sources = [port.source()]
    port.read(Reg.LSR)
    sources.append(port.source())
    port.read(Reg.RBR)
    sources.append(port.source())  # which takes it back
    sources.append(port.source())
    port.read(Reg.MSR)
    sources.append(port.source())

    assert sources == [Iir.LINE_STATUS, Iir.DATA, Iir.THR_EMPTY, Iir.MODEM_STATUS, Iir.NONE]


def test_overrun_comes_first_and_is_told_once(port: Port) -> None:
    port.set_up(ier=0x0F, fcr=Fcr.ENABLE)
    port.write(Reg.MCR, Mcr.LOOP)
    for character in range(FIFO_DEPTH + 2):
        port.write(Reg.THR, character)

    source = port.source()
    told, again = port.read(Reg.LSR), port.read(Reg.LSR)

    assert source == Iir.LINE_STATUS
    assert told == IDLE | Lsr.DR | Lsr.OE
    assert again == IDLE | Lsr.DR
    assert port.source() == Iir.DATA
    assert port.read_while_ready() == bytes(range(FIFO_DEPTH))


def test_overrun_without_fifo_keeps_the_last_character(port: Port) -> None:
    port.set_up(fcr=0)
    port.write(Reg.MCR, Mcr.LOOP)
    port.write(Reg.THR, 1)
    port.write(Reg.THR, 2)

    assert port.read(Reg.LSR) & Lsr.OE
    assert port.read(Reg.RBR) == 2


def test_break_is_told_when_its_character_is_the_next(port: Port) -> None:
    port.set_up(ier=Ier.ELSI)
    port.line.feed(b"a")
    port.line.feed_break()

    behind = port.read(Reg.LSR)
    port.read(Reg.RBR)
    source = port.source()
    on_top, told = port.read(Reg.LSR), port.read(Reg.LSR)

    assert behind == IDLE | Lsr.DR | Lsr.FIFO_ERROR
    assert source == Iir.LINE_STATUS
    assert on_top == IDLE | Lsr.DR | Lsr.BI | Lsr.FIFO_ERROR
    assert told == IDLE | Lsr.DR
    assert port.read(Reg.RBR) == 0


# Modem control, loopback


def test_loopback_feeds_outputs_to_inputs(port: Port) -> None:
    pairs = {Mcr.RTS: Msr.CTS, Mcr.DTR: Msr.DSR, Mcr.OUT1: Msr.RI, Mcr.OUT2: Msr.DCD}

    seen = {}
    for output in pairs:
        port.write(Reg.MCR, Mcr.LOOP | output)
        seen[output] = port.read(Reg.MSR) & 0xF0

    assert seen == pairs


def test_changes_of_modem_lines_are_told_once(port: Port) -> None:
    port.set_up(ier=Ier.EDSSI)
    port.write(Reg.MCR, Mcr.LOOP)
    high = port.wire.level
    first, second = port.read(Reg.MSR), port.read(Reg.MSR)

    assert high
    assert first == Msr.DCTS | Msr.DDSR | Msr.DDCD
    assert second == 0
    assert not port.wire.level


def test_ring_is_told_when_it_ends(port: Port) -> None:
    port.write(Reg.MCR, Mcr.LOOP | Mcr.OUT1)
    rings = port.read(Reg.MSR) & Msr.TERI
    port.write(Reg.MCR, Mcr.LOOP)

    assert rings == 0
    assert port.read(Reg.MSR) == Msr.TERI


def test_loopback_keeps_characters_inside_and_outside(port: Port) -> None:
    port.set_up()
    port.write(Reg.MCR, Mcr.LOOP)
    port.write(Reg.THR, ord("i"))
    port.line.feed(b"o")
    port.line.feed_break()

    inside = port.read_while_ready()
    port.write(Reg.MCR, 0)

    assert inside == b"i"
    assert port.line.output == b""
    assert port.read_while_ready() == b"o"


def test_out2_does_not_gate_the_interrupt(port: Port) -> None:
    port.set_up(ier=Ier.ETBEI)

    assert not port.read(Reg.MCR) & Mcr.OUT2
    assert port.wire.level


# The line's backlog


def test_backlog_is_bounded_and_room_is_announced(port: Port) -> None:
    port.set_up()

    first = port.line.feed(bytes(BACKLOG_MAX))
    second = port.line.feed(bytes(BACKLOG_MAX))
    refused = port.line.feed(b"x")
    before = port.line.rooms
    port.read(Reg.RBR)

    assert (first, second, refused) == (BACKLOG_MAX, FIFO_DEPTH, 0)
    assert before == 0
    assert port.line.rooms == 1
    assert port.line.feed(b"xy") == 1


def test_line_has_one_device(port: Port) -> None:
    with pytest.raises(ValueError, match="one device"):
        port.line.connect(port.uart)


def test_typed_ahead_input_survives_a_reset(port: Port) -> None:
    port.set_up()
    port.line.feed(b"0123456789abcdef, later")

    port.uart.reset()

    assert port.read_while_ready() == b", later"


def test_polling_guest_gets_input_after_a_reset(port: Port) -> None:
    port.set_up()
    port.line.feed(b"0123456789abcdefg")
    port.uart.reset()

    assert port.read(Reg.LSR) & Lsr.DR


# State


def test_input_moves_with_the_guest(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    paste = bytes(range(256))
    port.line.feed(paste)
    first = bytes(port.read(Reg.RBR) for _ in range(5))

    there = port.moved()

    assert first + there.read_while_ready() == paste


def test_load_gives_up_what_was_typed_ahead_here(port: Port) -> None:
    port.set_up()
    state = parse(Ns16550State, 1, dump(port.uart.save()))
    port.line.feed(bytes(FIFO_DEPTH) + bytes(BACKLOG_MAX))

    port.uart.load(state)

    assert port.read_while_ready() == b""
    assert port.line.rooms == 1


def test_timeout_goes_on_after_a_move(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"x")
    port.advance_characters(2)

    there = port.moved()
    there.advance_characters(1.9)
    early = there.wire.level
    there.advance_characters(0.2)

    assert not early
    assert there.wire.level


def test_timeout_of_a_hostile_stream_is_four_characters_at_most(port: Port) -> None:
    port.set_up(ier=Ier.ERBFI)
    port.line.feed(b"x")
    fields = {**dump(port.uart.save()), "timeout_at": (1 << 64) - 1}

    port.uart.load(parse(Ns16550State, 1, fields))
    port.advance_characters(4.1)

    assert port.source() == Iir.TIMEOUT


def test_load_leaves_the_line_to_the_controller(port: Port) -> None:
    port.uart.load(Ns16550State(ier=Ier.ETBEI, thre_pending=True))

    assert port.wire.changes == 0


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"fcr": 0x21}, "ns16550.fcr is 0x21"),
        ({"fcr": 0xC0}, "ns16550.fcr is 0xc0"),
        ({"errors": 1}, "ns16550.errors is 0x1, must be within 0x1e"),
        ({"rx": b"ab"}, "ns16550.rx holds 2 bytes, FIFO depth is 1"),
        ({"rx_breaks": 1}, "ns16550.rx_breaks is 0x1, rx holds 0 bytes"),
        ({"thre_pending": True}, "ns16550.thre_pending is set, ier is 0x0"),
        ({"timeout_pending": True, "fcr": 1}, "ns16550.timeout_at or timeout_pending is set"),
        ({"timeout_at": 5, "rx": b"a"}, "ns16550.timeout_at or timeout_pending is set"),
    ],
)
def test_state_that_no_guest_can_reach_is_refused(fields: dict[str, WireValue], text: str) -> None:
    with pytest.raises(StateError) as caught:
        parse(Ns16550State, 1, {**dump(Ns16550State()), **fields})

    assert text in str(caught.value)
