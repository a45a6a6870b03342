"""The sending side of a migration, told in order.

Before GO every failure, a cancel included, takes one way back (`_roll_back`): the disks are taken again, and the guest goes on
if it ran. After GO this side runs the guest only on the destination's word that it does not and will not (an ERROR frame, sent
after it let go of the disks); without any word the guest stays paused here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from emu.errors import EmuError, ImageError, ImageErrorKind, MigrationError, StreamError
from migration.blocks import DiskCounters, OutgoingDisks
from migration.channel import Address, Cancelled, Channel, connect
from migration.pages import Pacer, RamCounters, RamSender, merge_runs
from migration.protocols import PAGE, DirtyLog, Guest, Pause, Step, StepHook
from migration.sections import describe_sections, dump_sections
from migration.settings import Capabilities, DiskMode, Parameters
from migration.status import Status, StatusMachine
from migration.stream import Kind, PeerRefused, StreamReader, StreamWriter
from migration.vmstate import Wire

MAX_ROUNDS_BELOW_LIMIT = 8  # a guest that keeps dirtying what fits the limit must not keep us from switching over
DISKS_BACK_WITHIN = 5.0  # seconds; a destination that was cut off needs a moment to let go of its locks

UNANSWERED = (
    "the order to run was sent, but no answer came: the guest may be running on the other side, so it stays paused here. "
    "If you know that it does not run there, 'cont' resumes it, provided its disks can be taken back unchanged"
)


UNANSWERED_COPIED = (
    "the order to run was sent, but no answer came: the guest may be running on the other side, on its copies of the disks, so "
    "it stays paused here. If you know that it does not run there, 'cont' resumes it; the disks here cannot tell"
)


@dataclass(slots=True)
class Progress:
    """What `query-migrate` shows of an outgoing migration. Written by its thread, read by any."""

    started: float = field(default_factory=time.monotonic)
    setup_ms: int = 0
    ended: float | None = None
    downtime_ms: float = 0.0
    expected_downtime_ms: int = 0
    bandwidth: float = 0.0  # bytes per second, over the last round
    total_bytes: int = 0  # guest RAM
    remaining_bytes: int = 0
    transferred: int = 0  # bytes, those of disks apart
    precopy_bytes: int = 0
    downtime_bytes: int = 0
    dirty_pages_rate: int = 0  # pages per second
    iterations: int = 0
    counters: RamCounters = field(default_factory=RamCounters)
    disks: DiskCounters = field(default_factory=DiskCounters)
    error: str = ""

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the start, or that it took."""
        return round(((self.ended or time.monotonic()) - self.started) * 1000)


