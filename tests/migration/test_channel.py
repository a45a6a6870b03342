"""Channels over commands and over descriptors that the process was given: who owns the other end, and until when."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from shlex import quote

import pytest

from emu.errors import MigrationError
from migration import channel
from migration.channel import Channel, connect, listen, parse_uri

ANSWER = b"the last answer"


@pytest.fixture
def keep() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_fd(fd: int) -> Channel:
    return connect(parse_uri(f"fd:{fd}"))


def test_a_command_passes_on_the_last_answer_before_it_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with closing(connect(parse_uri(f"exec:cat > {quote(str(path))}"), return_path=True)) as command:
        command.write(ANSWER)
        command.end_of_answers()

    assert path.read_bytes() == ANSWER


def test_a_command_that_keeps_the_last_answer_is_ended_in_time(monkeypatch: pytest.MonkeyPatch, keep: ExitStack) -> None:
    monkeypatch.setattr(channel, "LAST_WORDS_WITHIN", 0.01)
    command = keep.enter_context(closing(connect(parse_uri("exec:sleep 1000"), return_path=True)))

    command.end_of_answers()


def test_cancelling_ends_the_wait_for_a_command_that_keeps_the_last_answer(
    monkeypatch: pytest.MonkeyPatch, keep: ExitStack
) -> None:
    monkeypatch.setattr(channel, "LAST_WORDS_WITHIN", 1000)
    command = keep.enter_context(closing(connect(parse_uri("exec:sleep 1000"), return_path=True)))
    canceller = threading.Timer(0.01, command.cancel)
    canceller.start()

    command.end_of_answers()

    canceller.join()


def test_closing_the_channel_of_a_socket_hangs_up(keep: ExitStack) -> None:
    ours, theirs = socket.socketpair()
    keep.enter_context(theirs)
    keep.callback(os.close, number := ours.detach())

    open_fd(number).close()

    assert theirs.recv(1) == b""


def test_closing_the_channel_of_a_pipe_hangs_up(keep: ExitStack) -> None:
    theirs, ours = os.pipe()
    keep.callback(os.close, theirs)
    keep.callback(os.close, ours)

    open_fd(ours).close()

    assert os.read(theirs, 1) == b""


def test_a_regular_file_is_read_from_where_it_stands(tmp_path: Path, keep: ExitStack) -> None:
    (tmp_path / "stream").write_bytes(b"header" + ANSWER)
    keep.callback(os.close, number := os.open(tmp_path / "stream", os.O_RDONLY))
    os.lseek(number, len(b"header"), os.SEEK_SET)
    received = bytearray(len(ANSWER))

    with closing(listen(parse_uri(f"fd:{number}"))) as listener, closing(listener.accept()) as source:
        source.read_into(memoryview(received))

    assert received == ANSWER
    assert not source.two_way


def test_a_descriptor_serves_one_migration(keep: ExitStack) -> None:
    ours, theirs = socket.socketpair()
    keep.enter_context(theirs)
    keep.callback(os.close, number := ours.detach())
    open_fd(number).close()

    with pytest.raises(MigrationError, match=f"^fd:{number} is no socket, pipe or file; a descriptor serves one migration$"):
        open_fd(number)


@pytest.mark.parametrize("number", ["-1", "x", "5x", "99999999999"])
def test_what_is_no_descriptor_is_refused(number: str) -> None:
    with pytest.raises(MigrationError, match=f"^fd:{number} must be fd:NUMBER, a descriptor this process was given$"):
        connect(parse_uri(f"fd:{number}"))


def test_a_descriptor_that_is_not_open_is_told() -> None:
    with pytest.raises(MigrationError, match=r"^cannot receive at fd:999: Bad file descriptor$"):
        listen(parse_uri("fd:999"))


class AlreadyWaitedFor(subprocess.Popen[bytes]):
    """A command that another thread has waited for between a look at it and what follows from that."""

    def poll(self) -> int | None:
        super().wait()
        return None


def test_a_command_that_ends_while_its_channel_is_cancelled_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    with theirs, closing(Channel(ours.fileno(), ours.detach(), two_way=True, label="exec:true")) as cancelled:
        cancelled.run_by(AlreadyWaitedFor(["true"], start_new_session=True))

        cancelled.cancel()
