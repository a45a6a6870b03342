"""A Debian guest as a test sees it: its shell, its kernel's log, its clock, the file system it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from benchmarks.emu import GUESTS
from benchmarks.serial import ConsoleError, SerialConsole
from images.linux import LinuxImage
from migration.protocols import Step
from tests.live.machines import WAIT, EmuProcess

BOOT = 90  # seconds; thirty times what a boot takes on an idle host
SHELL = "~ # "
PROGRAMS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# What a kernel says when something is wrong with it or its machine, whatever the level it says it at.
TROUBLE = re.compile(
    r"Oops|\bBUG\b|WARNING:|Call Trace|Kernel panic|Unable to handle|unhandled signal|segfault|nobody cared|Bad page"
    r"|\bstalls?\b|soft lockup|hard LOCKUP|blocked for more than|hung task|unstable|Time jumped"
    r"|I/O error|EXT4-fs (?:error|warning)|JBD2: .*(?:rror|abort)|insmod \S+ failed|timed? ?out",
)
ENDS = re.compile("reboot: (?:Power down|Power off not available: System halted instead|System halted)")

UPTIME_STEP = 0.010  # /proc/uptime counts hundredths of a second
CLOCK_LOOP = "while read -r _; do read -r up _ </proc/uptime; echo up=$up; done"
PRECISE = 0.015  # seconds within which a clock's offset is to be known
MOST_PROBES = 200  # to get there
END_OF_INPUT = "\x04"


class RecordingConsole(SerialConsole):
    """A console that also keeps all of the guest's output."""

    transcript = ""

    def _receive(self, deadline: float, wish: str) -> None:
        known = len(self._pending)
        super()._receive(deadline, wish)
        self.transcript += self._pending[known:]

    def read_to_end(self) -> str:
        """All the guest printed up to the machine's hang-up."""
        with suppress(ConsoleError):
            self.expect(r"(?!)", WAIT)
        return self.transcript


class LinuxGuest(EmuProcess):
    """`emu run` with Debian's kernel of an architecture; incoming ones are given the options of the one that comes in."""

    def __init__(
        self, folder: Path, name: str, image: LinuxImage, *options: str, fault: tuple[Step, str] | None = None
    ) -> None:
        files = ("--kernel", str(image.kernel), "--initrd", str(image.initrd))
        target, line = GUESTS[image.arch]
        super().__init__(folder, name, target, *files, "--append", line, *options, fault=fault)

    @property
    def console(self) -> RecordingConsole:
        """The guest's serial line."""
        if self._console is None:
            self._console = RecordingConsole.connect(self.serial_path, WAIT)
        return cast(RecordingConsole, self._console)

    def boot(self) -> Self:
        """Wait for the shell."""
        self.console.expect("BOOT-OK", BOOT)
        self.console.expect(SHELL, WAIT)
        return self

    def run(self, command: str, timeout: float = WAIT) -> str:
        """Run a shell command in the guest and return its output; ConsoleError when it fails."""
        return self.console.run(command, timeout)

    def interrupt(self) -> None:
        """Press Ctrl-C and wait for the prompt."""
        self.console.send("\x03")
        self.console.expect(rf"\^C\r?\n{SHELL}", WAIT)

    def troubles(self) -> list[str]:
        """Lines of the kernel's log that tell of a problem; the log goes back to the boot, whichever process that was in."""
        log = self.run("dmesg")
        assert "Linux version" in log  # else the log has wrapped, and what is gone cannot be judged
        return find_troubles(log)

    def power_off(self) -> int:
        """Switch the guest off, whose kernel must be content up to its last line; the process's exit code."""
        assert self.troubles() == []
        self.console.send_line("poweroff -f")
        code = self.wait_exit()
        everything = self.console.read_to_end()
        assert ENDS.search(everything)
        assert find_troubles(everything) == []
        return code

    def move(self, there: LinuxGuest, scheme: str) -> dict[str, object]:
        """Migrate to `there`, started with `--incoming defer`, over "unix" or "tcp"; query-migrate of the completed move."""
        wanted = f"unix:{there.folder / there.name}.in" if scheme == "unix" else "tcp:127.0.0.1:0"
        there.qmp("migrate-incoming", uri=wanted)
        if scheme == "tcp":
            (address,) = cast("list[dict[str, str]]", there.migration["socket-address"])
            wanted = f"tcp:{address['host']}:{address['port']}"
        answer = self.migrate(wanted)
        assert answer["status"] == "completed", answer
        return cast("dict[str, object]", answer)


def find_troubles(text: str) -> list[str]:
    """Lines that TROUBLE is found in."""
    return [line for line in text.splitlines() if TROUBLE.search(line)]


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """Bounds, in seconds, of a guest's uptime minus the host's monotonic clock."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The best guess."""
        return (self.low + self.high) / 2


class GuestClock:
    """Reads the uptime of a guest that runs CLOCK_LOOP in the foreground, where no process has to start for an answer."""

    def __init__(self, guest: LinuxGuest) -> None:
        """Start the loop in `guest`."""
        guest.console.send_line(CLOCK_LOOP)
        guest.console.expect(r"up=\$up; done\r?\n", WAIT)

    def offset(self, guest: LinuxGuest, probes: int) -> ClockOffset:
        """Ask at least `probes` times, and see that all answers fit one offset: the clock ran as the host's did meanwhile."""
        low, high = float("-inf"), float("inf")
        for probe in range(MOST_PROBES):
            asked = time.monotonic()
            guest.console.send("\n")
            uptime = float(guest.console.expect(r"up=(\d+\.\d+)\r?\n", WAIT)[1])
            answered = time.monotonic()
            low, high = max(low, uptime - answered), min(high, uptime + UPTIME_STEP - asked)
            assert low <= high, f"the guest's clock jumped by {low - high:.3f} s within one process"
            if probe + 1 >= probes and high - low <= PRECISE:
                break
        return ClockOffset(low, high)

    def stop(self, guest: LinuxGuest) -> None:
        """Back to the prompt."""
        guest.console.send(END_OF_INPUT)
        guest.console.expect(SHELL, WAIT)


def check_ext4(image: Path) -> None:
    """Check every block of an image that must need no repair."""
    _e2fsprogs("fsck.ext4", "-f", "-n", str(image))


def unpack_ext4(image: Path, folder: Path) -> None:
    """Copy the files of an ext4 image into `folder`, without any kernel's help."""
    folder.mkdir()
    _e2fsprogs("debugfs", "-R", f"rdump / {folder}", str(image))


def _e2fsprogs(program: str, *arguments: str) -> None:
    path = shutil.which(program, path=PROGRAMS)
    assert path is not None, f"{program} is not installed (Debian: e2fsprogs)"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Resident memory of an emu process in bytes: its guest's RAM, and all else."""

    guest: int
    rest: int

    @classmethod
    def of(cls, pid: int, ram: int) -> HostMemory:
        """Read /proc/PID/smaps; the one mapping of `ram` bytes is the guest's RAM, resident where the guest touched it."""
        maps = Path(f"/proc/{pid}/smaps").read_text()
        sizes = [(int(size), int(rss)) for size, rss in re.findall(r"^Size: +(\d+) kB\n(?:.*\n){2}Rss: +(\d+) kB", maps, re.M)]
        (guest,) = (rss << 10 for size, rss in sizes if size << 10 == ram)
        return cls(guest, sum(rss << 10 for _size, rss in sizes) - guest)
