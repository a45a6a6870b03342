"""The goldfish interrupt controller."""

from __future__ import annotations

import pytest

from devices.goldfish_pic import INPUTS, GoldfishPic, GoldfishPicState, Reg
from emu.irq import IrqLine


class Wired:
    """A controller and the level of its output."""

    def __init__(self) -> None:
        self.output = False
        self.pic = GoldfishPic("pic", IrqLine(self._set))

    def _set(self, level: bool) -> None:
        self.output = level


@pytest.fixture
def wired() -> Wired:
    return Wired()


def test_an_input_counts_once_it_is_enabled(wired: Wired) -> None:
    wired.pic.line(5).set(True)
    before = (wired.output, wired.pic.read(Reg.PENDING, 4))

    wired.pic.write(Reg.ENABLE, 4, 1 << 5)

    assert before == (False, 0)
    assert (wired.output, wired.pic.read(Reg.PENDING, 4), wired.pic.read(Reg.STATUS, 4)) == (True, 1 << 5, 1)


def test_the_output_falls_with_the_last_input(wired: Wired) -> None:
    wired.pic.write(Reg.ENABLE, 4, 0xFFFF_FFFF)
    wired.pic.line(0).set(True)
    wired.pic.line(31).set(True)
    both = wired.pic.read(Reg.STATUS, 4)
    wired.pic.line(0).set(False)
    one = wired.output
    wired.pic.line(31).set(False)

    assert (both, one, wired.output) == (2, True, False)


def test_inputs_are_disabled_one_by_one_or_all(wired: Wired) -> None:
    wired.pic.line(1).set(True)
    wired.pic.line(2).set(True)
    wired.pic.write(Reg.ENABLE, 4, 0b110)
    wired.pic.write(Reg.DISABLE, 4, 0b010)
    one = wired.pic.read(Reg.PENDING, 4)
    wired.pic.write(Reg.DISABLE_ALL, 4, 1)

    assert (one, wired.pic.read(Reg.PENDING, 4), wired.output) == (0b100, 0, False)


def test_a_loaded_state_shows_on_the_output(wired: Wired) -> None:
    wired.pic.load(GoldfishPicState(levels=4, enabled=4))

    assert wired.output


@pytest.mark.parametrize("size", [1, 2, 8])
def test_other_widths_do_nothing(wired: Wired, size: int) -> None:
    wired.pic.write(Reg.ENABLE, size, 1)
    wired.pic.line(0).set(True)

    assert (wired.pic.read(Reg.STATUS, size), wired.output) == (0, False)


@pytest.mark.parametrize("number", [-1, INPUTS])
def test_there_are_32_inputs(wired: Wired, number: int) -> None:
    with pytest.raises(ValueError, match="there are 32"):
        wired.pic.line(number)
