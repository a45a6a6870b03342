"""Time that is counted: where a slice of a deterministic machine ends, and who may come in there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.config import MachineConfig
from emu.errors import MigrationError
from emu.icount import NS_PER_INSTRUCTION, QUANTUM
from emu.machine import Machine
from emu.runstate import RunState, RunStateError
from images import bundled
from targets import find_target
from tests.devices.fakes import MemoryChardev
from tests.live.machines import wait_for

MIB = 1 << 20
COUNT = bytes.fromhex("93831300 6ff0dfff")  # addi x7, x7, 1; j .-4
HOUR = 3600 * 1_000_000_000

Build = Callable[[Path], Machine]


@pytest.fixture
def console() -> MemoryChardev:
    return MemoryChardev()


@pytest.fixture
def build(tmp_path: Path, console: MemoryChardev) -> Iterator[Build]:
    """Builds a deterministic machine for a kernel."""
    machines: list[Machine] = []

    def begin(kernel: Path) -> Machine:
        config = MachineConfig(target="riscv64", memory=16 * MIB, kernel=kernel, icount=True, snapshots=tmp_path)
        machines.append(Machine(config, find_target("riscv64"), console))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


@pytest.fixture
def counter(build: Build, tmp_path: Path) -> Machine:
    """A guest that counts its rounds of two instructions in x7."""
    (tmp_path / "kernel").write_bytes(COUNT)
    return build(tmp_path / "kernel")


def run_to(machine: Machine, time: int) -> None:
    machine.stop_at(time)
    machine.cont()
    wait_for(lambda: machine.state is RunState.PAUSED, "the guest stops")


@pytest.mark.parametrize("instructions", [1, 2, 1001, 1_000_000])
def test_it_stops_at_the_very_instruction(counter: Machine, instructions: int) -> None:
    run_to(counter, instructions * NS_PER_INSTRUCTION)

    assert counter.now() == instructions * NS_PER_INSTRUCTION
    assert counter.call(counter.board.cpu.registers)["x7/t2"] == (instructions + 1) // 2


def test_it_stops_again_further_on(counter: Machine) -> None:
    for instructions in (1, 7, 8, 123_457):
        run_to(counter, instructions * NS_PER_INSTRUCTION)

    assert counter.call(counter.board.cpu.registers)["x7/t2"] == (123_457 + 1) // 2


def test_it_does_not_stop_in_the_past(counter: Machine) -> None:
    run_to(counter, 100)

    with pytest.raises(RunStateError, match="cannot be stopped at 90 ns, its time is 100 ns"):
        counter.stop_at(90)


def test_a_stop_that_was_called_off_does_not_come(counter: Machine) -> None:
    counter.stop_at(100)
    counter.stop_at(None)
    counter.cont()
    counter.stop()

    assert counter.now() > 100


def test_timers_fire_at_their_instruction_and_one_set_for_the_present_at_once(counter: Machine) -> None:
    fired: list[int] = []

    def due() -> None:
        fired.append(counter.now())
        if len(fired) < 3:
            timer.arm(counter.now())

    timer = counter._clock.timer(due)
    counter.call(lambda: timer.arm(1000))
    run_to(counter, 2000)

    assert fired == [1000, 1000, 1000]


def test_outsiders_come_in_at_the_end_of_a_quantum(counter: Machine) -> None:
    counter.cont()

    moments = [counter.call(counter.now) for _ in range(3)]
    counter.stop()

    assert [moment % QUANTUM for moment in (*moments, counter.now())] == [0, 0, 0, 0]


def test_a_snapshot_of_a_counted_machine_is_refused_by_another(counter: Machine, tmp_path: Path) -> None:
    counter.savevm("counted")
    config = MachineConfig(target="riscv64", memory=16 * MIB, kernel=tmp_path / "kernel", snapshots=tmp_path)
    other = Machine(config, find_target("riscv64"), MemoryChardev())
    try:
        with pytest.raises(MigrationError, match="the machines differ: only the source has icount"):
            other.loadvm("counted")
    finally:
        other.close()


def test_an_idle_guest_does_not_wait_for_its_timer(build: Build, console: MemoryChardev) -> None:
    with bundled("riscv64-tiny").kernel() as kernel:
        machine = build(kernel)
        machine.call(lambda: console.feed(b"sleep 3600000\ninfo\n"))

        run_to(machine, HOUR + HOUR // 60)

    assert b"slept 3600000 ms" in console.output
