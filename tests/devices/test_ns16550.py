"""The UART's registers as a 16550A driver sees them: transmitter, line status, modem control."""

from __future__ import annotations

import pytest

from devices.ns16550 import FIFO_DEPTH, Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr, Reg
from migration.vmstate import dump
from tests.devices.uart import IDLE, Port

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
    port.set_up(ier=Ier.ELSI | Ier.ERBFI)
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
