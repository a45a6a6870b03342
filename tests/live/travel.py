"""A scripted tiny guest under `--icount`, on its way through as many machines as a test likes.

As a program, `python -m tests.live.travel GUEST FOLDER TIME` is a machine of the way that gets killed: it takes the guest up
where the one before has saved it in FOLDER, or starts it, runs it to TIME (ns of guest time) and saves it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from emu.config import DriveConfig, MachineConfig
from emu.icount import NS_PER_INSTRUCTION
from emu.machine import Machine
from emu.runstate import RunState
from images import BUNDLED
from migration.status import Status
from targets import find_target
from tests.devices.fakes import MemoryChardev
from tests.live.machines import WAIT, wait_for

UUID = "00000000-0000-0000-0000-000000000000"
MIB = 1 << 20
END = 250_000_000  # ns of guest time, and of everything that the script asks for but the end of its last command
SCRIPT = (
    b"info\ntick 3\nmem fill 3 1\nmem check 3 1\nblk write 5 77\nblk journal 6\nrand\nsleep 30\nblk journal 6\nrand\nirq\n"
    b"mem churn 40 1000 1\n"
)

Outcome = tuple[bytes, bytes]  # all the guest printed; RAM, disk, CPU and devices as a snapshot holds them


class Station:
    """One machine on a guest's way."""

    def __init__(self, config: MachineConfig, *, incoming: bool = False, blank: bool = False) -> None:
        self.console = MemoryChardev()
        self.machine = Machine(config, find_target(config.target), self.console, incoming=incoming, blank=blank)

    def wait_stopped(self, time: int) -> None:
        """Wait until the guest has stopped at `time` ns."""
        wait_for(lambda: self.machine.state is RunState.PAUSED, "the guest stops")
        assert 0 <= self.machine.now() - time < NS_PER_INSTRUCTION


class Travel:
    """One run of the scripted guest from power-on to END, through as many machines as it likes."""

    def __init__(self, guest: str, folder: Path, keep: ExitStack) -> None:
        """`folder` is empty, or has what another process has saved of the run."""
        started = (folder / "way.emu").exists()
        if not started:
            (folder / "disk").write_bytes(bytes(MIB))
        image = BUNDLED[guest]
        self._folder = folder
        self._config = MachineConfig(
            target=image.target,
            memory=16 * MIB,
            kernel=keep.enter_context(image.kernel()),
            drives=(DriveConfig(path=str(folder / "disk"), id="disk", savevm="copy"),),
            icount=True,
            uuid=UUID,
            snapshots=folder,
        )
        self._output = b""
        self.here = Station(self._config, blank=started)
        keep.callback(lambda: self.machine.close())
        if started:
            self.machine.loadvm("way")
        else:
            self.machine.call(lambda: self.here.console.feed(SCRIPT))

    @property
    def machine(self) -> Machine:
        """Where the guest is."""
        return self.here.machine

    def start_for(self, time: int) -> None:
        """Let the guest run, to stop at `time` ns."""
        self.machine.stop()  # one that ran might come to `time` before `cont`, which would have it run on
        self.machine.stop_at(time)
        self.machine.cont()

    def run_to(self, time: int) -> None:
        """Let the guest run to `time` ns."""
        self.start_for(time)
        self.here.wait_stopped(time)

    def stop(self) -> None:
        """Pause the guest."""
        self.machine.stop()

    def restart(self) -> None:
        """Save the guest, end its machine and go on in another."""
        self.machine.stop()  # what it would do until its machine is gone is not part of its life
        self.machine.savevm("way")
        self._leave()
        self.here = Station(self._config, blank=True)
        self.machine.loadvm("way")

    def leave_by_death(self, time: int) -> None:
        """Run to `time`, save the guest and append what it printed to `output` in the folder; then kill this process."""
        self.run_to(time)
        self.machine.savevm("end" if time == END else "way")
        with (self._folder / "output").open("ab") as file:
            file.write(self.here.console.output)
        os.kill(os.getpid(), signal.SIGKILL)

    def move(self) -> None:
        """Have the guest migrate to another machine; a running one runs there to END at most."""
        there = Station(self._config, incoming=True)
        there.machine.stop_at(END)
        self.machine.migrations.migrate(there.machine.migrations.incoming(f"unix:{self._folder / 'move'}"))
        self.machine.migrations.wait_over(WAIT)
        assert self.machine.migrations.status is Status.COMPLETED, self.machine.migrations.error
        there.machine.migrations.wait_over(WAIT)
        self._leave()
        self.here = there

    def _leave(self) -> None:
        self._output += self.here.console.output
        self.machine.close()

    def finish(self) -> Outcome:
        """Run to END and look at everything."""
        self.run_to(END)
        self.machine.savevm("end")
        return self._output + self.here.console.output, (self._folder / "end.emu").read_bytes()


if __name__ == "__main__":
    Travel(sys.argv[1], Path(sys.argv[2]), ExitStack()).leave_by_death(int(sys.argv[3]))
