"""The serial line's host end: no byte of input is lost to a guest that does not read, clients come one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from emu.chardev import BACKLOG_MAX
from emu.cli.options import Endpoint, EndpointKind
from emu.cli.serial import SerialLine, UnixBackend, listen_unix, open_backend, read_ready
from emu.errors import ConfigError

T = TypeVar("T")
PATIENCE = 10  # seconds


class Guest:
    """A UART whose guest reads only what the test lets it, and the thread it lives on."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got = bytearray()

    def can_receive(self) -> int:
        return self.room

    def receive(self, data: bytes) -> None:
        self.room -= len(data)
        self.got += data

    def receive_break(self) -> None:
        raise AssertionError("receive_break() was called, no test sends a break")

    def call(self, function: Callable[[], T]) -> T:
        return function()

    def read_on(self, line: SerialLine, room: int) -> None:
        self.room = room
        line.accept_input()


def connected(guest: Guest) -> SerialLine:
    line = SerialLine()
    line.connect(guest)
    return line


def test_input_waits_for_the_guest_and_arrives_whole() -> None:
    data = os.urandom(3 * BACKLOG_MAX)

    async def scenario() -> bytes:
        guest = Guest(room=0)
        line = connected(guest)
        line.open(guest)
        sending = asyncio.create_task(line.send(data))
        await asyncio.wait({sending}, timeout=0.05)
        assert not sending.done(), "the input was taken from the sender although the guest has no room for it"
        while not sending.done():
            guest.read_on(line, room=1000)
            await asyncio.sleep(0)
        guest.read_on(line, room=len(data))
        return bytes(guest.got)

    assert asyncio.run(scenario()) == data


def test_input_waits_until_the_guest_is_there() -> None:
    async def scenario() -> tuple[bytes, bytes]:
        guest = Guest(room=100)
        line = connected(guest)
        sending = asyncio.create_task(line.send(b"early"))
        await asyncio.wait({sending}, timeout=0.05)
        before = bytes(guest.got)
        line.open(guest)
        await sending
        return before, bytes(guest.got)

    assert asyncio.run(scenario()) == (b"", b"early")


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_any_kind_of_standard_input_can_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "in"
    make = {"file": path.touch, "pipe": lambda: os.mkfifo(path)}
    make[kind]()

    async def scenario() -> list[bytes]:
        with path.open("r+b", buffering=0) as file:
            file.write(b"abc")
            with contextlib.suppress(OSError):
                file.seek(0)
            return [await read_ready(file.fileno())]

    assert asyncio.run(scenario()) == [b"abc"]


def test_the_end_of_input_is_empty(tmp_path: Path) -> None:
    (tmp_path / "in").touch()

    async def scenario() -> bytes:
        with (tmp_path / "in").open("rb") as file:
            return await read_ready(file.fileno())

    assert asyncio.run(scenario()) == b""


def test_clients_of_a_socket_get_the_line_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "serial"

    async def scenario() -> tuple[bytes, bytes, bytes]:
        guest = Guest(room=100)
        line = connected(guest)
        line.open(guest)
        backend = UnixBackend(path)
        serving = asyncio.create_task(backend.serve(line))
        line.write(b"boot")
        reader, writer = await asyncio.open_unix_connection(path)
        first = await asyncio.wait_for(reader.readexactly(4), PATIENCE)
        writer.write(b"typed")
        writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        line.write(b"more")
        second = await asyncio.wait_for(reader.readexactly(4), PATIENCE)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        backend.close()
        line.outlet.close()
        writer.close()
        return first, second, bytes(guest.got)

    assert asyncio.run(scenario()) == (b"boot", b"more", b"typed")
    assert not path.exists()


def test_a_file_gets_the_output_behind_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old ")

    async def scenario() -> None:
        line = SerialLine()
        backend = open_backend(Endpoint(EndpointKind.FILE, path))
        await backend.serve(line)
        line.write(b"new")
        await asyncio.to_thread(line.outlet.flush, PATIENCE)
        backend.close()
        line.outlet.close()

    asyncio.run(scenario())

    assert path.read_bytes() == b"old new"


def test_a_socket_that_cannot_be_had_is_told_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")

    with pytest.raises(ConfigError, match=r"--serial unix:.*/s: Address already in use"):
        listen_unix(tmp_path / "s", "--serial")
