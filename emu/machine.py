"""One machine: a board, its vCPU thread, its disks, its run state, and the migrations that move it.

Every public method may be called from any thread but the vCPU's. A change of run state and what it entails happen under one
lock, so that a command never meets a machine half way between two states.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from emu.block.set import ImageSet
from emu.board import Board, Wiring
from emu.chardev import Chardev
from emu.clock import VirtualClock
from emu.config import MachineConfig
from emu.contents import Contents
from emu.drives import open_drives
from emu.errors import MigrationError
from emu.events import Events
from emu.icount import CountedVcpu, InstructionTime
from emu.ioerror import Action, IoError, IoStatus
from emu.runstate import NEED_DISKS, RunState, RunStateError, check_transition
from emu.snapshots import place_of_snapshots
from emu.vcpu import TimedVcpu
from migration.blockers import Blockers
from migration.manager import Migrations
from migration.protocols import Pause, StepHook, no_hook
from migration.snapshot import SAVE, SaveOptions, SaveReport
from migration.status import Status

T = TypeVar("T")
HOST_WITHIN = 10.0  # seconds for the requests of a guest that is to be held; it stands still for as long
WAITS = "the guest is paused: 'cont' carries out again what failed on its disks"
BuildBoard = Callable[[Wiring], Board]

log = logging.getLogger(__name__)


class Machine(Contents):
    """A guest that runs, is held, saved and moved. Implements migration.protocols.Guest."""

    def __init__(
        self,
        config: MachineConfig,
        build: BuildBoard,
        console: Chardev,
        *,
        incoming: bool = False,
        blank: bool = False,
        hook: StepHook = no_hook,
    ) -> None:
        """Build the machine, stopped.

        With `incoming` its images stay another process's and no guest is loaded; with `blank` none is loaded either, for
        `loadvm` is to bring one.
        """
        self.config = config
        self.events = Events()
        self.blockers = Blockers(lambda: self.migrations.under_way)
        self.exit_code = 0  # what the guest gave when it switched itself off
        self.over = threading.Event()  # set when the guest is off, or its process should end for another reason
        self.migrations: Migrations = Migrations(
            self, hook=hook, on_status=self._migration_status, on_pass=self._migration_pass
        )
        counted = InstructionTime()
        self._clock = VirtualClock(counted.now, wall_ns=None) if config.icount else VirtualClock()
        self._stop_timer = self._clock.timer(self._stop_due)
        self._lock = threading.RLock()
        self._snapshot_lock = threading.Lock()  # one snapshot command at a time
        self._state = RunState.PRELAUNCH
        self._before_hold = RunState.PRELAUNCH
        with contextlib.ExitStack() as undo:
            self.drives = open_drives(config.drives, active=not incoming, undo=undo)
            self.disks = ImageSet([image for _drive, image in self.drives])
            self.snapshots = place_of_snapshots(self.drives, config.snapshots, self.blockers, self.now)
            self.board = build(
                Wiring(
                    config=config,
                    clock=self._clock,
                    console=console,
                    drives=self.drives,
                    post=self._post,
                    power_off=self._guest_power_off,
                    request_reset=self._guest_reset,
                    io_error=self._io_error,
                    blockers=self.blockers,
                )
            )
            undo.callback(self.board.close)
            if incoming:
                self._go(RunState.INMIGRATE)
            elif not blank:
                self._reset_all()
            self._vcpu = (
                CountedVcpu(self.board.cpu, self._clock, self._crashed, engine=self.board.engine, time=counted)
                if config.icount
                else TimedVcpu(self.board.cpu, self._clock, self._crashed, alarm=self.board.engine.alarm)
            )
            undo.pop_all()

    @property
    def state(self) -> RunState:
        """The run state now."""
        return self._state

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self._state is RunState.RUNNING

    # What a user orders.

    def cont(self) -> None:
        """Run the guest. One that was moved away first takes its disks back, if nobody wrote to them since."""
        with self._lock:
            if self._state is RunState.RUNNING:
                return
            if self._state is RunState.FINISH_MIGRATE:
                raise MigrationError(f"the migration is not finalised yet, it is in status {self.migrations.status}")
            if self._state is RunState.INMIGRATE:
                raise MigrationError("no guest has come in yet")
            if self._state is RunState.POSTMIGRATE:
                self.migrations.refuse_if_twice()
            check_transition(self._state, RunState.RUNNING)
            self.disks.activate(expect_unchanged=True)
            self._run()

    def stop(self) -> None:
        """Pause the guest; harmless when it is not running."""
        with self._lock:
            if self._state is RunState.RUNNING:
                self._vcpu.pause()
                if self._state is RunState.RUNNING:  # else it switched itself off in its last slice
                    self._go(RunState.PAUSED)
                    self.events.emit("STOP")

    def now(self) -> int:
        """Guest time in ns."""
        return self._clock.now()

    def stop_at(self, time: int | None) -> None:
        """Pause the guest once its time is `time` ns, with --icount at this very instruction; None: not after all."""

        def set_timer() -> None:
            if time is None:
                self._stop_timer.cancel()
                return
            if time < self._clock.now():
                raise RunStateError(f"the guest cannot be stopped at {time} ns, its time is {self._clock.now()} ns")
            self._stop_timer.arm(time)

        self._vcpu.call(set_timer)

    def reset(self) -> None:
        """Press the reset button."""
        with self._lock:
            if not self.disks.active:
                raise RunStateError(f"the machine is {self._state} and its disks are another process's: it cannot be reset")
            self._vcpu.call(self._reset_all)
            if self._state in (RunState.SHUTDOWN, RunState.INTERNAL_ERROR, RunState.IO_ERROR):
                self._go(RunState.PAUSED)
        self.events.emit("RESET", {"guest": False})

    def io_status(self, drive: str) -> IoStatus:
        """Whether requests to the drive of this id failed, and wait for `cont`."""
        return self.board.io_status().get(drive, IoStatus.OK)

    def set_disks_active(self, *, active: bool) -> None:
        """Take the disks, or let them go for another process to take; harmless when nothing changes."""
        with self._lock:
            if self.migrations.under_way:
                raise MigrationError(f"a migration is in status {self.migrations.status} and decides who owns the drives")
            if active:
                self.disks.activate(expect_unchanged=True)
                return
            if self._state in NEED_DISKS:
                raise RunStateError(f"the machine is {self._state} and needs its drives, it can let them go when paused")
            self._vcpu.call(self.board.drain)
            self.disks.inactivate()

    def power_down(self) -> None:
        """End the guest as if its plug were pulled, disks flushed."""
        with self._lock:
            self._vcpu.pause()
            self._vcpu.call(self.board.drain)
        self.over.set()

    def savevm(self, tag: str, how: SaveOptions = SAVE) -> SaveReport:
        """Save the guest as `tag`."""
        with self._snapshot_lock:
            self._refuse_while_migrating("saved")
            return self.snapshots.save(self, tag, how)

    def loadvm(self, tag: str, *, vmstate: str | None = None) -> None:
        """Become the guest saved as `tag`, its state in the drive `vmstate` if given; running before, it runs after."""
        with self._snapshot_lock:
            self._refuse_while_migrating("replaced")
            self.snapshots.load(self, tag, vmstate=vmstate)

    def delvm(self, tag: str) -> None:
        """Delete the snapshot `tag`."""
        with self._snapshot_lock:
            self.snapshots.delete(tag)

    def _refuse_while_migrating(self, what: str) -> None:
        if self.migrations.under_way or self._state is RunState.INMIGRATE:
            raise MigrationError(f"the guest cannot be {what} while a migration is under way")

    def close(self) -> None:
        """End the threads and give everything back; the guest is gone. Harmless when done already."""
        if self._vcpu.closed:
            return
        self.migrations.cancel()
        self.migrations.wait_over(timeout=10)
        self._vcpu.call(self._pause_and_drain)
        self._vcpu.close()
        self.disks.close()
        self.board.close()

    # What the guest orders, on the vCPU thread.

    def _guest_power_off(self, code: int) -> None:
        self.exit_code = code
        self._vcpu.run_next(self._shut_down)

    def _shut_down(self) -> None:
        # Not under the lock: a command that holds it may be waiting for this thread.
        if not self._vcpu.running:
            return
        self._pause_and_drain()
        self._go(RunState.SHUTDOWN)
        self.events.emit("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
        self.over.set()

    def _guest_reset(self) -> None:
        self._vcpu.run_next(self._reset_by_guest)

    def _reset_by_guest(self) -> None:
        self._reset_all()
        self.events.emit("RESET", {"guest": True})

    def _stop_due(self) -> None:
        self._vcpu.pause()
        self._go(RunState.PAUSED)
        self.events.emit("STOP")

    def _io_error(self, error: IoError) -> None:
        self.events.emit("BLOCK_IO_ERROR", error.event())
        if error.action is Action.STOP:
            self._vcpu.run_next(self._stop_on_io_error)

    def _stop_on_io_error(self) -> None:
        if not self._vcpu.running or not self.board.io_status():  # it was stopped or reset meanwhile
            return
        self._vcpu.pause()
        self._go(RunState.IO_ERROR)
        self.events.emit("STOP")
        log.warning(WAITS)

    def _crashed(self, exc: Exception) -> None:
        log.error("the guest stopped", exc_info=exc)
        self._go(RunState.INTERNAL_ERROR)
        self.events.emit("STOP")

    def _post(self, function: Callable[[], None]) -> None:
        self._vcpu.post(function)

    def _pause_and_drain(self) -> None:
        self._vcpu.running = False
        self._clock.stop()
        self.board.drain()

    def _pause_unless_blocked(self) -> None:
        if busy := self.board.busy(HOST_WITHIN):
            text = f"the host has not carried out what it was asked by {', '.join(busy)} within {HOST_WITHIN:.0f} s"
            raise MigrationError(f"the guest can be neither saved nor moved: {text}")
        self.board.drain()  # the last request may be the one that blocks
        if reasons := self.blocked_reasons():
            raise MigrationError("the guest can be neither saved nor moved: " + " ".join(reasons))
        self._pause_and_drain()

    def _reset_all(self) -> None:
        self.board.drain()
        for device in self.board.devices:
            device.reset()
        self.board.cpu.reset()
        self.board.load_guest()
        self.board.loaded()

    # migration.protocols.Guest, beside what it consists of (contents.py).

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the vCPU thread between slices."""
        return self._vcpu.call(function)

    def hold(self, why: Pause) -> bool:
        """Stop the vCPU and let every request in flight complete."""
        with self._lock:
            check_transition(self._state, RunState(why))
            if not self.disks.active:  # they may have been let go since whoever holds the guest looked
                raise MigrationError(f"the machine cannot go to {why} while its disks belong to another process")
            self._vcpu.call(self._pause_unless_blocked)
            self._before_hold = self._state  # the guest may have switched itself off or failed in its last slice
            self._go(RunState(why))
            ran = self._before_hold is RunState.RUNNING
            if ran:
                self.events.emit("STOP")
            return ran

    def release(self, *, run: bool) -> None:
        """End a hold."""
        with self._lock:
            if self._state is RunState.INTERNAL_ERROR:  # it failed while it was held
                return
            if run:
                self._run()
            else:
                before = self._before_hold
                stopped = before in (RunState.RUNNING, RunState.PAUSED, RunState.IO_ERROR)
                self._go(self._stopped() if stopped else before)

    def moved_away(self) -> None:
        """End a hold for good."""
        with self._lock:
            self._go(RunState.POSTMIGRATE)

    def arrive(self, *, run: bool) -> None:
        """Become the guest that came in."""
        with self._lock:
            if run:
                self._run()
            else:
                self._go(self._stopped())
                if self._state is RunState.IO_ERROR:
                    log.warning(WAITS)

    def _stopped(self) -> RunState:
        """The state of a guest that came in, or was held, and does not run."""
        return RunState.IO_ERROR if self.board.io_status() else RunState.PAUSED

    def _run(self) -> None:
        self._go(RunState.RUNNING)
        self.events.emit("RESUME")  # first: the guest may stop itself at once
        self._vcpu.resume(self.board.retry)

    def _go(self, new: RunState) -> None:
        if new is not self._state:
            check_transition(self._state, new)
            self._state = new

    def _migration_status(self, status: Status) -> None:
        if self.migrations.capabilities.events:
            self.events.emit("MIGRATION", {"status": str(status)})

    def _migration_pass(self, iteration: int) -> None:
        if self.migrations.capabilities.events:
            self.events.emit("MIGRATION_PASS", {"pass": iteration})
