"""`emu demo`: a guest that writes to its disk moves, live, from one process to another, and nothing is lost.

    source: boot, fill RAM with a seeded stream, append records to a journal on disk, each durable before it is acknowledged
            migrate while it writes
    destination: finish the journal, check RAM, switch off
    here: read the disk: every acknowledged record is there, and no other

Both are `emu run` processes as a user would start them, spoken to by their serial lines and QMP.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emu.cli.progress import Snapshot
from emu.errors import EmuError
from emu.monitor.client import qmp_call
from images import bundled
from images.journal import read_journal

if TYPE_CHECKING:
    from migration.protocols import StepHook
    from migration.vmstate import Wire

DISK_SIZE = 8 << 20  # bytes; holds 16376 records
RECORDS = 3000  # some seconds of work, most of them after the migration has begun
MIGRATE_AFTER = 300  # records
SEED = 7
PATIENCE = 30.0  # seconds for any one thing to happen
POLL = 0.01
PROMPT = r"tiny> "
MAX_UNREAD = 1 << 20  # characters of console kept; the whole journal's acknowledgements have 40 KiB


class DemoError(EmuError):
    """Raised by the demo when the guest, a process or the disk is not as it should be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--target", default="riscv64", help="the ISA of the guest (riscv64)")
    parser.add_argument("--json", action="store_true", help="the result as JSON in the last line")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo proved. Milliseconds and bytes."""

    acknowledged: int
    recorded: int
    ram_bytes: int
    migration: Snapshot


def execute(arguments: argparse.Namespace, _hook: StepHook | None) -> int:
    """Run it and tell what came of it."""
    guest = f"{arguments.target}-tiny"
    bundled(guest)
    with tempfile.TemporaryDirectory(prefix="emu-demo-") as folder, open_steps() as step:
        outcome = move_a_guest(guest, Path(folder), step)
    moved = outcome.migration
    print(f"The guest moved in {moved.total_ms} ms, standing still for {moved.downtime_ms} ms; {_mib(moved.transferred)} sent.")
    print(f"Its disk has all {outcome.acknowledged} records it was told are safe, and no other.")
    print(f"Its RAM ({_mib(outcome.ram_bytes)} filled before, checked after) is what it was.")
    if arguments.json:
        result = {
            "target": arguments.target,
            "downtime_ms": moved.downtime_ms,
            "total_ms": moved.total_ms,
            "bytes": moved.transferred,
            "journal_lost": outcome.acknowledged - outcome.recorded,
            "ram_checked": True,
        }
        print(json.dumps(result))
    return 0


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def move_a_guest(guest: str, folder: Path, step: Callable[[str], None]) -> Outcome:
    """The demo itself; DemoError when anything is not as it should be."""
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(DISK_SIZE)
    incoming = f"unix:{folder / 'incoming'}"
    with ExitStack() as stack:
        step(f"booting {guest}")
        source = stack.enter_context(GuestProcess("source", folder, guest, "--drive", str(disk)))
        source.expect(PROMPT)
        step("filling its RAM")
        source.send(f"mem fill {SEED}")
        filled = int(source.expect(rf"mem filled (\d+) seed {SEED}\b")[1])
        step("starting a second process that waits for it")
        destination = stack.enter_context(
            GuestProcess("destination", folder, guest, "--drive", str(disk), "--incoming", incoming)
        )
        _wait(lambda: (folder / "incoming").exists() or destination.check_alive(), "the destination listens")
        step("writing to its disk")
        source.send(f"blk journal {RECORDS}")
        source.expect(rf"journal {MIGRATE_AFTER}\b")
        step("moving it")
        migration = source.migrate(incoming)
        source.qmp("quit")
        step("finishing the journal on the other side")
        destination.expect(rf"journal done {RECORDS}\b")
        acknowledged = max(source.acknowledged(), destination.acknowledged())
        step("checking its RAM")
        destination.send(f"mem check {SEED}")
        checked = destination.expect(r"mem (ok (\d+)|BAD .*)")
        if checked[2] is None or int(checked[2]) != filled:
            raise DemoError(f"the guest's RAM is not what it was: {checked[0].strip()}, {filled} bytes were filled")
        destination.send("off")
        codes = source.wait_exit(), destination.wait_exit()
        if codes != (3, 0):
            raise DemoError(f"source and destination ended with {codes[0]} and {codes[1]}, must be 3 (moved) and 0 (off)")
        step("reading its disk")
        journal = read_journal(disk)
    if not journal.intact or journal.records != acknowledged:
        raise DemoError(f"the disk's journal has {journal}, the guest was told of {acknowledged}")
    return Outcome(acknowledged, journal.records, filled, migration)


class GuestProcess:
    """One `emu run`, with its serial line and its QMP socket."""

    def __init__(self, name: str, folder: Path, *arguments: str) -> None:
        self._name = name
        self._serial = folder / f"{name}.serial"
        self._qmp = folder / f"{name}.qmp"
        self._errors = (folder / f"{name}.err").open("w+")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "emu.cli.main", "run", *arguments, "--name", name, "--monitor", "none"),
                *("--serial", f"unix:{self._serial}", "--qmp", f"unix:{self._qmp}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        )
        self._console: socket.socket | None = None
        self._unread = ""
        self._acknowledged = 0

    def __enter__(self) -> GuestProcess:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._console is not None:
            self._console.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._errors.close()

    def send(self, line: str) -> None:
        """Type a line."""
        self._connected().sendall(line.encode() + b"\n")

    def expect(self, pattern: str) -> re.Match[str]:
        """Read the console until `pattern`, which is consumed with all before it."""
        give_up = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self._unread)) is None:
            if time.monotonic() > give_up or not self._read():
                raise DemoError(f"the {self._name}'s guest did not say {pattern!r}, but {self._unread[-200:]!r}{self._told()}")
        self._note(self._unread[: found.end()])
        self._unread = self._unread[found.end() :]
        return found

    def acknowledged(self) -> int:
        """The last journal record that the console acknowledged, all there is to read included."""
        while self._process.poll() is None and not re.search(PROMPT, self._unread) and self._read():
            pass
        self._note(self._unread)
        return self._acknowledged

    def qmp(self, command: str, **arguments: Wire) -> Wire:
        """One QMP command."""
        return qmp_call(self._qmp, command, arguments, timeout=PATIENCE)

    def migrate(self, uri: str) -> Snapshot:
        """Move the guest away; returns the numbers of the finished migration."""
        self.qmp("migrate", uri=uri)
        query: dict[str, Wire] = {}

        def over() -> bool:
            answer = self.qmp("query-migrate")
            query.update(answer if isinstance(answer, dict) else {})
            return query.get("status") in ("completed", "failed", "cancelled")

        _wait(over, "the migration ends")
        if query["status"] != "completed":
            raise DemoError(f"the migration was {query['status']!s}: {query.get('error-desc', 'no reason given')!s}")
        return Snapshot.of(query)

    def wait_exit(self) -> int:
        """The exit code."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired as exc:
            raise DemoError(f"the {self._name} did not end within {PATIENCE:.0f} s{self._told()}") from exc

    def check_alive(self) -> bool:
        """False; DemoError with what the process said when it has ended."""
        if self._process.poll() is not None:
            raise DemoError(f"the {self._name} ended with {self._process.returncode}{self._told()}")
        return False

    def _connected(self) -> socket.socket:
        if self._console is None:
            _wait(lambda: self._serial.exists() or self.check_alive(), f"the {self._name}'s serial line is there")
            self._console = socket.socket(socket.AF_UNIX)
            self._console.connect(str(self._serial))
        return self._console

    def _read(self) -> bool:
        """Read what is there, waiting for a moment; False at the end."""
        console = self._connected()
        if not select.select([console], [], [], POLL)[0]:
            return True
        data = b""
        with contextlib.suppress(ConnectionError):
            data = console.recv(1 << 16)
        self._unread = (self._unread + data.decode(errors="replace"))[-MAX_UNREAD:]
        return bool(data)

    def _note(self, text: str) -> None:
        numbers = re.findall(r"^journal (\d+)\r?$", text, re.MULTILINE)
        self._acknowledged = max(map(int, numbers), default=self._acknowledged)

    def _told(self) -> str:
        told = Path(self._errors.name).read_text(errors="replace").strip()
        return f"; it told: {told[-300:]}" if told else ""


def _wait(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise DemoError(f"waited {PATIENCE:.0f} s in vain until {what}")
        time.sleep(POLL)


STEPS = 8


@contextmanager
def open_steps() -> Iterator[Callable[[str], None]]:
    """Something that shows which step is under way: a bar on a terminal, else a line each."""
    if not sys.stdout.isatty():
        yield lambda text: print(f"{text} …", flush=True)
        return
    # Imported here: only a person at a terminal waits for it.
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(SpinnerColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")) as bar:
        task = bar.add_task("", total=STEPS)

        def step(text: str) -> None:
            bar.update(task, description=text)
            bar.advance(task)

        yield step
        bar.update(task, description="done", completed=STEPS)
