"""RAM as it was at one moment, read while it is written on."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emu.errors import EmuError
from emu.ram import PAGE, Ram
from emu.ramcopy import RamCopy

PAGES = 1000


def rams() -> list[Ram]:
    made = [Ram("low", 0, PAGE), Ram("high", 0x8000_0000, PAGES * PAGE)]
    made[0].words[:] = 5
    made[1].words[:] = np.arange(PAGES, dtype=np.uint64)[:, None]
    return made


def read(copy: RamCopy, name: str, first: int, count: int) -> list[int]:
    """The first word of each page."""
    pages = np.frombuffer(copy.read(name, first, count * PAGE), np.uint64).reshape(count, -1)
    assert (pages == pages[:, :1]).all()
    return [int(word) for word in pages[:, 0]]


def test_a_copy_shows_the_moment_it_was_made() -> None:
    low, high = made = rams()
    copy = RamCopy(made)
    low.words[:] = 99
    high.words[:] = 99

    pages = read(copy, "high", 3, PAGES - 3), read(copy, "low", 0, 1)
    copy.close()

    assert pages == (list(range(3, PAGES)), [5])
    assert int(high.words.max()) == 99


def test_what_the_host_reads_into_ram_is_not_seen_either(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff" * PAGE)
    made = rams()
    copy = RamCopy(made)
    with (tmp_path / "file").open("rb") as file:
        os.preadv(file.fileno(), [made[0].view], 0)

    page = read(copy, "low", 0, 1)
    copy.close()

    assert page == [5]


def test_a_copy_that_is_gone_is_an_error() -> None:
    copy = RamCopy(rams())
    (child,) = children(os.getpid())
    os.kill(child, signal.SIGKILL)

    with pytest.raises(EmuError, match="the process that holds the copy of the guest's RAM is gone"):
        read(copy, "high", 0, PAGES)
    copy.close()
    copy.close()

    assert children(os.getpid()) == []


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def test_a_copy_holds_no_file_of_its_makers(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb"):
        copy = RamCopy(rams())
        (child,) = children(os.getpid())
        read(copy, "low", 0, 1)  # it serves by now
        held = [str(entry.readlink()) for entry in Path(f"/proc/{child}/fd").iterdir()]
        copy.close()

    assert len(held) == 1
    assert held[0].startswith("socket:")


KILLED = """
import os
from emu.ram import Ram
from emu.ramcopy import RamCopy
copy = RamCopy([Ram("ram", 0, 4096)])
print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_copy_ends_with_its_maker() -> None:
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=30, check=False)

    assert done.returncode == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        ended = select.poll()
        ended.register(os.pidfd_open(int(done.stdout)), select.POLLIN)
        assert ended.poll(10_000)
