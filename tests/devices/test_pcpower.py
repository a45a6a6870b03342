"""How a guest ends or restarts a PC."""

from __future__ import annotations

import pytest

from devices.pcpower import PcPower, Port


@pytest.mark.parametrize(
    ("port", "size", "value", "expected"),
    [
        (Port.KEYBOARD, 1, 0xFE, ["reset"]),
        (Port.KEYBOARD, 1, 0xD1, []),
        (Port.RESET_CONTROL, 1, 0x06, ["reset"]),
        (Port.RESET_CONTROL, 1, 0x02, []),
        (Port.PM1A_CNT, 2, 0x2000, [0]),
        (Port.PM1A_CNT, 2, 0x1C00, []),
        (Port.DEBUG_EXIT, 1, 0, [1]),
        (Port.DEBUG_EXIT, 1, 3, [7]),
    ],
)
def test_each_port_does_its_own(port: Port, size: int, value: int, expected: list[object]) -> None:
    done: list[object] = []
    power = PcPower("power", on_power_off=done.append, on_reset=lambda: done.append("reset"))

    power.write(port, size, value)

    assert done == expected


def test_the_reset_bit_resets_when_it_rises() -> None:
    done: list[str] = []
    power = PcPower("power", on_power_off=lambda _code: None, on_reset=lambda: done.append("reset"))

    power.write(Port.RESET_CONTROL, 1, 0x06)
    power.write(Port.RESET_CONTROL, 1, 0x06)

    assert done == ["reset"]
    assert power.read(Port.RESET_CONTROL, 1) == 0x06
    assert power.read(Port.KEYBOARD, 1) == 0xFF
