"""What the user is told on stderr, one line at a time, and where the details of a bug go."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from emu.errors import ConfigError, EmuError

FAILED = 1
TRACE = "emu.trace"  # the logger of what the guest executes

log = logging.getLogger(__name__)


def report(text: str) -> None:
    """Tell `text` in one line on stderr."""
    sys.stderr.write(f"emu: {' '.join(text.splitlines())}\n")
    sys.stderr.flush()


def report_error(text: str) -> None:
    """Tell an error."""
    report(f"error: {text}")


def report_bug(exc: BaseException) -> None:
    """Tell a bug of ours in one line; its traceback goes to the log, or to a file of its own when there is none."""
    log.debug("internal error", exc_info=exc)  # for the log file alone
    report_error(_describe_bug(exc))


def _describe_bug(exc: BaseException) -> str:
    """One line for a bug. Its traceback is in the log, or from now on in a file."""
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        kept = "the log has its traceback"
    else:
        try:
            fd, name = tempfile.mkstemp(prefix="emu-bug-", suffix=".log")
            with os.fdopen(fd, "w") as file:
                traceback.print_exception(exc, file=file)
            kept = f"{name} has its traceback"
        except OSError as failure:
            kept = f"its traceback could not be kept: {failure.strerror}"
    return f"internal error, {type(exc).__name__}: {exc} ({kept})"


class Stderr(logging.Handler):
    """Log records as the other lines on stderr look: one line each, without tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one record."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        exc = record.exc_info[1] if record.exc_info else None
        if exc is not None:
            text += f": {exc if isinstance(exc, EmuError) else _describe_bug(exc)}"
        with contextlib.suppress(OSError):  # nobody reads stderr any more; whoever logs is not to fail for that
            report(text)


def configure_logging(path: Path | None, *, trace: bool = False) -> None:
    """Send warnings to stderr, and with a `path` everything, tracebacks too, there. What ends a thread is logged as well.

    With `trace` there is something to tell of the guest's execution, which goes to stderr as it is if there is no `path`.
    """
    handlers: list[logging.Handler] = [Stderr(logging.WARNING)]
    tracer = logging.getLogger(TRACE)
    tracer.handlers = [logging.StreamHandler()] if trace and path is None else []
    tracer.propagate = not tracer.handlers
    tracer.setLevel(logging.DEBUG if trace else logging.NOTSET)
    if path is not None:
        try:
            file = logging.FileHandler(path)
        except OSError as exc:
            raise ConfigError(f"--log {path}: {exc.strerror}") from exc
        file.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(name)s %(levelname)s %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.DEBUG if path else logging.WARNING, handlers=handlers, force=True)
    threading.excepthook = _log_end_of_thread


def _log_end_of_thread(end: threading.ExceptHookArgs) -> None:
    log.error("thread %s ended", "" if end.thread is None else end.thread.name, exc_info=end.exc_value)
