"""A guest's serial console at the other end of a socket, spoken to as a person would: send a line, expect a pattern.

console = SerialConsole.connect(Path("serial.sock"), timeout=10)
console.expect("BOOT-OK", timeout=60)
assert console.run("echo $((6 * 7))") == "42"
"""

from __future__ import annotations

import codecs
import re
import shlex
import socket
import time
from itertools import count
from pathlib import Path

from emu.errors import EmuError

CHUNK = 1 << 16
MAX_PENDING = 1 << 20  # characters kept while no pattern matches: more than a kernel's boot log, and a flood cannot fill memory
TAIL = 300  # characters of console shown when an expectation fails
RETRY_SECONDS = 0.002


class ConsoleError(EmuError):
    """Raised by a console when the guest did not say what was expected in time, said it failed, or is gone."""


class SerialConsole:
    """The host's end of a serial line. Output is consumed by the expectations it matches, so each sees only what is new."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected stream socket; `close` closes it."""
        self._socket = connection
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self._markers = count(1)

    @classmethod
    def connect(cls, path: Path, timeout: float) -> SerialConsole:
        """Connect to the unix socket a machine listens on, which may appear up to `timeout` seconds later."""
        deadline = time.monotonic() + timeout
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError) as exc:
                connection.close()
                if time.monotonic() > deadline:
                    raise ConsoleError(f"{path}: nobody listened within {timeout} s") from exc
                time.sleep(RETRY_SECONDS)
            else:
                return cls(connection)

    def close(self) -> None:
        """Hang up; harmless when done already."""
        self._socket.close()

    @property
    def connection(self) -> socket.socket:
        """The connection, for whoever must know when output arrives."""
        return self._socket

    def send(self, text: str) -> None:
        """Type `text` as it is: "\\x03" is Ctrl-C."""
        try:
            self._socket.sendall(text.encode())
        except OSError as exc:
            raise ConsoleError(f"console: cannot send: {exc.strerror}") from exc

    def send_line(self, text: str) -> None:
        """Type `text` and press Return."""
        self.send(text + "\n")

    def expect(self, pattern: str, timeout: float) -> re.Match[str]:
        """Read until `pattern` (a multi-line regular expression) is found; return its match, consume output up to its end."""
        wanted = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        while (found := wanted.search(self._pending)) is None:
            self._receive(deadline, f"expected {pattern!r} within {timeout} s")
        self._pending = self._pending[found.end() :]
        return found

    def run(self, command: str, timeout: float = 30) -> str:
        """Run a command in the guest's shell and return what it printed; ConsoleError if its exit status is not 0."""
        marker = f"{next(self._markers)}-done"
        # The empty quotes keep the shell's echo of this line from matching; the first marker drops that echo.
        self.send_line(f"echo ''{marker}-start; eval {shlex.quote(command)}; echo ''{marker}:$?")
        self.expect(rf"^{marker}-start\r?\n", timeout)
        found = self.expect(rf"(?s)\A(.*?){marker}:(\d+)\r?\n", timeout)
        output, status = found[1].replace("\r\n", "\n").removesuffix("\n"), int(found[2])
        if status:
            raise ConsoleError(f"guest: {command!r} exited with {status}: {output[-TAIL:]!r}")
        return output

    def _receive(self, deadline: float, wish: str) -> None:
        timeout = ConsoleError(f"console: {wish}, got {self._pending[-TAIL:]!r}")
        if (left := deadline - time.monotonic()) <= 0:
            raise timeout
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(CHUNK)
        except TimeoutError as exc:
            raise timeout from exc
        except OSError as exc:
            raise ConsoleError(f"console: {wish}: {exc.strerror}") from exc
        if not data:
            raise ConsoleError(f"console: {wish}, the machine hung up after {self._pending[-TAIL:]!r}")
        self._pending = (self._pending + self._decoder.decode(data))[-MAX_PENDING:]
