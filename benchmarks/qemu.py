"""QEMU as a contender: Debian's qemu-system-*, TCG with a single thread."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contender import Guest, Migration
from benchmarks.qmp import Qmp, QmpError
from benchmarks.serial import SerialConsole
from emu.errors import EmuError

SNAPSHOT_FORMAT = "qcow2"  # the one format in which QEMU keeps snapshots
EXIT_SECONDS = 10

OPTIONS = "-no-user-config -nodefaults -display none -accel tcg,thread=single -smp 1"
MODERN_VIRTIO = "-global virtio-mmio.force-legacy=false"


@dataclass(frozen=True, slots=True)
class Program:
    """QEMU for one architecture: its machine is as like emu's as it has one."""

    name: str
    package: str  # Debian's
    machine: str  # options
    line: str  # the kernel's
    packed: bool = False  # takes a kernel only as Debian ships it
    share: str = "virtio-9p-device"


PROGRAMS: dict[str, Program] = {
    "riscv64": Program("qemu-system-riscv64", "qemu-system-misc", "-machine virt", "console=ttyS0"),
    "arm64": Program("qemu-system-aarch64", "qemu-system-arm", "-machine virt -cpu cortex-a57", "console=ttyAMA0"),
    "amd64": Program(
        "qemu-system-x86_64", "qemu-system-x86", "-machine pc -cpu qemu64", "console=ttyS0", share="virtio-9p-pci"
    ),
    "armhf": Program("qemu-system-arm", "qemu-system-arm", "-machine virt -cpu cortex-a15", "console=ttyAMA0", True),
    "i386": Program(
        "qemu-system-i386", "qemu-system-x86", "-machine pc -cpu qemu32,+nx", "console=ttyS0 nopti", share="virtio-9p-pci"
    ),
}


def command_line(guest: Guest) -> list[str]:
    """QEMU's command for `guest`, without its console, monitor and migration."""
    program = PROGRAMS[guest.arch]
    command = [program.name, *OPTIONS.split(), *program.machine.split(), *MODERN_VIRTIO.split(), "-m", f"{guest.memory_mib}M"]
    command += ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", program.line]
    if guest.disk is not None:
        command += ["-drive", f"if=none,id=disk,cache=writeback,format={guest.disk_format},file={guest.disk}"]
        command += ["-device", "virtio-blk-device,drive=disk"]
    if guest.share is not None:
        command += ["-fsdev", f"local,id=share,path={guest.share},security_model=none"]
        command += ["-device", f"{program.share},fsdev=share,mount_tag=host0"]
    return command


def version(arch: str = "riscv64") -> str:
    """The version of the QEMU for an architecture; EmuError when it is not installed."""
    program = PROGRAMS[arch]
    try:
        return subprocess.run([program.name, "--version"], capture_output=True, text=True, check=True).stdout.split()[3]
    except FileNotFoundError as exc:
        raise _not_installed(program) from exc


def _not_installed(program: Program) -> EmuError:
    return EmuError(f"{program.name} is not installed (Debian: {program.package})")


class Qemu:
    """A Contender (contender.py) that runs the guest in QEMU."""

    console: SerialConsole

    def __init__(self, guest: Guest, directory: Path) -> None:
        self.incoming_uri = f"unix:{directory / 'migration.sock'}"
        self._guest = guest
        self._log = directory / "qemu.log"
        self._open = ExitStack()
        self._process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The process, from `start` on."""
        return self._process.pid

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
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=inherited)
            except FileNotFoundError as exc:
                raise _not_installed(PROGRAMS[self._guest.arch]) from exc
        self._open.callback(_end, self._process)
        self.console = SerialConsole(console)
        try:
            self._qmp = Qmp(monitor)
        except QmpError as exc:
            raise EmuError(f"{command[0]}: {self._log.read_text(errors='replace').strip() or exc}") from exc

    def migrate(self, uri: str, *, bandwidth: int, disk: bool = False) -> Migration:
        """Move the guest by precopy."""
        return self._qmp.migrate(uri, bandwidth=bandwidth, disk=disk)

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
