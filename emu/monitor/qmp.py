"""QMP, the QEMU Machine Protocol (QEMU, docs/interop/qmp-spec), over a unix or TCP socket, for several clients at once.

    client                                    server
           <---- {"QMP": {"version": …, "capabilities": []}}
    {"execute": "qmp_capabilities"} ---->
           <---- {"return": {}}
    {"execute": …, "arguments": …, "id": …} ->
           <---- {"event": …, "data": …, "timestamp": …}     at any time from here on
           <---- {"return": …, "id": …} or {"error": {"class": …, "desc": …}, "id": …}

A client's commands are carried out one after the other; different clients' at the same time. A message ends with its closing
brace, as in QEMU, or with a newline, which QEMU does not need: after a malformed one, reading goes on behind the next newline.
Whoever may connect commands the machine, `exec:` included: a unix socket belongs to its user alone; TCP has no such guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn, cast

from emu.errors import ConfigError, EmuError
from emu.monitor.command import CommandError, CommandNotFoundError, Context, execute
from emu.monitor.commands import COMMANDS
from emu.monitor.control import query_version
from emu.unixsocket import UnixListener
from migration.vmstate import Wire

MAX_LINE = 64 << 10  # bytes of one message; the longest that makes sense, a migrate with paths, has 9 KiB
MAX_CLIENTS = 32  # bounds the descriptors that connections can use up
MAX_UNSENT = 1 << 20  # bytes that wait for a client which does not read, before it is cut off; an event has 150
READ_SIZE = 16 << 10  # bytes
CLOSING_SECONDS = 1.0  # that a command under way has to answer when the server closes

_SPACE = re.compile(r"[ \t\r\n]*")

log = logging.getLogger(__name__)


class QmpServer:
    """Serves QMP at `unix:PATH` or `tcp:HOST:PORT` from `start` to `close`, both on one event loop."""

    def __init__(self, ctx: Context, uri: str, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        """`now_ns`: the time of day for events, nanoseconds since the epoch. Raises ConfigError for any other kind of URI."""
        self.uri = uri  # with the port that was chosen, once started with port 0
        self._ctx = ctx
        self._address = _parse(uri)
        self._now_ns = now_ns
        self._server: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task[None], _Session] = {}
        self._undo = contextlib.ExitStack()

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        try:
            listening = _listen(self._address, self._undo)
        except OSError as exc:
            self._undo.close()
            raise ConfigError(f"QMP cannot be served at {self.uri}: {exc.strerror or exc}") from exc
        if isinstance(self._address, tuple):
            host, port = listening.getsockname()[:2]
            self.uri = f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
        self._server = await asyncio.start_server(self._serve, sock=listening)
        self._undo.callback(self._ctx.machine.events.subscribe(self._on_event))

    async def close(self) -> None:
        """Stop listening and hang up; commands under way have CLOSING_SECONDS to answer. Harmless when not started."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._undo.close()
        for task, session in self._sessions.items():
            session.closing = True
            if not session.busy:
                task.cancel()
        tasks = set(self._sessions)
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=CLOSING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        if len(self._sessions) >= MAX_CLIENTS:
            writer.close()
            return
        session = _Session(self._ctx, reader, writer)
        self._sessions[task] = session
        try:
            await session.run()
        except (OSError, asyncio.CancelledError):  # the client is gone, or the server closes
            pass
        except Exception:
            log.exception("QMP client")
        finally:
            del self._sessions[task]
            await _hang_up(writer)

    def _on_event(self, name: str, data: Mapping[str, Wire]) -> None:
        """On whatever thread it happened."""
        seconds, rest = divmod(self._now_ns(), 1_000_000_000)
        event: dict[str, object] = {"event": name, "timestamp": {"seconds": seconds, "microseconds": rest // 1000}}
        if data:
            event["data"] = dict(data)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile, and with it every client
            self._loop.call_soon_threadsafe(self._broadcast, event)

    def _broadcast(self, event: Mapping[str, object]) -> None:
        for session in self._sessions.values():
            if session.negotiated:
                session.write(event)


class _Session:
    """One client."""

    def __init__(self, ctx: Context, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.negotiated = False
        self.busy = False  # from a message read to its answer written
        self.closing = False  # answer what is under way and end
        self._ctx = ctx
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        """Serve until the client hangs up."""
        self.write({"QMP": {"version": query_version(self._ctx), "capabilities": []}})
        async for line in _lines(self._reader):
            self.busy = True
            if line is None:
                self.write(_error(CommandError(f"JSON parse error, a line is longer than {MAX_LINE} bytes")))
            else:
                await self._answer_line(line)
            await self._writer.drain()
            self.busy = False
            if self.closing:
                return

    def write(self, message: Mapping[str, object]) -> None:
        """Send a message, cutting off a client that lets too much pile up."""
        self._writer.write(json.dumps(message).encode() + b"\r\n")
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            log.warning("a QMP client that left %d bytes unread was cut off", MAX_UNSENT)
            self._writer.transport.abort()

    async def _answer_line(self, line: bytes) -> None:
        try:
            for message in decode(line):
                self.write(await self._answer(message))
        except CommandError as exc:
            self.write(_error(exc))

    async def _answer(self, message: object) -> dict[str, object]:
        answer: dict[str, object]
        try:
            answer = {"return": await self._execute(message)}
        except (EmuError, OSError) as exc:
            answer = _error(exc)
        except Exception as exc:
            log.exception("QMP command")
            answer = _error(CommandError(f"internal error: {type(exc).__name__}, the log has more"))
        if isinstance(message, dict) and "id" in message:
            answer["id"] = message["id"]
        return answer

    async def _execute(self, message: object) -> Wire:
        name, arguments = _check_message(message)
        command = COMMANDS.get(name)
        if not self.negotiated and (command is None or not command.negotiation):
            raise CommandNotFoundError("Expecting capabilities negotiation with 'qmp_capabilities'")
        if command is None or not command.qmp:
            raise CommandNotFoundError(f"The command {name:.60} has not been found")
        if self.negotiated and command.negotiation:
            raise CommandNotFoundError("Capabilities negotiation is already complete, command ignored")
        answer = await execute(self._ctx, command, arguments)
        self.negotiated = True
        return answer


def _check_message(message: object) -> tuple[str, dict[str, object]]:
    """The command's name and arguments; CommandError in QEMU's words."""
    if not isinstance(message, dict):
        raise CommandError("QMP input must be a JSON object")
    for member in message:
        if member not in ("execute", "arguments", "id"):
            raise CommandError(f"QMP input member '{member:.60}' is unexpected")
    if "execute" not in message:
        raise CommandError("QMP input lacks member 'execute'")
    name, arguments = message["execute"], message.get("arguments", {})
    if not isinstance(name, str):
        raise CommandError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise CommandError("QMP input member 'arguments' must be an object")
    return name, arguments


def _error(exc: Exception) -> dict[str, object]:
    kind = "CommandNotFound" if isinstance(exc, CommandNotFoundError) else "GenericError"
    return {"error": {"class": kind, "desc": " ".join(str(exc).split())}}


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes | None]:
    """What the client sends, cut behind newlines and behind whole messages; None for a line that is too long."""
    rest = b""
    too_long = False  # and its end has not come
    while chunk := await reader.read(READ_SIZE):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if len(line) > MAX_LINE and not too_long:
                yield None
            elif not too_long and not line.isspace() and line:
                yield line
            too_long = False
        if too_long:
            rest = b""
        elif len(rest) > MAX_LINE:
            yield None
            too_long, rest = True, b""
        elif _is_whole(rest):
            yield rest
            rest = b""
    if rest and not rest.isspace():
        yield rest


def _is_whole(line: bytes) -> bool:
    if not line.rstrip().endswith(b"}"):
        return False
    try:
        for _message in decode(line):
            pass
    except CommandError:
        return False
    return True


def decode(line: bytes) -> Iterator[object]:
    """The JSON values in `line`, one after the other; CommandError where it is no JSON."""
    try:
        text = line.decode()
        place = _skip_space(text, 0)
        while place < len(text):
            value, place = _DECODER.raw_decode(text, place)
            yield value
            place = _skip_space(text, place)
    except (ValueError, RecursionError) as exc:
        raise CommandError(f"JSON parse error, {exc}") from exc


def _skip_space(text: str, place: int) -> int:
    match = cast("re.Match[str]", _SPACE.match(text, place))
    return match.end()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _parse(uri: str) -> str | tuple[str, int]:
    """A unix socket's path, or host and port."""
    scheme, _colon, rest = uri.partition(":")
    if scheme == "unix" and rest:
        return rest
    host, _colon, port = rest.rpartition(":")
    if scheme == "tcp" and host and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 1 << 16:
        return host.strip("[]"), int(port)
    raise ConfigError(f"QMP address {uri!r} must be unix:PATH or tcp:HOST:PORT with a port of 0..65535")


def _listen(address: str | tuple[str, int], undo: contextlib.ExitStack) -> socket.socket:
    if isinstance(address, tuple):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return socket.create_server(address, family=family)
    listener = UnixListener(Path(address))
    undo.callback(listener.close)
    return listener.socket


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close, with a moment for what is still to be sent."""
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), CLOSING_SECONDS)
    except (OSError, TimeoutError, asyncio.CancelledError):
        writer.transport.abort()
