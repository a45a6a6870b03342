"""What tests speak QMP with, beside QEMU's own client."""

from __future__ import annotations

import json
import socket

from qemu.qmp.legacy import QEMUMonitorProtocol

from emu.monitor.qmp import QmpServer

WAIT = 10.0  # seconds; only a hang takes so long


class RawClient:
    """A client that sends what it likes."""

    def __init__(self, server: QmpServer, *, negotiate: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT)
        self.socket.connect(server.uri.removeprefix("unix:"))
        self._lines = self.socket.makefile("rb")
        self.greeting = self.receive()
        self.answers = [self.ask(b'{"execute": "qmp_capabilities"}\n') for _once in range(int(negotiate))]

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> dict[str, object]:
        line = self._lines.readline()
        assert line.endswith(b"\r\n"), "the server hung up"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def ask(self, data: bytes) -> dict[str, object]:
        self.send(data)
        return self.receive()

    def hung_up(self) -> bool:
        return self._lines.read() == b""

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def generic(desc: str) -> dict[str, object]:
    return {"error": {"class": "GenericError", "desc": desc}}


def not_found(desc: str) -> dict[str, object]:
    return {"error": {"class": "CommandNotFound", "desc": desc}}


def events(qmp: QEMUMonitorProtocol, count: int) -> list[tuple[str, object]]:
    pulled = [qmp.pull_event(wait=WAIT) or {} for _event in range(count)]
    return [(event["event"], event.get("data")) for event in pulled]


def job_statuses(qmp: QEMUMonitorProtocol, count: int) -> list[object]:
    return [data["status"] for name, data in events(qmp, count)]
