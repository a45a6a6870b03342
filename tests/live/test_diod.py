"""diod's client programs, which nobody here wrote, and our server agree. Debian's packages come through apt."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from emu.errors import EmuError
from images.apt import open_suite
from tests.cli import test_serve9p
from tests.live.machines import WAIT
from tests.live.test_journeys import SEED
from tests.live.test_linux import TIMEOUT

pytestmark = [pytest.mark.linux, pytest.mark.timeout(TIMEOUT)]
served = test_serve9p.served

PACKAGES = ("diod", "libmunge2", "liblua5.1-0", "libwrap0", "libcap2")
LOAD = re.compile(r"(\d+) ops/s, (\d+) rMB/s, (\d+) wMB/s")


@pytest.fixture(scope="session")
def diod(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages' files."""
    try:
        return open_suite(tmp_path_factory.mktemp("apt"), "amd64", "bookworm").unpack(*PACKAGES)
    except EmuError as exc:
        pytest.skip(f"diod cannot be had: {exc}")


class Clients:
    """diodls and its like, run against one socket."""

    def __init__(self, diod: Path, served: Path) -> None:
        self._diod = diod
        self._socket = served

    def __call__(self, program: str, *words: str) -> bytes:
        libraries = ":".join(str(self._diod / folder / "x86_64-linux-gnu") for folder in ("lib", "usr/lib"))
        done = subprocess.run(
            [self._diod / "usr/sbin" / program, "-s", self._socket, *words],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # where diodload tells its result
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def clients(diod: Path, served: Path) -> Clients:
    return Clients(diod, served)


def test_names_are_listed(clients: Clients, tmp_path: Path) -> None:
    names = {f"name {number}" for number in range(500)}
    for name in names:
        (tmp_path / name).touch()
    assert set(clients("diodls", "-a", "/").decode().splitlines()) == names | {"socket"}


@pytest.mark.parametrize("msize", [4096, 65536, 1 << 20])
def test_files_are_read_in_messages_of_any_size(clients: Clients, tmp_path: Path, msize: int) -> None:
    content = random.Random(SEED).randbytes(3_000_001)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(content)
    assert clients("diodcat", "-a", "/", "-m", str(msize), "dir/file") == content


def test_many_threads_read_and_write_at_once(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "zero").write_bytes(bytes(1 << 20))  # what diodload reads from, and writes to
    (tmp_path / "null").touch()
    told = LOAD.search(clients("diodload", "-r", "1", "-n", "8").decode())
    assert told is not None
    assert min(map(int, told.groups())) > 0
    assert set((tmp_path / "null").read_bytes()) == {0}
