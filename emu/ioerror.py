"""What becomes of a request that the host could not carry out: QEMU's `werror` and `rerror`.

worker: ImageError -> vCPU thread: OnError.failed -> report: the guest gets IOERR
                                        |            ignore: the guest is told that it went well
                                        |            stop:   the device keeps the request, until the guest goes on
                                        '-> the machine: event BLOCK_IO_ERROR, and for `stop` the run state io-error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from emu.config import DriveConfig
from emu.errors import ImageError
from migration.vmstate import Wire


class Operation(StrEnum):
    """What a request does; all but reading, a flush included, is writing."""

    READ = "read"
    WRITE = "write"


class Action(StrEnum):
    """What is done about one that failed."""

    REPORT = "report"
    IGNORE = "ignore"
    STOP = "stop"


class IoStatus(StrEnum):
    """`query-block`'s io-status: whether requests that failed wait for the guest to go on."""

    OK = "ok"
    FAILED = "failed"
    NOSPACE = "nospace"


@dataclass(frozen=True, slots=True)
class IoError:
    """One request that failed, and what is done about it."""

    drive: DriveConfig
    operation: Operation
    action: Action
    error: ImageError

    def event(self) -> Mapping[str, Wire]:
        """BLOCK_IO_ERROR's data; as in QEMU `nospace` is told of drives that may stop the guest."""
        about: dict[str, Wire] = {"device": self.drive.id, "node-name": self.drive.id}
        about |= {"operation": str(self.operation), "action": str(self.action), "reason": str(self.error)}
        return about | ({"nospace": self.error.no_space} if self.drive.stops_on_error else {})


class OnError:
    """Decides for one drive."""

    def __init__(self, drive: DriveConfig, tell: Callable[[IoError], None]) -> None:
        """`tell` is called on the vCPU thread, for every request that failed."""
        self._drive = drive
        self._tell = tell

    def failed(self, operation: Operation, error: ImageError) -> Action:
        """What to do about a request that failed; called on the vCPU thread, once for each time it fails."""
        how = self._drive.rerror if operation is Operation.READ else self._drive.werror
        if how == "enospc":
            how = "stop" if error.no_space else "report"
        self._tell(IoError(self._drive, operation, Action(how), error))
        return Action(how)
