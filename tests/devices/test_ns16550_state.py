"""The UART's state: it moves with its input, and nothing else gets in."""

from __future__ import annotations

import pytest

from devices.ns16550 import FIFO_DEPTH, Ier, Iir, Ns16550State, Reg
from emu.chardev import BACKLOG_MAX
from emu.errors import StateError
from migration.vmstate import Wire as WireValue
from migration.vmstate import dump, parse
from tests.devices.uart import Port


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
