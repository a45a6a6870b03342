"""What the user is told on stderr, one line at a time, and where the details of a bug go."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from pathlib import Path

from emu.errors import ConfigError

FAILED = 1

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
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        log.error("internal error", exc_info=exc)
        where = "the log has its traceback"
    else:
        fd, name = tempfile.mkstemp(prefix="emu-bug-", suffix=".log")
        with os.fdopen(fd, "w") as file:
            traceback.print_exception(exc, file=file)
        where = f"{name} has its traceback"
    report_error(f"internal error, {type(exc).__name__}: {exc} ({where})")


class OneLine(logging.Formatter):
    """Log records as the other lines on stderr look, without tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        reason = f": {record.exc_info[1]}" if record.exc_info and record.exc_info[1] else ""
        return f"{record.levelname.lower()}: {record.getMessage()}{reason}"


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        report(self.format(record))


def configure_logging(path: Path | None) -> None:
    """Send warnings to stderr, and with a `path` everything, tracebacks too, there."""
    stderr = _Stderr(logging.WARNING)
    stderr.setFormatter(OneLine())
    handlers: list[logging.Handler] = [stderr]
    if path is not None:
        try:
            file = logging.FileHandler(path)
        except OSError as exc:
            raise ConfigError(f"--log {path}: {exc.strerror}") from exc
        file.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(name)s %(levelname)s %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.DEBUG if path else logging.WARNING, handlers=handlers, force=True)
