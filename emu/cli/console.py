"""The terminal, which the guest's console and the monitor share: Ctrl-A C goes from one to the other.

While the monitor is there, guest output is kept back and shown afterwards; a guest that prints much is slowed down meanwhile,
as by Ctrl-S.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from emu.cli.monitor import PROMPT, LocalMonitor
from emu.cli.report import report
from emu.cli.serial import STDIN, STDOUT, SerialLine, read_ready
from emu.cli.terminal import HELP, EscapeParser, Key, RawTerminal
from emu.monitor.command import Context
from emu.monitor.hmp import complete

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyPressEvent

TYPE_AHEAD = 256  # reads kept for a guest that does not read; the terminal itself is always read, or Ctrl-A X would wait too


class Leave(Enum):
    """Why the prompt was left without a command."""

    SWITCH = "switch"
    QUIT = "quit"


class Console:
    """What is in the terminal. `line` is None when the guest's serial line is elsewhere, `monitor` when that is."""

    def __init__(
        self,
        line: SerialLine | None,
        monitor: LocalMonitor | None,
        context: Context,
        *,
        quit_guest: Callable[[], None],
        interrupted: Callable[[], None],
        over: asyncio.Future[int],
    ) -> None:
        """`quit_guest` is what Ctrl-A X orders, `interrupted` is told of Ctrl-C at the prompt; `over` is done at the end."""
        self._line = line
        self._monitor = monitor
        self._context = context
        self._quit_guest = quit_guest
        self._interrupted = interrupted
        self._over = over
        self._terminal = RawTerminal(STDIN)
        self._typed: asyncio.Queue[bytes] = asyncio.Queue(TYPE_AHEAD)

    async def serve(self) -> None:
        """Serve the terminal until cancelled; it is left as it was found."""
        sender = asyncio.ensure_future(self._send_typed())
        if self._line is not None:
            report("the guest's console is here; Ctrl-A H tells the keys")
        try:
            while True:
                if self._line is not None:
                    await self._serve_guest(self._line)
                if self._monitor is not None:
                    await self._serve_monitor(self._monitor)
        finally:
            sender.cancel()
            self._terminal.close()

    def suspend(self) -> None:
        """SIGTSTP."""
        self._terminal.suspend()

    def continued(self) -> None:
        """SIGCONT: whoever had the terminal meanwhile may have changed it."""
        if self._terminal.is_raw:
            self._terminal.raw()

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._terminal.close()

    async def _serve_guest(self, line: SerialLine) -> None:
        """Until Ctrl-A C."""
        keys = EscapeParser()
        self._terminal.raw()
        line.outlet.attach(STDOUT)
        line.outlet.release()
        try:
            while data := await read_ready(STDIN):
                for item in keys.feed(data):
                    if item is Key.SWITCH and self._monitor is not None:
                        return
                    self._take(item)
            # The terminal hung up. The guest goes on, as after the end of any other input.
            await asyncio.get_running_loop().create_future()
        finally:
            self._terminal.cooked()

    def _take(self, item: bytes | Key) -> None:
        match item:
            case bytes():
                if self._typed.full():
                    os.write(STDOUT, b"\a")
                else:
                    self._typed.put_nowait(item)
            case Key.QUIT:
                self._quit_guest()
            case Key.SWITCH:
                report("the monitor is not in this terminal (--monitor)")
            case Key.HELP:
                report(HELP)

    async def _send_typed(self) -> None:
        while True:
            data = await self._typed.get()
            if self._line is not None:
                await self._line.send(data)

    async def _serve_monitor(self, monitor: LocalMonitor) -> None:
        """Until Ctrl-A C, if there is a console to go to."""
        if self._line is not None:
            self._line.outlet.hold()
        os.write(STDOUT, b"\n")
        prompt = build_prompt(self._context)
        while not self._over.done():
            try:
                line = await prompt.prompt_async(PROMPT, handle_sigint=False)
            except KeyboardInterrupt:
                self._interrupted()
                continue
            except EOFError:
                line = Leave.SWITCH
            if line is Leave.QUIT:
                self._quit_guest()
            elif line is not Leave.SWITCH:
                await monitor.run(line)
            elif self._line is not None:
                self._take(take_typeahead(prompt))
                return
        await asyncio.get_running_loop().create_future()


def build_prompt(context: Context) -> PromptSession[str | Leave]:
    """The monitor's prompt, with completion and a history that outlives the process."""
    # Imported here: a guest whose monitor nobody opens does not wait 100 ms for it.
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyBindings

    class Commands(Completer):
        def get_completions(self, document: Document, _event: CompleteEvent) -> Iterable[Completion]:
            text = document.text_before_cursor
            word = text.rpartition(" ")[2]
            return [Completion(found, -len(word)) for found in complete(context, text)]

    keys = KeyBindings()

    def bind(key: str, answer: Leave) -> None:
        @keys.add("c-a", key)
        def leave(event: KeyPressEvent) -> None:
            event.app.exit(result=answer)

    bind("c", Leave.SWITCH)
    bind("x", Leave.QUIT)
    return PromptSession(completer=Commands(), key_bindings=keys, history=_history(), complete_while_typing=False)


def take_typeahead(prompt: PromptSession[str | Leave]) -> bytes:
    """What was typed behind the keys that left the prompt, and which the prompt has read."""
    from prompt_toolkit.input.typeahead import get_typeahead

    return "".join(key.data for key in get_typeahead(prompt.app.input)).encode()


def _history() -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    state = os.environ.get("XDG_STATE_HOME")
    path = (Path(state) if state else Path.home() / ".local/state") / "emu/monitor_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
