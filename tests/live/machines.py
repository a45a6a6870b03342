"""A running `emu run` as a test sees it: its serial console, its QMP socket, its process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import pytest

from benchmarks.serial import SerialConsole
from emu.monitor.client import QmpCallError, qmp_call
from migration.protocols import Step
from migration.vmstate import Wire

WAIT = 30  # seconds; only a hang takes so long
POLL = 0.005
PROMPT = "tiny> "


# Both byte orders, both widths, every way of delivering exceptions; the other targets have a marker of their own.
FIRST = ("riscv64", "arm64", "x86_64", "mips")


def guests(targets: Iterable[str]) -> list[object]:
    """The tiny guests of `targets`, to parametrize a test with."""
    return [pytest.param(f"{target}-tiny", marks=() if target in FIRST else pytest.mark.every_target) for target in targets]


def wait_for(condition: object, what: str, timeout: float = WAIT) -> None:
    """Poll a callable until it is true."""
    assert callable(condition)
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not happen within {timeout} s"
        time.sleep(POLL)


class EmuProcess:
    """One `emu run` in a process of its own."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *arguments: str,
        fault: tuple[Step, str] | None = None,
        launcher: Sequence[str] = ("emu.cli.main",),
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`fault` is a step and what happens there: see tests.live.launcher; `launcher` a module and its words before `run`."""
        self.folder = folder
        self.name = name
        self.serial_path = folder / f"{name}.serial"
        self.qmp_path = folder / f"{name}.qmp"
        self.log_path = folder / f"{name}.log"
        if fault is not None:
            launcher = ("tests.live.launcher", fault[0].value, fault[1], "--")
        command = [
            *(sys.executable, "-m", *launcher, "run", *arguments, "--name", name, "--monitor", "none"),
            *("--serial", f"unix:{self.serial_path}", "--qmp", f"unix:{self.qmp_path}"),
        ]
        self._errors = (folder / f"{name}.err").open("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
            pass_fds=pass_fds,
        )
        self._console: SerialConsole | None = None

    @property
    def console(self) -> SerialConsole:
        """The guest's serial line."""
        if self._console is None:
            self._console = SerialConsole.connect(self.serial_path, WAIT)
        return self._console

    def qmp(self, command: str, **arguments: Wire) -> Wire:
        """Run one QMP command; `_` in argument names stands for `-`."""
        wait_for(lambda: self.qmp_path.exists() or self.ended, f"{self.name}: QMP socket")
        return qmp_call(self.qmp_path, command, {key.replace("_", "-"): value for key, value in arguments.items()})

    def monitor(self, line: str) -> str:
        """Run one monitor line and return its text."""
        return cast(str, self.qmp("human-monitor-command", command_line=line))

    def switch_on(self, *capabilities: str) -> None:
        """migrate-set-capabilities."""
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in capabilities])

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self.process.poll() is not None

    @property
    def status(self) -> str:
        """The run state."""
        return cast("dict[str, str]", self.qmp("query-status"))["status"]

    @property
    def migration(self) -> dict[str, Wire]:
        """query-migrate."""
        return cast("dict[str, Wire]", self.qmp("query-migrate"))

    def migrate(self, uri: str) -> dict[str, Wire]:
        """Move the guest away and wait for the outcome."""
        self.qmp("migrate", uri=uri)
        return self.wait_migration()

    def wait_migration(self) -> dict[str, Wire]:
        """Wait until no migration is under way; returns query-migrate."""
        over = ("completed", "failed", "cancelled")
        wait_for(lambda: self.migration.get("status") in over, f"{self.name}: end of the migration")
        return self.migration

    def wait_migration_status(self, status: str) -> None:
        """Wait for a migration's status."""
        wait_for(lambda: self.migration.get("status") == status, f"{self.name}: a migration in status {status}")

    def wait_status(self, status: str) -> None:
        """Wait for a run state."""
        wait_for(lambda: self.status == status, f"{self.name}: {status}")

    def runs_in_the_end(self) -> bool:
        """Wait until the guest runs here, or the process has ended without it."""

        def runs() -> bool:
            with contextlib.suppress(QmpCallError):  # it may end while it is asked
                return self.status == "running"
            return False

        wait_for(lambda: self.ended or runs(), f"{self.name}: a guest that runs, or the end")
        return not self.ended

    @property
    def errors(self) -> str:
        """What the process wrote to stdout and stderr so far."""
        self._errors.flush()
        return Path(self._errors.name).read_text()

    def wait_exit(self) -> int:
        """Wait for the process to end; its exit code."""
        return self.process.wait(WAIT)

    def close(self) -> None:
        """Kill what is left."""
        if self._console is not None:
            self._console.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._errors.close()


class Teller:
    """Where a launcher with `tell:` reports; `wait` returns when it has, `go_on` lets it continue."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._server.settimeout(WAIT)
        self._peer: socket.socket | None = None

    def wait(self) -> str:
        """The step at which the process now stands."""
        self._peer, _name = self._server.accept()
        return self._peer.recv(100).decode().strip()

    def go_on(self) -> None:
        """Let it continue."""
        assert self._peer is not None
        self._peer.sendall(b".")
        self._peer.close()
