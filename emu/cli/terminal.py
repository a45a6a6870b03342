"""The terminal this process has: raw while the guest's console is in it, as it was found in every other moment."""

from __future__ import annotations

import atexit
import os
import signal
import termios
from enum import Enum, auto

ESCAPE = 0x01  # Ctrl-A, as QEMU's


class RawTerminal:
    """Switches a terminal to raw mode and back. What it was is kept from the start, so that every way out leads there.

    Keys come through byte by byte, Ctrl-C and Ctrl-Z included; output is still processed (OPOST), so that lines of this process
    and of the guest both start at the left. The ways out: `cooked`, an exception or exit of the interpreter (atexit), a signal
    that ends the process (through asyncio's handlers, which end the session), and SIGTSTP by `suspend`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._found = termios.tcgetattr(fd)
        self.is_raw = False
        atexit.register(self.cooked)

    def raw(self) -> None:
        """Bytes as they are typed, from now on."""
        iflag, oflag, cflag, lflag, ispeed, ospeed, characters = termios.tcgetattr(self._fd)
        iflag &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR
            | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip  # the list reads as stty's
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        characters = list(characters)
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSANOW, [iflag, oflag | termios.OPOST, cflag, lflag, ispeed, ospeed, characters])
        self.is_raw = True

    def cooked(self) -> None:
        """As it was found; harmless when it is."""
        if self.is_raw:
            self.is_raw = False
            try:
                termios.tcsetattr(self._fd, termios.TCSANOW, self._found)
            except termios.error:
                return  # hung up: there is nothing left to restore

    def suspend(self) -> None:
        """SIGTSTP: stop this process with the terminal as it was found, and go on as before when it is continued."""
        was_raw = self.is_raw
        self.cooked()
        os.kill(os.getpid(), signal.SIGSTOP)
        if was_raw:
            self.raw()

    def close(self) -> None:
        """Restore the terminal and forget it."""
        self.cooked()
        atexit.unregister(self.cooked)


class Key(Enum):
    """What Ctrl-A and another key order."""

    QUIT = auto()
    SWITCH = auto()
    HELP = auto()


_KEYS = {ord("x"): Key.QUIT, ord("c"): Key.SWITCH, ord("h"): Key.HELP, ord("?"): Key.HELP}

HELP = "Ctrl-A X quits, Ctrl-A C switches between console and monitor, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A H shows this"


class EscapeParser:
    """Finds the orders in what is typed; one may be split over two reads."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes | Key]:
        """What was typed, in order: bytes for the guest, and orders. Ctrl-A with any other key is dropped."""
        found: list[bytes | Key] = []
        while data:
            if self._escaped:
                self._escaped = False
                if data[0] == ESCAPE:
                    found.append(data[:1])
                elif (key := _KEYS.get(data[0] | 0x20)) is not None:
                    found.append(key)
                data = data[1:]
            else:
                typed, escape, data = data.partition(bytes([ESCAPE]))
                if typed:
                    found.append(typed)
                self._escaped = bool(escape)
        return found
