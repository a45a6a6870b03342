"""Guest output: all of it arrives, and a reader who stops does not stop the vCPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from emu.cli.outlet import KEPT, LIMIT, Outlet

PATIENCE = 10.0  # seconds


@pytest.fixture
def outlet() -> Iterator[Outlet]:
    outlet = Outlet()
    yield outlet
    outlet.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    with ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        yield reader, writer


def read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


def test_output_arrives_in_order(outlet: Outlet, pipe: tuple[int, int]) -> None:
    outlet.attach(pipe[1])

    for number in range(100):
        outlet.write(b"%02d" % number)

    assert read_exactly(pipe[0], 200) == b"".join(b"%02d" % number for number in range(100))


def test_all_that_a_stalled_reader_left_arrives_when_it_reads_again(outlet: Outlet, pipe: tuple[int, int]) -> None:
    outlet.attach(pipe[1])
    flood = os.urandom(LIMIT + 3 * KEPT)

    began = time.monotonic()
    for start in range(0, len(flood), KEPT):
        outlet.write(flood[start : start + KEPT])
    took = time.monotonic() - began

    assert took < 1.0, "the vCPU thread was held up by a reader that had stopped"
    assert read_exactly(pipe[0], len(flood)) == flood


def test_output_before_the_first_reader_is_kept_the_newest_of_it(outlet: Outlet, pipe: tuple[int, int]) -> None:
    outlet.write(b"old" * KEPT)
    outlet.write(b"new")

    outlet.attach(pipe[1])
    kept = read_exactly(pipe[0], KEPT)

    assert kept.endswith(b"oldoldnew")
    outlet.flush(PATIENCE)
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)


def test_a_reader_that_hangs_up_loses_nothing_for_the_next(outlet: Outlet, pipe: tuple[int, int]) -> None:
    gone_reader, gone_writer = os.pipe()
    os.close(gone_reader)
    outlet.attach(gone_writer)
    outlet.write(b"hello")
    outlet.flush(PATIENCE)
    outlet.detach()
    os.close(gone_writer)

    outlet.attach(pipe[1])

    assert read_exactly(pipe[0], 5) == b"hello"


def test_held_output_flows_after_the_release(outlet: Outlet, pipe: tuple[int, int]) -> None:
    outlet.attach(pipe[1])
    outlet.hold()
    outlet.write(b"guest")
    os.write(pipe[1], b"monitor ")

    outlet.release()

    assert read_exactly(pipe[0], 13) == b"monitor guest"


def test_a_flush_gives_up_on_a_reader_that_has_stopped(outlet: Outlet, pipe: tuple[int, int]) -> None:
    outlet.attach(pipe[1])
    outlet.write(bytes(LIMIT))

    began = time.monotonic()
    outlet.flush(0.1)

    assert time.monotonic() - began < PATIENCE
