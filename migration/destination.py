"""The receiving side of a migration, told in order.

Until GO nothing is decided: the guest has not run, and whatever fails, the disks are let go and the source goes on. RAM is
taken as it comes (it holds no guest yet); devices change only after everything was parsed and checked.
"""

from __future__ import annotations

import contextlib
from functools import partial

from emu.errors import EmuError, ImageError, ImageErrorKind, MigrationError
from migration.blocks import IncomingDisks
from migration.channel import Cancelled, Channel, Listener
from migration.mapped import find_region, map_ram
from migration.protocols import Guest, Step, StepHook
from migration.received import check_same_machine, receive
from migration.sections import dump_sections, plan_load
from migration.settings import Capabilities
from migration.status import Status, StatusMachine
from migration.stream import Kind, StreamReader, StreamWriter
from migration.vmstate import Wire


class Incoming:
    """One guest that comes in through `listener`; `run` is the body of its thread."""

    def __init__(
        self,
        guest: Guest,
        listener: Listener,
        status: StatusMachine,
        capabilities: Capabilities,
        hook: StepHook,
        *,
        stay_paused: bool = False,
    ) -> None:
        """`stay_paused` keeps a guest that ran on the source from running here until `cont`."""
        self.error = ""
        self.bytes_read = 0
        self._guest = guest
        self._listener = listener
        self._status = status
        self._capabilities = capabilities
        self._hook = hook
        self._stay_paused = stay_paused
        self._channel: Channel | None = None
        self._answers: StreamWriter | None = None
        self._reader: StreamReader | None = None  # kept: giving its buffer back to the host is not to delay the guest's start
        self._disks = IncomingDisks((), None)
        self._took_disks = False
        self._cancelled = False

    def cancel(self) -> None:
        """Stop waiting or receiving; any thread."""
        self._cancelled = True
        self._listener.cancel()
        if self._channel is not None:
            self._channel.cancel()

    def run(self) -> None:
        """Receive. Never raises: the outcome is in the status, its reason in `error`."""
        try:
            with contextlib.closing(self._listener):
                self._channel = self._listener.accept()
            run = self._receive(self._channel)
        except BaseException as exc:
            self._fail(exc)
            if not isinstance(exc, (Cancelled, EmuError, OSError)):
                raise  # our bug: its traceback belongs in the log
        else:
            self._arrive(run=run)

    def _close(self) -> None:
        if self._channel is not None:
            if self._answers is not None:
                self._channel.end_of_answers()
            self._channel.close()

    def _receive(self, channel: Channel) -> bool:
        """Everything up to the order to run; returns whether the guest is to run."""
        self._status.go(Status.ACTIVE)
        self._hook(Step.CALLED)
        reader = self._reader = StreamReader(channel)
        reader.start()
        config = reader.expect(Kind.CONFIG).fields()
        if config.get("two-way") is True:
            self._answers = StreamWriter(channel)
        uuid = self._capabilities.validate_uuid or config.get("validate-uuid") is True
        check_same_machine(config.get("machine"), self._guest.configuration(), uuid=uuid)
        disks = self._disks = IncomingDisks(self._guest.moved_disks(), config.get("disks"))
        if disks.come:
            self._take_images()
            disks.begin()
        self._hook(Step.CONFIG_CHECKED)
        self._answer(Kind.ACCEPT, {"disks": disks.come})

        savables = self._guest.savables()
        # A rehearsal, so that later, when the guest waits for it, all that it takes is warm.
        plan_load(savables, self._guest.call(lambda: dump_sections(savables)))
        blocks = self._guest.ram_blocks()
        for block in blocks:
            block.discard()
        state = receive(
            reader,
            blocks,
            label=channel.label,
            find=partial(find_region, channel),
            ram_now=True,
            take_blocks=disks.take,
            on_frame=self._note_progress,
            on_round=self._round_over,
        )
        plan = plan_load(savables, state.sections)
        self._hook(Step.STATE_HEARD)
        run = state.run and not self._stay_paused

        def commit() -> None:
            map_ram(state.regions)
            plan.commit()
            self._guest.loaded()

        with self._guest.prepared(plan.states):
            self._guest.call(commit)
        self._hook(Step.STATE_COMMITTED)
        self._status.go(Status.DEVICE)
        disks.flush()
        self._guest.disks.activate()
        self._took_disks = True
        if self._capabilities.late_block_activate and not run:
            self._guest.disks.inactivate()  # having seen them: `cont` refuses what another wrote to meanwhile
        self._hook(Step.DISKS_TAKEN)
        if self._answers is not None:
            self._answer(Kind.READY)
            self._hook(Step.READY_SENT)
            reader.expect(Kind.GO)
            self._hook(Step.GO_HEARD)
        return run

    def _arrive(self, *, run: bool) -> None:
        """From here on the guest lives here, whatever becomes of the answer; without it the source stays paused and says so."""
        self._guest.arrive(run=run)
        self._hook(Step.RUNNING)
        with contextlib.suppress(EmuError, Cancelled):
            self._answer(Kind.RUNNING)
        self._hook(Step.RUNNING_SENT)
        self._close()
        self._status.go(Status.COMPLETED)

    def _note_progress(self, reader: StreamReader) -> None:
        if self.bytes_read == 0:
            self._hook(Step.FIRST_PAGES)
        self.bytes_read = reader.bytes_read

    def _take_images(self) -> None:
        """Own the images from their first block on; the source keeps its own until GO."""
        try:
            self._guest.disks.activate()
        except ImageError as exc:
            if exc.kind is not ImageErrorKind.LOCKED:
                raise
            text = f"{exc}; disks that move with their guest (migrate -b) need images of their own on each side"
            raise MigrationError(text) from exc
        self._took_disks = True

    def _round_over(self) -> None:
        self._disks.flush()  # so that the guest does not wait for it in the end
        self._answer(Kind.ROUND)

    def _answer(self, kind: Kind, fields: dict[str, Wire] | None = None) -> None:
        if self._answers is not None:
            self._answers.frame(kind, fields or {})

    def _fail(self, exc: BaseException) -> None:
        self.error = "" if self._cancelled else str(exc)
        self._status.go(Status.CANCELLING if self._cancelled else Status.FAILING)
        if self._took_disks:
            try:
                self._guest.disks.inactivate()
            except ImageError as exc2:  # such as a full file system, which is then why we are here
                self.error = self.error or str(exc2)
        if self._answers is not None:
            with contextlib.suppress(EmuError, Cancelled):
                self._answers.frame(Kind.ERROR, {"error": self.error or "cancelled there"})
        self._close()
        self._status.go(Status.CANCELLED if self._cancelled else Status.FAILED)
