"""QEMU as a contender: Debian's qemu-system-riscv64, TCG with a single thread."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from benchmarks.contender import Guest, Migration
from benchmarks.qmp import Qmp, QmpError
from benchmarks.serial import SerialConsole
from emu.errors import EmuError

QEMU = "qemu-system-riscv64"
SNAPSHOT_FORMAT = "qcow2"  # the one format in which QEMU keeps snapshots
EXIT_SECONDS = 10

MACHINE = "-no-user-config -nodefaults -display none -machine virt -accel tcg,thread=single -smp 1"
MODERN_VIRTIO = "-global virtio-mmio.force-legacy=false"


def command_line(guest: Guest) -> list[str]:
    """QEMU's command for `guest`, without its console, monitor and migration."""
    command = [QEMU, *MACHINE.split(), *MODERN_VIRTIO.split(), "-m", f"{guest.memory_mib}M"]
    command += ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", guest.append]
    if guest.disk is not None:
        command += ["-drive", f"if=none,id=disk,cache=writeback,format={guest.disk_format},file={guest.disk}"]
        command += ["-device", "virtio-blk-device,drive=disk"]
    return command


def version() -> str:
    """QEMU's version; EmuError when it is not installed."""
    try:
        return subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout.split()[3]
    except FileNotFoundError as exc:
        raise EmuError(f"{QEMU} is not installed (Debian: qemu-system-misc)") from exc


class Qemu:
    """A Contender (contender.py) that runs the guest in QEMU."""

    console: SerialConsole

    def __init__(self, guest: Guest, directory: Path) -> None:
        self.incoming_uri = f"unix:{directory / 'migration.sock'}"
        self._guest = guest
        self._log = directory / "qemu.log"
        self._open = ExitStack()

    def start(self, *, incoming: bool = False) -> None:
        """Start QEMU; its console is connected before the guest runs, so that no output is lost."""
        console, console_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        self._open.enter_context(console)
        self._open.enter_context(monitor)
        command = command_line(self._guest)
        command += ["-chardev", f"socket,id=console,fd={console_end.fileno()}", "-serial", "chardev:console"]
        command += ["-chardev", f"socket,id=monitor,fd={monitor_end.fileno()}", "-mon", "chardev=monitor,mode=control"]
        command += ["-incoming", self.incoming_uri] if incoming else []
        with console_end, monitor_end, self._log.open("wb") as log:
            inherited = (console_end.fileno(), monitor_end.fileno())
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=inherited)
            except FileNotFoundError as exc:
                raise EmuError(f"{QEMU} is not installed (Debian: qemu-system-misc)") from exc
        self._open.callback(_end, process)
        self.console = SerialConsole(console)
        try:
            self._qmp = Qmp(monitor)
        except QmpError as exc:
            raise EmuError(f"{QEMU}: {self._log.read_text(errors='replace').strip() or exc}") from exc

    def migrate(self, uri: str, *, bandwidth: int) -> Migration:
        """Move the guest by precopy."""
        return self._qmp.migrate(uri, bandwidth=bandwidth)

    def savevm(self, tag: str) -> float:
        """Save a snapshot in the qcow2 disk."""
        return self._qmp.savevm(tag)

    def loadvm(self, tag: str) -> None:
        """Go back to a snapshot."""
        self._qmp.monitor(f"loadvm {tag}")

    def close(self) -> None:
        """End QEMU; its disks are as after a power cut."""
        self._open.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(EXIT_SECONDS)
