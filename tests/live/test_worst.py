"""Whatever a guest does, on any target: the process lives, says how its guest is, and ends when it is told to."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from emu.monitor.client import QmpCallError
from images import BUNDLED, TINY
from tests.live.machines import EmuProcess, wait_for

SEED = os.environ.get("EMU_TEST_SEED", "20260101")
KINDS = ("code", "registers", "devices")
START = 90  # seconds beside those of the torment: a start on a busy machine, and a round that hangs
RESETS = 3
LIVES = {"running", "paused", "internal-error", "shutdown"}


def torment(target: str, kind: str, seconds: int) -> None:
    """tests.live.worst in a process of its own; what it told last goes into the failure."""
    command = [sys.executable, "-m", "tests.live.worst", target, kind, str(seconds), SEED]
    print(*command[1:])
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=Path(__file__).parents[2],
        timeout=seconds + START,
        errors="replace",
        check=False,
    )
    print(ended.stdout[-4000:])
    assert ended.returncode == 0


@pytest.mark.every_target
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TINY)
def test_a_guest_that_does_its_worst_is_survived(target: str, kind: str) -> None:
    torment(target, kind, 1)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TINY)
def test_a_guest_that_does_its_worst_for_a_minute_is_survived(target: str, kind: str) -> None:
    torment(target, kind, 60 // len(KINDS))


def scramble(elf: bytes, chance: random.Random) -> bytes:
    """An ELF file with random bytes in the place of all that is loaded."""
    scrambled = bytearray(elf)
    for segment in ELFFile(BytesIO(elf)).iter_segments("PT_LOAD"):
        start, size = segment["p_offset"], segment["p_filesz"]
        scrambled[start : start + size] = chance.randbytes(size)
    return bytes(scrambled)


@pytest.mark.every_target
@pytest.mark.parametrize("target", TINY)
def test_the_monitor_answers_whatever_the_guest_executes(target: str, tmp_path: Path) -> None:
    chance = random.Random(f"{SEED} {target}")
    print(f"seed {SEED}")
    elf = BUNDLED[f"{target}-tiny"].read()
    kernel = tmp_path / "kernel"
    kernel.write_bytes(scramble(elf, chance))
    machine = EmuProcess(tmp_path, "one", target, "--kernel", str(kernel), "--memory", "16M")
    try:
        wait_for(lambda: machine.qmp_path.exists(), "the monitor")
        try:
            for _ in range(RESETS):
                assert machine.status in LIVES
                assert machine.monitor("info status").startswith("VM status: ")
                assert machine.monitor("info registers")
                another = tmp_path / "another"  # in one step, for the guest may reset itself at any time
                another.write_bytes(scramble(elf, chance))
                another.rename(kernel)
                machine.monitor("system_reset")
                machine.monitor("cont")
            machine.monitor("quit")
        except QmpCallError:  # the guest has switched itself off: a PC does that by HLT without interrupts
            assert target in ("i386", "x86_64")
        assert machine.wait_exit() == 0, machine.errors
        assert "Traceback" not in machine.errors
    finally:
        machine.close()
