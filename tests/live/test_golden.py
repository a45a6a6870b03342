"""Streams that earlier versions wrote are taken in by this one, and what this one writes is among them."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from emu.errors import EmuError
from emu.monitor.client import QmpCallError
from tests.golden.record import DISK_SIZE, GOES_ON, GUEST, INSIDE, OPTIONS, TAG, golden_streams
from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for
from tests.live.test_journeys import type_in

STREAMS = golden_streams()
IMAGES = golden_streams(suffix=INSIDE)

BROKEN = """{error}

tests/golden/{name} was written by an earlier version of this program and must stay loadable: do not record it again.
 - Did a state change? Leave its fields as they are, add new ones with since=, and raise VMSTATE's version, not its minimum.
 - Did the machine change? What was added must be absent unless an option asks for it.
 - Did a frame, and with it stream.VERSION, change? Find a way that needs no new VERSION, if there is one.
Only where old streams are given up on purpose, and the release says so, is the file deleted."""

CHANGED = """what a stream holds has changed since tests/golden/{name} was recorded:
{changes}
A section whose fields changed takes the next VMSTATE version, with its new fields since= that; a frame that changed takes the
next stream.VERSION. Then record a stream and commit it beside the old ones: python -m tests.golden.record"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., EmuProcess]]:
    """Starts the machine of the golden streams: start(*options)."""
    (tmp_path / "disk.img").write_bytes(bytes(DISK_SIZE))
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> EmuProcess:
            machine = EmuProcess(tmp_path, "golden", GUEST, *OPTIONS, "--drive", str(tmp_path / "disk.img"), *options)
            stack.callback(machine.close)
            return machine

        yield start


def unpack(stream: Path, folder: Path) -> Path:
    """A golden stream as it was written."""
    path = folder / "stream"
    path.write_bytes(gzip.decompress(stream.read_bytes()))
    return path


def await_paused(machine: EmuProcess) -> None:
    """Wait for the guest; an AssertionError with what the process said when it gave up."""

    def paused() -> bool:
        with contextlib.suppress(QmpCallError):  # it may end while it is asked
            return machine.status == "paused"
        return False

    wait_for(lambda: machine.ended or paused(), "the guest comes in")
    assert not machine.ended, machine.errors


@pytest.mark.parametrize("stream", STREAMS, ids=[stream.name for stream in STREAMS])
def test_a_stream_of_an_earlier_version_is_taken_in(stream: Path, start: Callable[..., EmuProcess], tmp_path: Path) -> None:
    machine = start("--incoming", f"file:{unpack(stream, tmp_path)}")
    try:
        await_paused(machine)
        machine.qmp("cont")
        assert_it_goes_on(machine, records=2)  # the stream's disk did not come with it
    except (AssertionError, EmuError) as exc:
        raise pytest.fail.Exception(BROKEN.format(error=exc, name=stream.name), pytrace=False) from None


@pytest.mark.parametrize("image", IMAGES, ids=[image.name for image in IMAGES])
def test_a_snapshot_that_an_earlier_version_left_in_a_disk_is_loaded(
    image: Path, start: Callable[..., EmuProcess], tmp_path: Path
) -> None:
    unpack(image, tmp_path).rename(tmp_path / "disk.img")
    machine = start("--loadvm", TAG)
    try:
        wait_for(lambda: machine.ended or machine.qmp_path.exists(), "the machine starts")
        assert not machine.ended, machine.errors
        assert_it_goes_on(machine, records=5)
    except (AssertionError, EmuError) as exc:
        raise pytest.fail.Exception(BROKEN.format(error=exc, name=image.name), pytrace=False) from None


def assert_it_goes_on(machine: EmuProcess, *, records: int) -> None:
    """The guest ends what it was doing, and finds so many records in its journal after two more."""
    for line in GOES_ON:
        machine.console.expect(line, WAIT)
    type_in(machine.console, "info", r"boots=1\r(?s:.*)bootargs=golden\r")
    type_in(machine.console, "blk journal 2", f"journal done {records}\r")
    type_in(machine.console, "rand", "rand [0-9a-f]{32}")
    machine.console.send_line("off")
    assert machine.wait_exit() == 0


def versions(stream: Path) -> dict[str, dict[str, object]]:
    """The type, version and fields of each section in a stream."""
    command = [sys.executable, "-m", "emu.cli.main", "analyze", str(stream), "--full"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=WAIT, cwd=Path(__file__).parents[2])
    shown = json.loads(done.stdout)
    assert "error" not in shown, CHANGED.format(name=STREAMS[-1].name, changes=f" - {shown['error']}")
    return cast("dict[str, dict[str, object]]", shown["description"]["sections"])


def test_what_this_version_writes_was_recorded(start: Callable[..., EmuProcess], tmp_path: Path) -> None:
    assert STREAMS, "there is no golden stream; record one: python -m tests.golden.record"
    newest = versions(unpack(STREAMS[-1], tmp_path))
    machine = start()
    machine.console.expect(PROMPT, WAIT)
    assert machine.migrate(f"file:{tmp_path / 'fresh'}")["status"] == "completed"

    fresh = versions(tmp_path / "fresh")

    changes = [change for name in fresh | newest if (change := compare(name, newest.get(name), fresh.get(name)))]
    assert not changes, CHANGED.format(name=STREAMS[-1].name, changes="\n".join(changes))


def compare(name: str, was: dict[str, object] | None, now: dict[str, object] | None) -> str:
    """A line that tells what changed in a section; empty when nothing did."""
    if was == now:
        return ""
    if was is None or now is None:
        return f" - {name} is {'new' if was is None else 'gone'}"
    if was["version"] != now["version"]:
        return f" - {name} has version {now['version']}, had {was['version']}"
    return f" - {name} has other fields or limits, and still version {now['version']}: it needs the next"
