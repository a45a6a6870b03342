"""The PL011: its line, its interrupts, its input, and its state."""

from __future__ import annotations

import pytest

from devices.pl011 import CR_LOOPBACK, DR_BREAK, RSR_BREAK, RSR_OVERRUN, Fr, Int, Pl011, Pl011State, Reg
from emu.chardev import BACKLOG_MAX
from emu.errors import StateError
from migration.vmstate import Wire as WireValue
from migration.vmstate import dump, parse
from tests.devices.fakes import FakeClock, MemoryChardev, Wire

BIT_NS = 1_000_000_000 // 115_200
WORD_8_FIFO = 0x70
INPUT = Int.RX | Int.RT


class Port:
    """A UART, its line, its wire, and a driver that knows the registers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.line = MemoryChardev()
        self.wire = Wire()
        self.uart = Pl011("serial", self.wire.irq, self.line, self.clock)

    def read(self, register: int) -> int:
        return self.uart.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.uart.write(register, 4, value)

    def set_up(self, *, imsc: int = 0, lcr_h: int = WORD_8_FIFO) -> Port:
        self.write(Reg.IBRD, 13)
        self.write(Reg.FBRD, 1)
        self.write(Reg.LCR_H, lcr_h)
        self.write(Reg.CR, 0x301)
        self.write(Reg.IMSC, imsc)
        return self

    def advance_bits(self, bits: float) -> None:
        self.clock.advance(round(bits * BIT_NS))

    def serve(self) -> bytes:
        """What a driver reads that is interrupted, until there has been no interrupt for a while."""
        data = bytearray()
        for _quiet in range(3):
            while self.wire.level:
                while not self.read(Reg.FR) & Fr.RXFE:
                    data.append(self.read(Reg.DR))
                self.advance_bits(10)
            self.advance_bits(40)
        return bytes(data)

    def moved(self) -> Port:
        """Another process's port after a migration from this one."""
        there = Port()
        there.clock.load(self.clock.save())
        there.uart.load(parse(Pl011State, 1, dump(self.uart.save())))
        there.wire.level = self.wire.level
        there.clock.start()
        return there


@pytest.fixture
def port() -> Port:
    return Port()


def test_output_goes_out_at_once(port: Port) -> None:
    for character in b"hello":
        port.write(Reg.DR, character)

    assert port.line.output == b"hello"
    assert port.read(Reg.FR) & Fr.TXFE


def test_the_transmitter_interrupts_after_output_until_it_is_cleared(port: Port) -> None:
    port.set_up(imsc=Int.TX)
    quiet = port.wire.level
    port.write(Reg.DR, 65)
    raised = port.wire.level, port.read(Reg.MIS)

    port.write(Reg.ICR, Int.TX)

    assert (quiet, raised, port.wire.level) == (False, (True, Int.TX), False)


@pytest.mark.parametrize(("ifls", "level"), [(0x00, 2), (0x08, 4), (0x10, 8), (0x18, 12), (0x20, 14)])
def test_input_interrupts_at_its_level_and_until_below(port: Port, ifls: int, level: int) -> None:
    port.write(Reg.IFLS, ifls)
    port.set_up(imsc=Int.RX)
    port.line.feed(bytes(level - 1))
    below = port.wire.level
    port.line.feed(b"!")
    reached = port.read(Reg.MIS)
    port.read(Reg.DR)

    assert (below, reached, port.wire.level) == (False, Int.RX, False)


def test_without_fifos_each_character_interrupts(port: Port) -> None:
    port.set_up(imsc=INPUT, lcr_h=0x60)

    port.line.feed(b"ab")

    assert port.wire.level
    assert port.read(Reg.FR) & Fr.RXFF
    assert port.serve() == b"ab"


def test_input_below_the_level_interrupts_after_32_bit_times(port: Port) -> None:
    port.set_up(imsc=INPUT)
    port.line.feed(b"x")
    port.advance_bits(31.9)
    early = port.wire.level
    port.advance_bits(0.2)

    assert not early
    assert port.read(Reg.MIS) == Int.RT
    assert port.read(Reg.DR) == ord("x")
    assert not port.wire.level


def test_each_character_and_each_read_puts_the_timeout_off(port: Port) -> None:
    port.set_up(imsc=INPUT)
    port.line.feed(b"xy")
    port.advance_bits(20)
    port.line.feed(b"z")
    port.advance_bits(20)
    port.read(Reg.DR)
    port.advance_bits(20)
    put_off = port.wire.level
    port.advance_bits(13)

    assert (put_off, port.wire.level) == (False, True)


def test_long_paste_comes_whole_and_in_order(port: Port) -> None:
    port.set_up(imsc=INPUT)
    paste = bytes(range(256)) * 4

    taken = port.line.feed(paste)

    assert taken == len(paste)
    assert port.serve() == paste


def test_guest_that_polls_gets_one_character_at_a_time(port: Port) -> None:
    port.set_up()
    port.line.feed(b"abc")
    data = bytearray()
    for _ in range(6):
        if not port.read(Reg.FR) & Fr.RXFE:
            data.append(port.read(Reg.DR))
        port.advance_bits(5)

    assert bytes(data) == b"abc"


def test_driver_that_empties_the_fifo_as_it_starts_loses_one_character_at_most(port: Port) -> None:
    port.line.feed(b"typed ahead")
    port.set_up()
    for _ in range(32):  # as Linux's does
        if not port.read(Reg.FR) & Fr.RXFE:
            port.read(Reg.DR)
    port.write(Reg.IMSC, INPUT)
    port.advance_bits(20)

    assert port.serve() == b"yped ahead"


