"""Debian's kernel under `--icount`: every boot is the same, bit for bit, whatever happens to the process on the way."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from emu.errors import EmuError
from images.linux import LinuxImage, fetch
from tests.live.linux import SHELL, LinuxGuest
from tests.live.machines import wait_for

SEED = int(os.environ.get("EMU_TEST_SEED", "20260101"))
END = 25_000_000_000  # ns of guest time; riscv64's shell is there after some 16 s
BOOT = 300  # seconds; an idle host takes 15

pytestmark = [pytest.mark.linux, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", params=("riscv64", "arm64", "armhf", "amd64"))
def image(request: pytest.FixtureRequest) -> LinuxImage:
    """Debian's kernel and our initramfs."""
    try:
        return fetch(str(request.param))
    except EmuError as exc:
        pytest.skip(f"Debian's kernel cannot be had: {exc}")


def boot(folder: Path, image: LinuxImage, *, restarts: Sequence[int]) -> tuple[str, str]:
    """Boot and stop at END, killed and restored at each of `restarts` (ns); the console's text and the last snapshot's hash."""
    folder.mkdir()
    options = ("--icount", "--paused", "--memory", "256M", "--snapshots", str(folder))
    machine, text = LinuxGuest(folder, "m0", image, *options), ""
    try:
        for number, time in enumerate([*restarts, END], 1):
            console = machine.console
            machine.monitor(f"stop_at {time}")
            machine.qmp("cont")
            wait_for(lambda: machine.ended or machine.status == "paused", "the guest stops", BOOT)  # noqa: B023 - called at once
            assert not machine.ended, machine.errors
            assert machine.monitor("savevm way") == ""
            machine.process.kill()
            text += console.read_to_end()
            machine.close()
            if time != END:
                machine = LinuxGuest(folder, f"m{number}", image, *options, "--loadvm", "way")
    finally:
        machine.close()
    with (folder / "way.emu").open("rb") as file:
        return text, hashlib.file_digest(file, "sha256").hexdigest()


def test_a_boot_is_the_same_whether_or_not_its_process_is_killed_on_the_way(image: LinuxImage, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    restarts = sorted(random.Random(SEED).sample(range(END // 2), 3))

    text, state = boot(tmp_path / "one", image, restarts=())
    again, same = boot(tmp_path / "two", image, restarts=restarts)

    assert SHELL in text
    assert text == again
    assert state == same
