"""The TC1797's system control unit: how a guest waits."""

from __future__ import annotations

import pytest

from devices.tc1797_scu import PMST_RUN, Reg, Tc1797Scu


class Waits:
    """Counts how often the CPU was told to wait."""

    def __init__(self) -> None:
        self.count = 0
        self.scu = Tc1797Scu("scu", on_idle=self.wait)

    def wait(self) -> None:
        self.count += 1


@pytest.mark.parametrize("reqslp", [1, 2], ids=["idle", "sleep"])
def test_a_request_has_the_cpu_wait(reqslp: int) -> None:
    waits = Waits()

    waits.scu.write(Reg.PMCSR, 4, reqslp)

    assert waits.count == 1


@pytest.mark.parametrize(("offset", "value"), [(Reg.PMCSR, 0), (Reg.PMCSR, 3), (Reg.PMCSR, 0x100), (0x5B4, 1), (0, 1)])
def test_nothing_else_does(offset: int, value: int) -> None:
    waits = Waits()

    waits.scu.write(offset, 4, value)

    assert waits.count == 0


def test_a_cpu_that_reads_finds_itself_running() -> None:
    scu = Waits().scu

    assert (scu.read(Reg.PMCSR, 4), scu.read(0, 4)) == (PMST_RUN, 0)
