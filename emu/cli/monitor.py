"""The human monitor where people and scripts reach it: a unix socket, lines on standard input, the prompt of a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emu.cli.progress import Progress, open_progress
from emu.cli.serial import STDIN, listen_unix, read_ready
from emu.monitor.command import Context
from emu.monitor.hmp import run_line

if TYPE_CHECKING:
    from migration.vmstate import Wire

PROMPT = "(emu) "
MAX_LINE = 64 << 10  # bytes; a file name has 4096 at most
IN_BACKGROUND = "The command goes on in the background; a migration is ended by migrate_cancel."


class LocalMonitor:
    """The monitor in this process's own terminal or standard input: shows how far a migration is."""

    def __init__(self, context: Context) -> None:
        self.busy = asyncio.Lock()  # held while a command runs and its progress and answer are on the screen
        self._context = context
        self._interrupted: asyncio.Future[None] | None = None
        self._progress: Progress | None = None

    async def run(self, line: str) -> None:
        """Carry out one line and print its answer."""
        async with self.busy:
            await self._run(line)

    async def _run(self, line: str) -> None:
        self._interrupted = asyncio.get_running_loop().create_future()
        command = asyncio.ensure_future(run_line(self._context, line, progress=self._show))
        try:
            first: set[asyncio.Future[str] | asyncio.Future[None]] = {command, self._interrupted}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._interrupted = None
            if self._progress is not None:
                self._progress.close()
                self._progress = None
            if not command.done():
                command.cancel()
        print_answer(command.result() if command.done() else IN_BACKGROUND)

    def interrupt(self) -> bool:
        """Ctrl-C: stop waiting for the command that runs, which goes on; False when none does."""
        if self._interrupted is None or self._interrupted.done():
            return False
        self._interrupted.set_result(None)
        return True

    def _show(self, query: Mapping[str, Wire]) -> None:
        if self._progress is None:
            self._progress = open_progress()
        self._progress.update(query)


def print_answer(text: str) -> None:
    """Print an answer, which may be empty, on lines of its own."""
    if text:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()


async def serve_stdin(monitor: LocalMonitor) -> None:
    """Carry out standard input line by line; its end is not an end of the guest."""
    async for line in _lines_of_stdin():
        await monitor.run(line)


async def _lines_of_stdin() -> AsyncIterator[str]:
    pending = b""
    while data := await read_ready(STDIN):
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            yield line[:MAX_LINE].decode(errors="replace")
        pending = pending[:MAX_LINE]
    if pending:
        yield pending.decode(errors="replace")


class SocketMonitor:
    """The monitor at a unix socket, for any number of clients."""

    def __init__(self, context: Context, path: Path) -> None:
        self._context = context
        self._listener = listen_unix(path, "--monitor")
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept clients."""
        self._server = await asyncio.start_server(self._serve, sock=self._listener.socket, limit=MAX_LINE)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client may leave or talk too long, or the process ends before it has left.
        with contextlib.suppress(ConnectionError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError):
            writer.write(PROMPT.encode())
            while line := await reader.readline():
                answer = await run_line(self._context, line.decode(errors="replace").strip())
                writer.write((answer + "\n" if answer and not answer.endswith("\n") else answer).encode() + PROMPT.encode())
                await writer.drain()
        writer.close()