class Outgoing:
    """One migration to `address`; `run` is the body of its thread."""

    def __init__(
        self,
        guest: Guest,
        address: Address,
        status: StatusMachine,
        capabilities: Capabilities,
        parameters: Parameters,
        hook: StepHook,
        on_pass: Callable[[int], None] = lambda _iteration: None,
        disks: DiskMode = DiskMode.SHARED,
    ) -> None:
        self.progress = Progress()
        self._guest = guest
        self._address = address
        self._status = status
        self._capabilities = capabilities
        self._parameters = parameters
        self._hook = hook
        self._on_pass = on_pass
        self._disks = OutgoingDisks(() if disks is DiskMode.SHARED else guest.moved_disks(), disks, self.progress.disks)
        self._said_to_run = False
        self._channel: Channel | None = None
        self._cancel = threading.Event()
        self._continue = threading.Event()
        self._switchover = threading.Lock()  # held for the moment in which a cancel must not slip past GO
        self._committed = False
        self._held = False
        self._ran = False
        self._logs: list[DirtyLog] = []
        self._pending: list[NDArray[np.int64]] = []
        self._round_seconds = 0.0

    def cancel(self) -> bool:
        """Order the migration to end and be undone; False when GO has been sent and it is too late."""
        with self._switchover:
            if self._committed:
                return False
            self._cancel.set()
        self._continue.set()
        if self._channel is not None:
            self._channel.cancel()
        return True

    @property
    def left_with_disks(self) -> bool:
        """Whether the other side has said that the guest runs there, on disks that are not those here."""
        return self._said_to_run and bool(self._disks.disks)

    def proceed(self) -> None:
        """migrate-continue: leave pre-switchover."""
        self._continue.set()

    def run(self) -> None:
        """Migrate. Never raises: the outcome is in the status, its reason in `progress.error`."""
        try:
            self._migrate()
        except BaseException as exc:
            self._fail(exc)
            if not isinstance(exc, (Cancelled, EmuError, OSError)):
                raise  # our bug: its traceback belongs in the log

    def _close(self) -> None:
        """Give everything back; a status that says it is over is seen only after that."""
        if self.progress.ended is None:
            self.progress.ended = time.monotonic()
        for log in self._logs:
            log.stop()
        self._disks.stop()
        if self._channel is not None:
            self._channel.close()

    def _migrate(self) -> None:
        channel = self._channel = connect(self._address, return_path=self._capabilities.return_path)
        self._hook(Step.CONNECTED)
        writer, reader = StreamWriter(channel), StreamReader(channel)
        savables = self._guest.savables()
        description = describe_sections(savables)
        writer.start()
        config: dict[str, Wire] = {"machine": dict(self._guest.configuration()), "two-way": channel.two_way}
        if self._disks.mode is not DiskMode.SHARED:
            config["disks"] = self._disks.describe()
        writer.frame(Kind.CONFIG, config | {"validate-uuid": self._capabilities.validate_uuid})
        self._hook(Step.CONFIG_SENT)
        if channel.two_way:
            answer = reader.expect(Kind.ACCEPT).fields()
            if self._disks.disks and answer.get("disks") is not True:
                raise MigrationError("the other side's emu is older: it takes no disks that move with their guest")
        self._hook(Step.ACCEPTED)
        self.progress.setup_ms = self.progress.elapsed_ms
        self._go(Status.ACTIVE)
        senders = self._precopy(writer, reader if channel.two_way else None)

        down_at = time.monotonic()
        self._hold_guest()
        before = writer.bytes_written
        self._disks.note_changes()
        self._disks.send_changes(self._check_cancel)  # before they are let go, while their tables are at hand
        self._guest.disks.inactivate()
        self._hook(Step.DISKS_LET_GO)
        for sender, log, pending in zip(senders, self._logs, self._pending, strict=True):
            sender.send(merge_runs(pending, log.collect()), self._check_cancel)
        self._hook(Step.LAST_ROUND_SENT)
        with writer.together():
            for section in self._guest.call(lambda: dump_sections(savables)):
                writer.frame(Kind.SECTION, section.to_wire())
            writer.frame(Kind.DESCRIPTION, {"sections": description})
            writer.frame(Kind.END, {"run": self._ran})
        self.progress.remaining_bytes = 0
        self.progress.downtime_bytes = writer.bytes_written - before
        self._note_transferred(writer)
        self._hook(Step.STATE_SENT)
        if channel.two_way:
            reader.expect(Kind.READY)
            self._hook(Step.READY_HEARD)
            self._send_go(writer, reader)
        else:
            channel.end_of_writing()
            self._commit()
        self.progress.ended = time.monotonic()
        self.progress.downtime_ms = (self.progress.ended - down_at) * 1000
        self._guest.moved_away()
        self._close()
        self._status.go(Status.COMPLETED)

    def _send_go(self, writer: StreamWriter, reader: StreamReader) -> None:
        """The point of no return. A GO that the channel refused was not sent: a frame this small goes whole or not at all."""
        with self._switchover:
            if self._cancel.is_set():
                raise Cancelled
            writer.frame(Kind.GO, {})
            self._committed = True
        self._hook(Step.GO_SENT)
        try:
            reader.expect(Kind.RUNNING)
        except PeerRefused:
            self._committed = False
            raise
        except (EmuError, Cancelled) as exc:
            raise MigrationError(UNANSWERED_COPIED if self._disks.disks else UNANSWERED) from exc
        self._said_to_run = True
        self._hook(Step.RUNNING_HEARD)

    def _commit(self) -> None:
        with self._switchover:
            if self._cancel.is_set():
                raise Cancelled
            self._committed = True

    def _hold_guest(self) -> None:
        self._ran = self._guest.hold(Pause.FINISH_MIGRATE)
        self._held = True
        self._hook(Step.GUEST_HELD)
        if self._capabilities.pause_before_switchover:
            self._go(Status.PRE_SWITCHOVER)
            self._continue.wait()
            self._check_cancel(0)
        self._go(Status.DEVICE)

    def _precopy(self, writer: StreamWriter, answers: StreamReader | None) -> list[RamSender]:
        blocks = self._guest.ram_blocks()
        counters = self.progress.counters
        self.progress.total_bytes = self.progress.remaining_bytes = sum(block.size for block in blocks)
        pacer = Pacer(lambda: self._parameters.max_bandwidth, self._sleep)
        self._send_disks(writer, answers, pacer)
        self._logs = [self._guest.dirty_log(block) for block in blocks]
        for log in self._logs:
            log.start()
        senders = [RamSender(block, log, writer, counters) for block, log in zip(blocks, self._logs, strict=True)]
        runs = [block.present() for block in blocks]
        left = sum(_bytes(run) for run in runs) + self._disks.note_changes()
        rounds_below_limit = 0
        while True:
            self._send_round(writer, answers, senders, runs, pacer)
            if self.progress.iterations == 1:
                self._hook(Step.FIRST_ROUND_SENT)
            runs, sent = [log.collect() for log in self._logs], left
            ram_left = sum(_bytes(run) for run in runs)
            left = ram_left + self._disks.note_changes()
            self._reckon(ram_left, left)
            if self.progress.expected_downtime_ms <= self._parameters.downtime_limit:
                rounds_below_limit += 1
                # One more round is cheaper than its pages in the downtime, as long as rounds keep shrinking.
                if left * 2 >= sent or left == 0 or rounds_below_limit >= MAX_ROUNDS_BELOW_LIMIT:
                    break
        self._pending = runs  # handed out by the logs, not yet sent: they go in the last round
        self.progress.precopy_bytes = writer.bytes_written
        return senders

    def _send_round(
        self,
        writer: StreamWriter,
        answers: StreamReader | None,
        senders: list[RamSender],
        runs: list[NDArray[np.int64]],
        pacer: Pacer,
    ) -> None:
        self.progress.iterations += 1
        self._on_pass(self.progress.iterations)
        self.progress.remaining_bytes = sum(_bytes(run) for run in runs)

        def after_frame(size: int) -> None:
            self.progress.remaining_bytes = max(0, self.progress.remaining_bytes - size)
            self._after_frame(writer, pacer, size)

        self._guest.disks.flush()  # or the guest stands still while the host writes out what was written for hours
        with self._measured(writer, answers):
            self._disks.send_changes(partial(self._after_frame, writer, pacer))
            for sender, run in zip(senders, runs, strict=True):
                sender.send(run, after_frame)

    def _send_disks(self, writer: StreamWriter, answers: StreamReader | None, pacer: Pacer) -> None:
        """All that the disks hold, before any RAM: what the guest does to its RAM meanwhile does not go twice."""
        if self._disks.disks:
            with self._measured(writer, answers):
                self._disks.send_all(writer, partial(self._after_frame, writer, pacer))
        self._hook(Step.DISKS_SENT)

    def _after_frame(self, writer: StreamWriter, pacer: Pacer, size: int) -> None:
        self._check_cancel(size)
        self._note_transferred(writer)
        pacer.sent(size)

    def _note_transferred(self, writer: StreamWriter) -> None:
        self.progress.transferred = writer.bytes_written - self.progress.disks.transferred

    @contextlib.contextmanager
    def _measured(self, writer: StreamWriter, answers: StreamReader | None) -> Iterator[None]:
        """See what is sent in this context in place on the other side, and how fast that went."""
        began, before = time.monotonic(), writer.bytes_written
        yield
        if answers is not None:
            # What lies in the sockets' buffers is not over there yet: the guest would stand still while it is taken in.
            writer.frame(Kind.ROUND, {})
            answers.expect(Kind.ROUND)
        seconds = max(time.monotonic() - began, 1e-6)
        if writer.bytes_written - before >= PAGE:
            self.progress.bandwidth = (writer.bytes_written - before) / seconds
        self._round_seconds = seconds

    def _reckon(self, ram_left: int, left: int) -> None:
        bandwidth = self._parameters.avail_switchover_bandwidth or self.progress.bandwidth or 1.0
        self.progress.remaining_bytes = ram_left
        self.progress.dirty_pages_rate = round(ram_left / PAGE / self._round_seconds)
        self.progress.expected_downtime_ms = round(left / bandwidth * 1000)

    def _sleep(self, seconds: float) -> None:
        if self._cancel.wait(seconds):
            raise Cancelled

    def _check_cancel(self, _size: int) -> None:
        if self._cancel.is_set():
            raise Cancelled

    def _go(self, status: Status) -> None:
        self._check_cancel(0)
        self._status.go(status)

    def _last_words(self, exc: BaseException) -> BaseException:
        """Why the other side hung up, if it said so while this one was sending."""
        if isinstance(exc, StreamError) and self._channel is not None and self._channel.readable and not self._committed:
            try:
                StreamReader(self._channel).expect(Kind.GO)  # which a destination never sends: an ERROR frame or nothing
            except PeerRefused as refusal:
                return refusal
            except (EmuError, Cancelled):
                pass
        return exc

    def _fail(self, exc: BaseException) -> None:
        exc = self._last_words(exc)
        cancelled = self._cancel.is_set() and not self._committed
        self.progress.error = "" if cancelled else str(exc)
        self._status.go(Status.CANCELLING if cancelled else Status.FAILING)
        self._close()  # cuts the peer off, so that it lets go of the disks
        if self._committed:
            self._guest.moved_away()
        else:
            self._roll_back()
        self._status.go(Status.CANCELLED if cancelled else Status.FAILED)

    def _roll_back(self) -> None:
        """Become what we were: take the disks, run if we ran."""
        if not self._held:
            return
        try:
            self._take_disks_back()
        except ImageError as exc:
            self.progress.error = f"{self.progress.error + '; ' if self.progress.error else ''}the guest stays paused: {exc}"
            self._guest.release(run=False)
            return
        self._guest.release(run=self._ran)

    def _take_disks_back(self) -> None:
        give_up_at = time.monotonic() + DISKS_BACK_WITHIN
        while True:
            try:
                self._guest.disks.activate(expect_unchanged=True)
            except ImageError as exc:
                if exc.kind is not ImageErrorKind.LOCKED or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.02)
            else:
                return


def _bytes(runs: NDArray[np.int64]) -> int:
    return int(runs[:, 1].sum()) * PAGE
