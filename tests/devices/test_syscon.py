"""The test finisher: how a guest ends its machine."""

from __future__ import annotations

import pytest

from devices.syscon import Finish, Reg, Syscon, SysconState


class Machine:
    """Notes how it was ended."""

    def __init__(self) -> None:
        self.ended: list[object] = []
        self.syscon = Syscon("test", on_power_off=self.ended.append, on_reset=lambda: self.ended.append("reset"))


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_pass_powers_off_with_code_0(machine: Machine) -> None:
    machine.syscon.write(Reg.FINISHER, 4, Finish.PASS)

    assert machine.ended == [0]


def test_pass_ignores_a_code(machine: Machine) -> None:
    machine.syscon.write(Reg.FINISHER, 4, 7 << 16 | Finish.PASS)

    assert machine.ended == [0]


@pytest.mark.parametrize("code", [0, 1, 42, 0xFFFF])
def test_fail_powers_off_with_its_code(machine: Machine, code: int) -> None:
    machine.syscon.write(Reg.FINISHER, 4, code << 16 | Finish.FAIL)

    assert machine.ended == [code]


def test_reset_resets(machine: Machine) -> None:
    machine.syscon.write(Reg.FINISHER, 4, Finish.RESET)

    assert machine.ended == ["reset"]


def test_halfword_store_counts(machine: Machine) -> None:
    machine.syscon.write(Reg.FINISHER, 2, Finish.PASS)

    assert machine.ended == [0]


@pytest.mark.parametrize(
    ("offset", "size", "value"), [(0, 4, 0), (0, 4, 0x5554), (4, 4, 0x5555), (0, 1, 0x55), (0, 8, 0x5555), (0xFFC, 4, 0x7777)]
)
def test_everything_else_does_nothing(machine: Machine, offset: int, size: int, value: int) -> None:
    machine.syscon.write(offset, size, value)

    assert machine.ended == []
    assert machine.syscon.read(offset, size) == 0


def test_nothing_is_kept(machine: Machine) -> None:
    machine.syscon.write(Reg.FINISHER, 4, Finish.RESET)

    assert machine.syscon.save() == SysconState()
