"""A stream of one target, or of another CPU model, is refused by another in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import cast

import pytest

from emu.config import MachineConfig
from emu.errors import EmuError, MigrationError
from emu.machine import Machine
from images import BUNDLED
from migration.received import check_same_machine
from migration.snapshot import load_snapshot, save_snapshot
from migration.vmstate import Wire
from targets import TARGETS, find_target
from tests.devices.fakes import MemoryChardev

# What the stream calls each target's CPU. A target that gets another model gives it another name here, and refuses the old.
CPUS = {
    "arm": "arm,cortex-a15",
    "arm64": "arm,cortex-a57",
    "riscv32": "rv32imafdc",
    "riscv64": "rv64imafdc",
}
UUID = "00000000-0000-4000-8000-000000000000"

pytestmark = pytest.mark.every_target


def build(target: str, folder: Path) -> Machine:
    """A machine of `target`, as like the others as can be."""
    kernel = folder / f"{target}.elf"
    kernel.write_bytes(BUNDLED[f"{target}-tiny"].read())
    config = MachineConfig(target=target, memory=16 << 20, kernel=kernel, uuid=UUID, snapshots=folder)
    return Machine(config, find_target(target), MemoryChardev())


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Machine]]:
    folder = tmp_path_factory.mktemp("machines")
    built = {target: build(target, folder) for target in TARGETS}
    yield built
    for machine in built.values():
        machine.close()


def assert_one_sentence(refused: pytest.ExceptionInfo[EmuError]) -> None:
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 200


def test_every_target_refuses_the_stream_of_every_other(machines: Mapping[str, Machine]) -> None:
    for one, other in permutations(machines, 2):
        with pytest.raises(
            MigrationError, match=f"differ in target: the source has '{one}', this one has '{other}'"
        ) as refused:
            check_same_machine(machines[one].configuration(), machines[other].configuration(), uuid=True)
        assert_one_sentence(refused)


@pytest.mark.parametrize("target", TARGETS)
def test_another_model_of_the_same_target_is_refused(machines: Mapping[str, Machine], target: str) -> None:
    ours = machines[target].configuration()
    board = cast("dict[str, Wire]", ours["board"])
    assert board["cpu"] == CPUS.get(target, target)  # the only model there is bears the target's name

    with pytest.raises(MigrationError, match=r"the machines differ in board\.cpu: the source has 'another'") as refused:
        check_same_machine({**ours, "board": {**board, "cpu": "another"}}, ours, uuid=True)

    assert_one_sentence(refused)


def test_a_snapshot_of_another_target_changes_nothing(machines: Mapping[str, Machine], tmp_path: Path) -> None:
    """Targets in a ring, each with the snapshot of the one before: from the file, not from a configuration alone."""
    names = list(machines)
    for name in names:
        save_snapshot(machines[name], tmp_path / name)
    for name, before in zip(names, [names[-1], *names[:-1]], strict=True):
        machine = machines[name]
        pc = machine.board.engine.pc
        with pytest.raises(MigrationError, match="differ in target") as refused:
            load_snapshot(machine, tmp_path / before)
        assert_one_sentence(refused)
        assert machine.board.engine.pc == pc
        load_snapshot(machine, tmp_path / name)
