r"""Jobs: what a QMP client starts, is told about by events, and dismisses when it has read the outcome.

    created -> running -> waiting -> pending -> concluded -> (job-dismiss) null
                      \-> aborting -----------/

States and events are QEMU's (qapi/job.json) for jobs that finalize by themselves and are dismissed by hand. A job cannot be
paused, cancelled or resumed.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from emu.errors import EmuError
from migration.vmstate import Wire

MAX_JOBS = 64  # bounds what a client can pile up that starts jobs and never dismisses them
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,126}")  # QEMU's identifiers

log = logging.getLogger(__name__)


class JobStatus(StrEnum):
    """What a job is doing."""

    CREATED = "created"
    RUNNING = "running"
    WAITING = "waiting"
    PENDING = "pending"
    ABORTING = "aborting"
    CONCLUDED = "concluded"
    NULL = "null"


Work = Callable[[Callable[[int, int], None]], object]  # is given what to tell its progress: done, total


class JobError(EmuError):
    """Raised when a job cannot be started, or is not there, or not in a state to be dismissed."""


@dataclass(slots=True)
class Job:
    """One job until it is dismissed."""

    id: str
    type: str
    status: JobStatus = JobStatus.CREATED
    error: str = ""
    done: int = 0  # of `total`, in whatever the work counts
    total: int = 1

    def progress(self, done: int, total: int) -> None:
        """The work says how far it is."""
        self.done, self.total = done, total

    def to_wire(self) -> dict[str, Wire]:
        """QMP's JobInfo."""
        wire: dict[str, Wire] = {
            "id": self.id,
            "type": self.type,
            "status": str(self.status),
            "current-progress": self.done,
            "total-progress": self.total,
        }
        return wire | {"error": self.error} if self.error else wire


class Jobs:
    """The jobs of one machine; thread-safe. Each runs on a thread of its own."""

    def __init__(self, emit: Callable[[str, Mapping[str, Wire]], None]) -> None:
        """`emit(event, data)` is called at every change of a job's status, on the thread that made it."""
        self._emit = emit
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(self, job_id: str, type: str, work: Work) -> None:  # noqa: A002 - the field's name in QMP
        """Have `work` done as the job `job_id`; an EmuError it raises becomes the job's error."""
        if not _ID.fullmatch(job_id):
            raise JobError(f"Invalid job ID '{job_id:.60}'")
        job = Job(job_id, type)
        with self._lock:
            if job_id in self._jobs:
                raise JobError(f"Job ID '{job_id}' already in use")
            if len(self._jobs) >= MAX_JOBS:
                raise JobError(f"there are {len(self._jobs)} jobs, no more than {MAX_JOBS} can be; dismiss concluded ones")
            self._jobs[job_id] = job
        self._tell(job)
        threading.Thread(target=self._run, args=(job, work), name=f"job {job_id}", daemon=True).start()

    def dismiss(self, job_id: str) -> None:
        """Forget a concluded job."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                raise JobError("Job not found")
            if job.status is not JobStatus.CONCLUDED:
                raise JobError(f"Job '{job_id}' in state '{job.status}' cannot accept command verb 'dismiss'")
            del self._jobs[job_id]
        self._go(job, JobStatus.NULL)

    def query(self) -> list[Wire]:
        """QMP's list of JobInfo, in the order they were started."""
        with self._lock:
            return [job.to_wire() for job in self._jobs.values()]

    def _run(self, job: Job, work: Work) -> None:
        self._go(job, JobStatus.RUNNING)
        try:
            work(job.progress)
        except (EmuError, OSError) as exc:
            self._abort(job, str(exc))
        except Exception as exc:
            log.exception("job %s", job.id)
            self._abort(job, f"internal error: {type(exc).__name__}, the log has more")
        else:
            job.done = job.total
            self._go(job, JobStatus.WAITING)
            self._go(job, JobStatus.PENDING)
        self._go(job, JobStatus.CONCLUDED)

    def _abort(self, job: Job, error: str) -> None:
        job.error = error
        self._go(job, JobStatus.ABORTING)

    def _go(self, job: Job, status: JobStatus) -> None:
        job.status = status
        self._tell(job)

    def _tell(self, job: Job) -> None:
        self._emit("JOB_STATUS_CHANGE", {"id": job.id, "status": str(job.status)})
