"""A terminal with `emu` in it, as a person would sit before it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

WAIT = 20.0  # seconds; only a hang takes so long
POLL = 0.005
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and cursor movements, which may come in the middle of a word


def _own_the_terminal() -> None:
    """In the new process: standard input is the terminal whose Ctrl-C reaches it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A pseudo-terminal, its settings as they were found, and the process in it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._screen, self._line = pty.openpty()
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
        self.found = termios.tcgetattr(self._line)
        self._output = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "emu.cli.main", *arguments],
            stdin=self._line,
            stdout=self._line,
            stderr=self._line,
            cwd=Path(__file__).parents[2],
            env={
                **os.environ,
                "XDG_RUNTIME_DIR": str(folder),
                "XDG_STATE_HOME": str(folder / "state"),
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",  # this terminal does not tell where its cursor is
            },
            start_new_session=True,
            preexec_fn=_own_the_terminal,
        )

    @property
    def settings(self) -> list[object]:
        """What the terminal is set to now."""
        return list(termios.tcgetattr(self._line))

    @property
    def is_raw(self) -> bool:
        """Whether keys come through one by one."""
        return not termios.tcgetattr(self._line)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._screen, text.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Read the screen until `pattern`, which is consumed with all before it."""
        give_up = time.monotonic() + WAIT
        while (found := re.search(pattern, self._output)) is None:
            assert time.monotonic() < give_up, f"{pattern!r} did not appear; the screen has {self._output[-1000:]!r}"
            self._read()
        self._output = self._output[found.end() :]
        return found

    def wait_exit(self) -> int:
        """The exit code; the screen is read meanwhile, as a terminal does."""
        self.wait_for(lambda: self.process.poll() is not None, "the end of the process")
        return self.process.returncode

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Read the screen until `condition` holds."""
        give_up = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < give_up, f"{what} did not come; the screen has {self._output[-1000:]!r}"
            self._read()

    def wait_stopped(self) -> None:
        """Wait until the process is stopped by a signal."""
        _pid, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def close(self) -> None:
        """End what is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._screen)
        os.close(self._line)

    def _read(self) -> None:
        if select.select([self._screen], [], [], POLL)[0]:
            fresh = os.read(self._screen, 1 << 16).decode(errors="replace")
            self._output = ESCAPES.sub("", self._output + fresh)
