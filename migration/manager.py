"""All migrations of one machine: starts them, answers for them, lets one run at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from emu.errors import MigrationError
from migration.channel import listen, parse_uri
from migration.destination import Incoming
from migration.protocols import PAGE, Guest, StepHook, no_hook
from migration.settings import Capabilities, DiskMode, Parameters
from migration.source import Outgoing, Progress
from migration.status import Status, StatusMachine
from migration.vmstate import Wire


class Migrations:
    """What the `migrate` family of commands acts on. Thread-safe."""

    def __init__(
        self,
        guest: Guest,
        *,
        hook: StepHook = no_hook,
        on_status: Callable[[Status], None] = lambda _status: None,
        on_pass: Callable[[int], None] = lambda _iteration: None,
    ) -> None:
        """`on_status` and `on_pass` (a round began, with its number) are called on the migration's thread."""
        self.capabilities = Capabilities()
        self.parameters = Parameters()
        self._guest = guest
        self._hook = hook
        self._on_pass = on_pass
        self._status = StatusMachine(on_status)
        self._outgoing: Outgoing | None = None
        self._incoming: Incoming | None = None
        self._listening_at = ""
        self._outgoing_uri = ""
        self._lock = threading.Lock()

    @property
    def status(self) -> Status:
        """The status of the latest migration."""
        return self._status.status

    @property
    def under_way(self) -> bool:
        """Whether one has begun and is not over."""
        return self._status.under_way

    @property
    def error(self) -> str:
        """Why the latest migration failed; empty when it did not."""
        latest = self._incoming if self._outgoing is None else self._outgoing.progress
        return "" if latest is None else latest.error

    @property
    def progress(self) -> Progress | None:
        """Numbers of the latest outgoing migration."""
        return None if self._outgoing is None else self._outgoing.progress

    @property
    def outgoing_uri(self) -> str:
        """Where the latest outgoing migration went or was to go; empty before the first."""
        return self._outgoing_uri

    def refuse_if_twice(self) -> None:
        """Raise MigrationError if the guest is known to run elsewhere, on disks of its own, so that those here cannot tell."""
        if self._outgoing is not None and self._outgoing.left_with_disks:
            raise MigrationError("the guest runs on the other side, on disks of its own: from here it would be there twice")

    def migrate(self, uri: str, disks: DiskMode = DiskMode.SHARED) -> None:
        """Start to move the guest to `uri`; returns at once. Refused with the reason when something forbids it."""
        address = parse_uri(uri)
        with self._lock:
            self.refuse_if_twice()
            reasons = self._guest.blocked_reasons()
            if reasons:
                raise MigrationError("the guest cannot be migrated: " + " ".join(reasons))
            if not self._guest.disks.active:
                self._take_disks()
            self._begin()
            outgoing = Outgoing(
                self._guest, address, self._status, self.capabilities, self.parameters, self._hook, self._on_pass, disks
            )
            self._outgoing, self._incoming, self._outgoing_uri = outgoing, None, uri
        threading.Thread(target=outgoing.run, name="migration", daemon=True).start()

    def _take_disks(self) -> None:
        """A guest that came in and never ran, with late-block-activate, moves on with its disks; any other must have them."""
        if self._incoming is None or self.status is not Status.COMPLETED:
            raise MigrationError(
                "the guest cannot be migrated while its disks belong to another process; 'cont' takes them back"
            )
        self._guest.disks.activate(expect_unchanged=True)

    def incoming(self, uri: str, *, stay_paused: bool = False) -> str:
        """Wait at `uri` for a guest to come in; returns the URI to tell the source, at once."""
        listener = listen(parse_uri(uri))
        with self._lock:
            try:
                self._begin()
            except MigrationError:
                listener.close()
                raise
            incoming = Incoming(self._guest, listener, self._status, self.capabilities, self._hook, stay_paused=stay_paused)
            self._outgoing, self._incoming = None, incoming
            self._listening_at = listener.uri
        threading.Thread(target=incoming.run, name="migration", daemon=True).start()
        return listener.uri

    def _begin(self) -> None:
        if self._status.under_way:
            raise MigrationError(f"there is a migration under way already, in status {self._status.status}")
        self._status.go(Status.SETUP)

    def cancel(self) -> None:
        """Undo the migration that is under way; does nothing when there is none or the order to run has been sent."""
        with self._lock:
            if not self._status.under_way:
                return
            if self._outgoing is not None:
                self._outgoing.cancel()
            elif self._incoming is not None:
                self._incoming.cancel()

    def proceed(self, expected: str = Status.PRE_SWITCHOVER) -> None:
        """migrate-continue: go on from `expected`, in which the migration must be."""
        if self._outgoing is None or self.status is not Status.PRE_SWITCHOVER or expected != Status.PRE_SWITCHOVER:
            raise MigrationError(f"the migration is in status {self.status}, it can be continued only in pre-switchover")
        self._outgoing.proceed()

    def wait_over(self, timeout: float | None = None) -> bool:
        """Wait until no migration is under way; False when `timeout` seconds passed first."""
        return self._status.wait_over(timeout)

    def query(self) -> dict[str, Wire]:
        """`query-migrate`: QEMU's names and units; empty before the first migration."""
        if self.status is Status.NONE:
            return self._with_blockers({})
        answer: dict[str, Wire] = {"status": str(self.status)}
        if self.error:
            answer["error-desc"] = self.error
        if self._incoming is not None and self._listening_at:
            answer["socket-address"] = [self._listening_at]
        if self._outgoing is not None:
            answer |= _numbers(self._outgoing.progress, over=not self.under_way)
        return self._with_blockers(answer)

    def _with_blockers(self, answer: dict[str, Wire]) -> dict[str, Wire]:
        reasons = self._guest.blocked_reasons()
        if reasons:
            answer["blocked-reasons"] = list(reasons)
        return answer


def _numbers(progress: Progress, *, over: bool) -> dict[str, Wire]:
    answer: dict[str, Wire] = {
        "total-time": progress.elapsed_ms,
        "setup-time": progress.setup_ms,
        "ram": {
            "transferred": progress.transferred,
            "remaining": progress.remaining_bytes,
            "total": progress.total_bytes,
            "duplicate": progress.counters.duplicate,
            "normal": progress.counters.normal,
            "normal-bytes": progress.counters.normal_bytes,
            "dirty-pages-rate": progress.dirty_pages_rate,
            "mbps": round(progress.bandwidth * 8 / 1e6),
            "dirty-sync-count": progress.iterations,
            "page-size": PAGE,
            "pages-per-second": round(progress.bandwidth / PAGE),
            "precopy-bytes": progress.precopy_bytes,
            "downtime-bytes": progress.downtime_bytes,
            "postcopy-bytes": 0,
            "multifd-bytes": 0,
            "postcopy-requests": 0,
        },
    }
    if progress.disks.total:
        answer["disk"] = {
            "transferred": progress.disks.transferred,
            "remaining": progress.disks.remaining,
            "total": progress.disks.total,
        }
    if over:
        answer["downtime"] = round(progress.downtime_ms)
    else:
        answer["expected-downtime"] = progress.expected_downtime_ms
    return answer
