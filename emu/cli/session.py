"""One guest in this process, from its start to the process's exit code.

    build the machine -> serve console, monitor, QMP -> start the guest (cont, loadvm, incoming) -> wait for an end -> close all

The ends: the guest switched itself off; somebody quit; a signal; a guest that was to come in did not. A guest that moved away
is no end: the process stays, so that `cont` can take the guest back, until it is told to quit.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence

from emu.cli.console import Console
from emu.cli.monitor import LocalMonitor, SocketMonitor, serve_stdin
from emu.cli.options import DEFER, Endpoint, EndpointKind, SessionOptions
from emu.cli.registry import Entry
from emu.cli.report import FAILED, report, report_bug, report_error
from emu.cli.serial import Backend, SerialLine, open_backend
from emu.config import MachineConfig
from emu.errors import ConfigError, MigrationError
from emu.machine import Machine
from emu.monitor.command import Context
from emu.monitor.control import quit_process
from emu.monitor.qmp import QmpServer
from emu.runstate import RunState
from migration.protocols import Step, StepHook
from migration.status import Status
from migration.vmstate import Wire
from targets import find_target

GIL_SWITCH = 5e-4  # seconds that a device access of the guest's may wait for Python code of another thread; Python has 5 ms
FLUSH_WITHIN = 2.0  # seconds for a reader to take the guest's last words
CTRL_C = 130
SIGNAL_BASE = 128  # a shell's code for a process that signal N ended is 128 + N
MAX_EXIT_CODE = 255
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

MOVED_TO = "the guest has moved to {}; the monitor's 'quit' ends this process, 'cont' takes the guest back if it can"


def resolve_stdio(options: SessionOptions, *, terminal: bool) -> tuple[Endpoint, Endpoint]:
    """Where serial line and monitor go. A terminal is shared by both; any other standard input is the one's or the other's."""
    stdio, none = Endpoint(EndpointKind.STDIO), Endpoint(EndpointKind.NONE)
    serial, monitor = options.serial, options.monitor
    if terminal:
        return serial or stdio, monitor or stdio
    if monitor == stdio:
        if serial == stdio:
            raise ConfigError("standard input is no terminal: it can be the serial line or the monitor, not both")
        return serial or none, monitor
    return serial or stdio, monitor or none


class Session:
    """A machine with everything that shows and controls it. Made and run inside one event loop."""

    def __init__(self, config: MachineConfig, options: SessionOptions, entry: Entry, *, hook: StepHook | None = None) -> None:
        """`entry` is the guest's place in the registry; its control socket is served there."""
        self._options = options
        self._entry = entry
        self._hook = hook
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._tasks: list[asyncio.Task[object]] = []
        self._console: Console | None = None
        self._serial, self._monitor = resolve_stdio(options, terminal=sys.stdin.isatty())
        self._line = SerialLine()
        self.machine = Machine(
            config,
            find_target(config.target),
            self._line,
            incoming=options.incoming is not None,
            blank=options.loadvm is not None,
            hook=self._at_step,
        )
        if options.log.channels:
            self._trace(options.log.channels)
        self._watch = threading.Thread(target=self._wait_over, name="over", daemon=True)
        self.context = Context(machine=self.machine, quit=self._end_soon, started_at=time.time())
        self._local_monitor = LocalMonitor(self.context)
        self.machine.events.subscribe(self._on_event)

    def _trace(self, channels: Sequence[str]) -> None:
        from emu.symbols import load_symbols  # what a guest whose execution is not logged does not have to wait for
        from emu.trace import Trace

        machine = self.machine
        symbols = load_symbols((machine.config.kernel, machine.config.bios))
        machine.call(lambda: Trace(machine.board, symbols, channels))

    async def run(self, start: Callable[[], None] | None = None) -> int:
        """Serve the guest until an end; returns the exit code. `start`, on a worker thread, replaces what the options order."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._close_machine)
            self._watch.start()
            for number in SIGNALS:
                self._loop.add_signal_handler(number, self._end, SIGNAL_BASE + number)
            self._loop.add_signal_handler(signal.SIGINT, self._interrupted)
            await self._serve_control(stack)
            backend = self._open_serial(stack)
            stack.push_async_callback(self._end_tasks)
            started = asyncio.ensure_future(asyncio.to_thread(start or self._start_guest))
            first: set[asyncio.Future[None] | asyncio.Future[int]] = {started, self._exit}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                started.result()
                self._serve_terminal(backend)
            return await self._exit

    # The ends.

    def _end(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)

    def _end_soon(self, code: int) -> None:
        self._loop.call_soon_threadsafe(self._end, code)

    def _interrupted(self) -> None:
        if not self._local_monitor.interrupt():
            self._end(CTRL_C)

    def _wait_over(self) -> None:
        self.machine.over.wait()
        self._end_soon(min(self.machine.exit_code, MAX_EXIT_CODE))

    async def _close_machine(self) -> None:
        await asyncio.to_thread(self.machine.close)
        self.machine.over.set()
        await asyncio.to_thread(self._watch.join)
        self._line.outlet.close()

    async def _end_tasks(self) -> None:
        self._line.outlet.release()
        await asyncio.to_thread(self._line.outlet.flush, FLUSH_WITHIN)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What shows and controls the guest.

    async def _serve_control(self, stack: contextlib.AsyncExitStack) -> None:
        uris = [f"unix:{self._entry.socket}", *([self._options.qmp] if self._options.qmp else [])]
        for uri in uris:
            server = QmpServer(self.context, uri)
            await server.start()
            stack.push_async_callback(server.close)
        if self._monitor.kind is EndpointKind.UNIX:
            monitor = SocketMonitor(self.context, self._monitor.path)
            stack.push_async_callback(monitor.close)
            await monitor.start()

    def _open_serial(self, stack: contextlib.AsyncExitStack) -> Backend:
        backend = open_backend(self._serial)
        stack.callback(backend.close)
        return backend

    def _serve_terminal(self, backend: Backend) -> None:
        serial_here = self._serial.kind is EndpointKind.STDIO
        monitor_here = self._monitor.kind is EndpointKind.STDIO
        if sys.stdin.isatty() and (serial_here or monitor_here):
            self._console = Console(
                self._line if serial_here else None,
                self._local_monitor if monitor_here else None,
                self.context,
                quit_guest=lambda: self._run_soon(quit_process, self.context),
                interrupted=self._interrupted,
                over=self._exit,
            )
            self._loop.add_signal_handler(signal.SIGTSTP, self._console.suspend)
            self._loop.add_signal_handler(signal.SIGCONT, self._console.continued)
            self._spawn(self._console.serve())
        elif monitor_here:
            self._spawn(serve_stdin(self._local_monitor))
        if self._console is None or not serial_here:
            self._spawn(backend.serve(self._line))

    def _run_soon(self, function: Callable[[Context], object], context: Context) -> None:
        self._spawn(asyncio.to_thread(function, context))

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(self._task_done)
        self._tasks.append(task)

    def _task_done(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            report_bug(exc)
            self._end(FAILED)

    # The guest's way in and out.

    def _start_guest(self) -> None:
        options = self._options
        if options.only_migratable and (reasons := self.machine.blocked_reasons()):
            raise MigrationError("--only-migratable: " + " ".join(reasons))
        shares = [share.tag for share in self.machine.config.shares if not share.migratable]
        if options.only_migratable and shares:
            raise MigrationError(f"--only-migratable: share {shares[0]!r} would forbid moving once the guest mounts it")
        if options.incoming is None:
            if options.loadvm is not None:
                self.machine.loadvm(options.loadvm)
            if not options.paused:
                self.machine.cont()
        elif options.incoming != DEFER:
            uri = self.machine.migrations.incoming(options.incoming, stay_paused=options.paused)
            report(f"waiting for a guest at {uri}")
            self._loop.call_soon_threadsafe(self._spawn, self._watch_incoming())

    async def _watch_incoming(self) -> None:
        migrations = self.machine.migrations
        await asyncio.to_thread(migrations.wait_over)
        if migrations.status is not Status.COMPLETED:
            report_error(f"no guest came in: {migrations.error or migrations.status}")
            self._end(FAILED)

    async def _watch_outgoing(self) -> None:
        migrations = self.machine.migrations
        await asyncio.to_thread(migrations.wait_over)
        if self.machine.state is RunState.POSTMIGRATE:
            async with self._local_monitor.busy:  # else the line is lost under the progress that the monitor shows
                report(migrations.error or MOVED_TO.format(migrations.outgoing_uri))

    def _at_step(self, step: Step) -> None:
        if self._hook is not None:
            self._hook(step)
        if step is Step.CONNECTED:
            self._loop.call_soon_threadsafe(self._spawn, self._watch_outgoing())

    def _on_event(self, name: str, _data: Mapping[str, Wire]) -> None:
        if name == "RESUME":
            self._loop.call_soon_threadsafe(self._line.open, self.machine)


def run_session(
    config: MachineConfig,
    options: SessionOptions,
    entry: Entry,
    *,
    hook: StepHook | None = None,
    start: Callable[[Session], None] | None = None,
) -> int:
    """Run one guest to its end; returns the exit code. `start` replaces what the options order."""

    async def run() -> int:
        sys.setswitchinterval(GIL_SWITCH)
        session = Session(config, options, entry, hook=hook)
        return await session.run(None if start is None else lambda: start(session))

    return asyncio.run(run())
