"""emu as a contender: `emu run` in a process of its own, controlled over QMP, its guest's console a unix socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.metadata import version as installed_version
from pathlib import Path

from benchmarks.contender import Guest, Migration
from benchmarks.qmp import Qmp
from benchmarks.serial import SerialConsole
from emu.errors import EmuError

EMU = (sys.executable, "-m", "emu.cli.main")
# Debian's architectures: the target, and the command line. A PC without ACPI does not say how fast its time stamp counter is;
# measured against the PIT, a busy host spoils it. The 32-bit kernel does not ask whether it is invariant, and takes the CPU for
# an Intel of those whose page tables are isolated, at ten times the cost of a system call.
GUESTS = {
    "riscv64": ("riscv64", "console=ttyS0"),
    "arm64": ("arm64", "console=ttyAMA0"),
    "amd64": ("x86_64", "console=ttyS0 tsc_early_khz=1000000"),
    "armhf": ("arm", "console=ttyAMA0"),
    "i386": ("i386", "console=ttyS0 tsc=reliable tsc_early_khz=1000000 nopti"),
}
SNAPSHOT_FORMAT = "raw"  # `savevm=copy` keeps a copy of a raw disk beside each snapshot
START_SECONDS = 30
RETRY_SECONDS = 0.001
EXIT_SECONDS = 10


def version() -> str:
    """The version of the package."""
    return installed_version("emu")


def arguments(guest: Guest) -> list[str]:
    """`emu run`'s arguments for `guest`, without its console, monitor and migration."""
    target, line = GUESTS[guest.arch]
    command = [target, "--memory", f"{guest.memory_mib}M", "--no-rng"]
    command += ["--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", line]
    if guest.disk is not None:
        copy = ",savevm=copy" if guest.snapshots and guest.disk_format == "raw" else ""
        command += ["--drive", f"{guest.disk},id=disk,format={guest.disk_format}{copy}"]
    if guest.share is not None:
        command += ["--share", str(guest.share)]
    return command


class Emu:
    """A Contender (contender.py) that runs the guest in emu."""

    console: SerialConsole

    def __init__(self, guest: Guest, directory: Path) -> None:
        self.incoming_uri = f"unix:{directory / 'migration.sock'}"
        self._guest = guest
        self._directory = directory
        self._log = directory / "emu.log"
        self._open = ExitStack()
        self._process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The process, from `start` on."""
        return self._process.pid

    def start(self, *, incoming: bool = False, options: tuple[str, ...] = ()) -> None:
        """Start emu with further `options`; output that the guest makes before the console is connected is kept for it."""
        folder = self._directory
        command = [*EMU, "run", *arguments(self._guest), "--name", "bench", "--monitor", "none", *options]
        command += ["--serial", f"unix:{folder / 'serial'}", "--qmp", f"unix:{folder / 'qmp'}"]
        command += ["--snapshots", str(folder / "snapshots")]
        command += ["--incoming", self.incoming_uri] if incoming else []
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self._open.callback(_end, self._process)
        self.console = SerialConsole(self._open.enter_context(self._connect(folder / "serial")))
        self._qmp = Qmp(self._open.enter_context(self._connect(folder / "qmp")))
        if incoming:
            self._wait_for(Path(self.incoming_uri.removeprefix("unix:")))

    def migrate(self, uri: str, *, bandwidth: int, disk: bool = False) -> Migration:
        """Move the guest by precopy."""
        return self._qmp.migrate(uri, bandwidth=bandwidth, disk=disk)

    def savevm(self, tag: str) -> float:
        """Save a snapshot in the qcow2 disk, or in the folder of this process."""
        return self._qmp.savevm(tag)

    def loadvm(self, tag: str) -> None:
        """Go back to a snapshot."""
        self._qmp.monitor(f"loadvm {tag}")

    def close(self) -> None:
        """End emu; its disks are as after a power cut."""
        self._open.close()

    def _connect(self, path: Path) -> socket.socket:
        self._wait_for(path)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return connection

    def _wait_for(self, path: Path) -> None:
        """Wait until emu listens there: a socket has its name only from then on."""
        give_up = time.monotonic() + START_SECONDS
        while not path.exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                text = self._log.read_text(errors="replace").strip()
                raise EmuError(f"emu run does not listen at {path}: {text or f'no word in {START_SECONDS} s'}")
            time.sleep(RETRY_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(EXIT_SECONDS)
