"""One QMP command to a running guest, for callers that have no event loop."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from emu.errors import EmuError

if TYPE_CHECKING:
    from migration.vmstate import Wire

MAX_ANSWER = 16 << 20  # bytes in a line; bounds what a broken server makes us keep. A long register dump has 10 KiB


class QmpCallError(EmuError):
    """Raised when nobody answers on the socket, or the command is refused; the text is then the server's."""


def qmp_call(
    socket_path: Path | str, command: str, arguments: Mapping[str, Wire] | None = None, *, timeout: float | None = None
) -> Wire:
    """Connect to the QMP socket, negotiate, execute `command` and return its answer.

    `timeout` in seconds bounds each wait for the server; None waits for as long as the command takes.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(socket_path))
            with connection.makefile("rwb") as lines:
                stream = cast(BinaryIO, lines)
                _receive(stream)  # the greeting
                _execute(stream, "qmp_capabilities", {})
                return _execute(stream, command, arguments or {})
    except OSError as exc:
        raise QmpCallError(f"{socket_path}: {command}: {exc.strerror or exc}") from exc


def _execute(stream: BinaryIO, command: str, arguments: Mapping[str, Wire]) -> Wire:
    stream.write(json.dumps({"execute": command, "arguments": dict(arguments)}).encode() + b"\n")
    stream.flush()
    while "event" in (answer := _receive(stream)):
        pass
    if "return" in answer:
        return answer["return"]
    match answer.get("error"):
        case {"desc": str(desc)}:
            raise QmpCallError(desc)
    raise QmpCallError(f"{command}: the server's answer has neither 'return' nor 'error'")


def _receive(stream: BinaryIO) -> dict[str, Wire]:
    line = stream.readline(MAX_ANSWER + 1)
    if not line.endswith(b"\n"):
        what = f"sent a line of more than {MAX_ANSWER} bytes" if len(line) > MAX_ANSWER else "hung up"
        raise QmpCallError(f"the QMP server {what}")
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise QmpCallError(f"the QMP server sent what is no JSON: {line[:60]!r}") from exc
    if not isinstance(answer, dict):
        raise QmpCallError(f"the QMP server sent no object: {line[:60]!r}")
    return cast("dict[str, Wire]", answer)