def test_switching_the_fifos_empties_them_and_input_waits_outside(port: Port) -> None:
    port.set_up(imsc=INPUT)
    port.line.feed(b"01234567, more")

    port.write(Reg.LCR_H, 0x60)

    assert port.serve() == b", more"


def test_a_break_is_told_with_its_character(port: Port) -> None:
    port.set_up(imsc=Int.BE)

    port.line.feed_break()

    assert port.read(Reg.MIS) == Int.BE
    assert port.read(Reg.DR) == DR_BREAK
    assert port.read(Reg.RSR) == RSR_BREAK
    port.write(Reg.RSR, 0)
    assert port.read(Reg.RSR) == 0


def test_loopback_cuts_the_line_off_and_overruns(port: Port) -> None:
    port.set_up(lcr_h=0x60)
    port.write(Reg.CR, 0x301 | CR_LOOPBACK)
    port.line.feed(b"outside")

    port.write(Reg.DR, ord("a"))
    port.write(Reg.DR, ord("b"))

    assert port.line.output == b""
    assert port.read(Reg.RIS) & Int.OE
    assert port.read(Reg.DR) == ord("a")
    assert port.read(Reg.RSR) == RSR_OVERRUN


@pytest.mark.parametrize(
    ("register", "written", "read"),
    [
        (Reg.ILPR, 0x1FF, 0xFF),
        (Reg.IBRD, 0x1FFFF, 0xFFFF),
        (Reg.FBRD, 0xFF, 0x3F),
        (Reg.LCR_H, 0x1FF, 0xFF),
        (Reg.CR, 0x1FFFF, 0xFFFF),
        (Reg.IFLS, 0xFF, 0x3F),
        (Reg.IMSC, 0xFFFF, 0x7FF),
        (Reg.DMACR, 0xFF, 7),
        (Reg.FR, 0, Fr.CTS | Fr.DSR | Fr.DCD | Fr.TXFE | Fr.RXFE),
        (0x4C, 0xFF, 0),
    ],
)
def test_registers_keep_the_bits_they_have(port: Port, register: int, written: int, read: int) -> None:
    port.write(register, written)

    assert port.read(register) == read


def test_a_driver_finds_out_what_it_drives(port: Port) -> None:
    peripheral, cell = (sum(port.read(at + 4 * n) << 8 * n for n in range(4)) for at in (0xFE0, 0xFF0))

    assert (peripheral & 0xFFFFF, cell) == (0x41011, 0xB105F00D)


def test_backlog_is_bounded_and_room_is_announced(port: Port) -> None:
    port.set_up(imsc=INPUT)

    first, second = port.line.feed(bytes(BACKLOG_MAX)), port.line.feed(bytes(BACKLOG_MAX))
    before = port.line.rooms
    port.serve()

    assert (first, second, before) == (BACKLOG_MAX, 8, 0)
    assert port.line.rooms == 1


def test_input_moves_with_the_guest(port: Port) -> None:
    port.set_up(imsc=INPUT)
    paste = bytes(range(256))
    port.line.feed(paste)
    first = bytes(port.read(Reg.DR) for _ in range(5))

    there = port.moved()
    there.advance_bits(40)

    assert first + there.serve() == paste


def test_what_waits_for_its_character_time_comes_in_after_a_move(port: Port) -> None:
    port.set_up(imsc=INPUT, lcr_h=0x60)
    port.line.feed(b"ab")
    port.read(Reg.DR)

    there = port.moved()
    there.advance_bits(10)

    assert there.read(Reg.DR) == ord("b")


def test_times_of_a_hostile_stream_are_bounded(port: Port) -> None:
    port.set_up(imsc=INPUT)
    port.line.feed(b"x")
    fields = {**dump(port.uart.save()), "timeout_at": (1 << 64) - 1, "next_at": (1 << 64) - 1}

    port.uart.load(parse(Pl011State, 1, fields))
    port.advance_bits(33)

    assert port.read(Reg.MIS) == Int.RT
    assert port.uart.save().next_at is None


def test_typed_ahead_input_survives_a_reset(port: Port) -> None:
    port.set_up(imsc=INPUT)
    port.line.feed(b"01234567, later")

    port.uart.reset()
    port.set_up(imsc=INPUT)

    assert port.serve() == b", later"


def test_load_leaves_the_line_to_the_controller(port: Port) -> None:
    port.uart.load(Pl011State(imsc=Int.TX, latched=Int.TX))

    assert port.wire.changes == 0


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"rx": b"ab"}, "pl011.rx holds 2 bytes, FIFO depth is 1"),
        ({"rx_breaks": 1}, "pl011.rx_breaks is 0x1, rx holds 0 bytes"),
        ({"latched": 0x10}, "pl011.latched is 0x10, bit 0x10 must be 0"),
        ({"latched": 0x40}, "pl011.timeout_at or a timeout in latched is set"),
        ({"timeout_at": 5}, "pl011.timeout_at or a timeout in latched is set"),
    ],
)
def test_state_that_no_guest_can_reach_is_refused(fields: dict[str, WireValue], text: str) -> None:
    with pytest.raises(StateError) as caught:
        parse(Pl011State, 1, {**dump(Pl011State()), **fields})

    assert text in str(caught.value)
