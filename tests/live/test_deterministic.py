"""`--icount`: a guest that was stopped, saved, restored or moved is bit for bit what it would have been, on every target."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from targets import TARGETS
from tests.live.machines import WAIT, guests, wait_for
from tests.live.travel import END, Outcome, Travel

SEED = int(os.environ.get("EMU_TEST_SEED", "20260101"))

Journey = Callable[[], Travel]
Interrupt = Callable[[Travel], None]

pytestmark = pytest.mark.parametrize("guest", guests(TARGETS))


@pytest.fixture
def journey(guest: str, tmp_path: Path) -> Iterator[Journey]:
    """Starts the guest anew, as often as it is called."""
    with ExitStack() as keep:
        numbers = count()

        def start() -> Travel:
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
            return Travel(guest, folder, keep)

        yield start


@cache
def undisturbed(guest: str) -> Outcome:
    """A run that nobody interrupts."""
    with TemporaryDirectory() as folder, ExitStack() as keep:
        return Travel(guest, Path(folder), keep).finish()


def moments(number: int) -> list[int]:
    """Random times of the run, in order; some time before its end, for who interrupts a running guest comes late."""
    print(f"seed {SEED}")
    return sorted(random.Random(SEED).sample(range(END * 9 // 10), number))


def expect_same(found: Outcome, wanted: Outcome) -> None:
    assert found[0].decode() == wanted[0].decode()
    differing = sum(a != b for a, b in zip(found[1], wanted[1], strict=True)) if found[1] != wanted[1] else 0
    assert not differing, f"{differing} bytes of the guest differ"


def test_two_runs_are_equal(guest: str, journey: Journey) -> None:
    output, state = undisturbed(guest)
    assert b"mem ok" in output
    assert b"journal done 12" in output
    assert b"mem churn" in output

    expect_same(journey().finish(), (output, state))


def travel(guest: str, run: Travel, interrupt: Interrupt, *, live: bool, times: int) -> None:
    for time in moments(times):
        if live:  # interrupted as it runs, at a moment that nobody can foretell
            run.start_for(END)
            wait_for(lambda: run.machine.now() >= time, "guest time passes")  # noqa: B023 - called at once
        else:
            run.run_to(time)
        interrupt(run)
    expect_same(run.finish(), undisturbed(guest))


def die(guest: str, folder: Path, times: int) -> None:
    """Have a process of its own run the guest to each of as many random moments."""
    for time in [*moments(times), END]:
        command = [sys.executable, "-m", "tests.live.travel", guest, str(folder), str(time)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, timeout=WAIT, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    expect_same(((folder / "output").read_bytes(), (folder / "end.emu").read_bytes()), undisturbed(guest))


@pytest.mark.parametrize("live", [False, pytest.param(True, marks=pytest.mark.every_target)])
@pytest.mark.parametrize("interrupt", [Travel.stop, Travel.restart, Travel.move])
def test_it_is_the_same_run_however_often_it_was_interrupted(
    guest: str, journey: Journey, interrupt: Interrupt, live: bool
) -> None:
    travel(guest, journey(), interrupt, live=live, times=5)


@pytest.mark.every_target
def test_it_is_the_same_run_however_often_its_process_was_killed(guest: str, tmp_path: Path) -> None:
    die(guest, tmp_path, times=5)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("interrupt", [Travel.stop, Travel.restart, Travel.move])
def test_it_is_the_same_run_after_fifty_interruptions(guest: str, journey: Journey, interrupt: Interrupt, live: bool) -> None:
    travel(guest, journey(), interrupt, live=live, times=50)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_it_is_the_same_run_after_fifty_killed_processes(guest: str, tmp_path: Path) -> None:
    die(guest, tmp_path, times=50)
