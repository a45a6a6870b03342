"""The client's side of the QEMU Machine Protocol (QEMU, docs/interop/qmp-spec.rst): one JSON object a line.

One command at a time. Most of what is measured here is polled for; events are kept for what only they tell.
"""

from __future__ import annotations

import json
import socket
import time
from typing import TypeAlias

from benchmarks.contender import Migration
from emu.errors import EmuError

Json: TypeAlias = "int | float | bool | str | list[Json] | dict[str, Json] | None"

ANSWER_SECONDS = 120  # savevm of a large guest through human-monitor-command
MIGRATION_SECONDS = 120
POLL_SECONDS = 0.005


class QmpError(EmuError):
    """Raised by a command that the machine refused, or when the machine is gone."""


class Qmp:
    """A QMP session over a connected stream socket, past capabilities negotiation."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER_SECONDS)
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._events: list[dict[str, Json]] = []
        self._receive()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Json) -> Json:
        """Carry out a command and return what it returned; an underscore in an argument's name stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            self._socket.sendall(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
        except OSError as exc:
            raise QmpError(f"qmp: {command}: {exc.strerror}") from exc
        while "event" in (answer := self._receive()):
            self._events.append(answer)
        if "error" in answer:
            match answer["error"]:
                case {"desc": str(text)}:
                    raise QmpError(f"qmp: {command}: {text}")
                case error:
                    raise QmpError(f"qmp: {command}: {error}")
        return answer.get("return")

    def monitor(self, line: str) -> None:
        """Carry out a line of the human monitor, whose errors are the text it prints."""
        if text := self.execute("human-monitor-command", command_line=line):
            raise QmpError(f"{line}: {text}".strip())

    def savevm(self, tag: str) -> float:
        """Save a snapshot; the seconds for which the guest stood still meanwhile, as the events STOP and RESUME tell."""
        self._events.clear()
        self.monitor(f"savevm {tag}")
        at: dict[Json, float] = {}
        for event in self._events:
            match event:
                case {"event": name, "timestamp": {"seconds": int(seconds), "microseconds": int(microseconds)}}:
                    at[name] = seconds + microseconds / 1e6
        return at["RESUME"] - at["STOP"]

    def migrate(self, uri: str, *, bandwidth: int, disk: bool = False) -> Migration:
        """Move the guest by precopy and wait until it is gone."""
        self.execute("migrate-set-parameters", max_bandwidth=bandwidth)
        self.execute("migrate", uri=uri, blk=disk)
        deadline = time.monotonic() + MIGRATION_SECONDS
        while time.monotonic() < deadline:
            match self.execute("query-migrate"):
                case {
                    "status": "completed",
                    "total-time": int(total),
                    "downtime": int(downtime),
                    "ram": {"transferred": int(transferred)},
                }:
                    return Migration(total, downtime, transferred)
                case {"status": "failed" | "cancelled" as status, **rest}:
                    raise QmpError(f"migration {status}: {rest.get('error-desc', 'no reason given')}")
            time.sleep(POLL_SECONDS)
        raise QmpError(f"migration did not complete in {MIGRATION_SECONDS} s")

    def close(self) -> None:
        """Hang up; harmless when done already."""
        self._lines.close()
        self._socket.close()

    def _receive(self) -> dict[str, Json]:
        try:
            line = self._lines.readline()
        except OSError as exc:
            raise QmpError(f"qmp: no answer: {exc}") from exc
        if not line:
            raise QmpError("qmp: the machine hung up")
        match json.loads(line):
            case dict() as answer:
                return answer
            case other:
                raise QmpError(f"qmp: not an object: {other!r}")
