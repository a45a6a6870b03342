"""Every kind of migration URI, between machines in processes of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from shlex import join, quote

import pytest

from tests.live.conftest import Start
from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for
from tests.live.test_handover import assert_guest_is_whole, lock_is_free
from tests.live.test_journeys import type_in

HEADER = b"a header that is not ours\n" * 1000


def boot_and_work(start: Start, **how: object) -> EmuProcess:
    """A guest with something in its RAM that writes its journal."""
    source = start("source", **how)
    source.console.expect(PROMPT, WAIT)
    type_in(source.console, "mem fill 7 4", "mem filled")
    type_in(source.console, "blk journal 20000", r"journal 3\r")
    return source


def assert_it_moves(source: EmuProcess, uri: str, destination: EmuProcess, disk: Path) -> None:
    """The guest goes from one to the other as it is."""
    answer = source.migrate(uri)
    assert answer["status"] == "completed", answer
    destination.wait_status("running")
    assert source.status == "postmigrate"
    assert_guest_is_whole(destination, disk)


def assert_it_goes_through_storage(source: EmuProcess, uri: str, start: Start, incoming: str, disk: Path) -> None:
    """The guest is written to `uri` to the end, its disk let go, and comes back in from `incoming`."""
    answer = source.migrate(uri)
    assert answer["status"] == "completed", answer
    assert lock_is_free(disk)
    destination = start("destination", "--incoming", incoming)
    destination.wait_status("running")
    assert_guest_is_whole(destination, disk)


# tcp


def has_ipv6() -> bool:
    """Whether this host can listen on its IPv6 loopback."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("[::1]", marks=pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6"))]
)
def test_tcp(host: str, start: Start, disk: Path) -> None:
    source = boot_and_work(start)
    destination = start("destination", "--incoming", "defer")
    destination.qmp("migrate-incoming", uri=f"tcp:{host}:0")

    (address,) = destination.migration["socket-address"]  # type: ignore[misc]  # a list of one

    assert (address["type"], address["host"]) == ("inet", host.strip("[]"))  # type: ignore[index,call-overload]  # a map
    assert_it_moves(source, f"tcp:{host}:{address['port']}", destination, disk)  # type: ignore[index,call-overload]


# file


def test_file_behind_somebody_elses_header(start: Start, disk: Path, tmp_path: Path) -> None:
    source, path = boot_and_work(start), tmp_path / "stream"
    path.write_bytes(HEADER)
    uri = f"file:{path},offset={len(HEADER)}"

    assert_it_goes_through_storage(source, uri, start, uri, disk)

    assert path.read_bytes().startswith(HEADER + b"emu-vm\r\n")


# exec


def relay(how: str, path: Path) -> str:
    """An exec: URI of a command that is one end of a line."""
    return "exec:" + join([sys.executable, "-m", "tests.live.relay", how, str(path)])


def test_exec_into_a_file_and_out_of_it(start: Start, disk: Path, tmp_path: Path) -> None:
    source, path = boot_and_work(start), quote(str(tmp_path / "stream"))

    assert_it_goes_through_storage(source, f"exec:cat > {path}", start, f"exec:cat {path}", disk)


@pytest.mark.parametrize("return_path", [False, True])
def test_exec_between_two_commands(return_path: bool, start: Start, disk: Path, tmp_path: Path) -> None:
    source, line = boot_and_work(start), tmp_path / "line"
    if return_path:
        source.switch_on("return-path")
    destination = start("destination", "--incoming", relay("listen", line))
    wait_for(line.exists, "the command listens")

    assert_it_moves(source, relay("connect", line), destination, disk)


def test_exec_with_a_return_path_hears_why_it_is_refused(start: Start, tmp_path: Path) -> None:
    source, line = boot_and_work(start), tmp_path / "line"
    source.switch_on("return-path")
    other = start("other", "--memory", "32M", "--incoming", relay("listen", line))
    wait_for(line.exists, "the command listens")

    answer = source.migrate(relay("connect", line))

    assert answer["status"] == "failed"
    assert "the other side refused: the machines differ in memory" in str(answer["error-desc"])
    assert other.wait_exit() == 1
    assert source.status == "running"


def test_exec_with_a_return_path_to_a_command_that_never_answers_can_be_cancelled(
    start: Start, disk: Path, tmp_path: Path
) -> None:
    source, path = boot_and_work(start), tmp_path / "stream"
    source.switch_on("return-path")
    source.qmp("migrate", uri=f"exec:cat > {quote(str(path))}")
    wait_for(lambda: path.exists() and path.stat().st_size > 0, "the command takes the stream")
    assert source.migration["status"] == "setup"

    source.qmp("migrate_cancel")

    assert source.wait_migration()["status"] == "cancelled"
    assert_guest_is_whole(source, disk)


# fd


def test_fd_of_a_socket(start: Start, disk: Path) -> None:
    here, there = socket.socketpair()
    with here, there:
        source = boot_and_work(start, pass_fds=(here.fileno(),))
        destination = start("destination", "--incoming", f"fd:{there.fileno()}", pass_fds=(there.fileno(),))
        uri = f"fd:{here.fileno()}"

    assert_it_moves(source, uri, destination, disk)


def test_fd_of_a_pipe(start: Start, disk: Path) -> None:
    there, here = os.pipe()
    source = boot_and_work(start, pass_fds=(here,))
    destination = start("destination", "--incoming", f"fd:{there}", pass_fds=(there,))
    os.close(there)
    os.close(here)

    assert_it_moves(source, f"fd:{here}", destination, disk)


@pytest.mark.parametrize("make", ["socket", "pipe"])
def test_an_fd_is_hung_up_when_its_migration_fails(make: str, start: Start, disk: Path) -> None:
    if make == "socket":
        here, there = (end.detach() for end in socket.socketpair())
    else:
        there, here = os.pipe()
    source = boot_and_work(start, pass_fds=(here,))
    destination = start("destination", "--incoming", f"fd:{there}", pass_fds=(there,))
    os.close(there)
    os.close(here)
    source.switch_on("pause-before-switchover")
    source.qmp("migrate", uri=f"fd:{here}")
    wait_for(lambda: source.migration["status"] == "pre-switchover", "pre-switchover")

    source.qmp("migrate_cancel")

    assert source.wait_migration()["status"] == "cancelled"
    assert destination.wait_exit() == 1
    assert "bytes short of" in destination.errors
    again = source.migrate(f"fd:{here}")
    assert again["status"] == "failed"
    assert f"fd:{here} is no socket, pipe or file" in str(again["error-desc"])
    assert_guest_is_whole(source, disk)


def test_an_fd_that_is_not_open_is_told(start: Start, disk: Path) -> None:
    source = boot_and_work(start)

    answer = source.migrate("fd:77")

    assert answer["error-desc"] == "cannot migrate to fd:77: Bad file descriptor"
    assert_guest_is_whole(source, disk)
