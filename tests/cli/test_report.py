"""What is logged reaches the user in one line, and the traceback of a bug is kept where that line says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.cli.report import configure_logging
from emu.errors import EngineError

log = logging.getLogger("emu.test")


@pytest.fixture(autouse=True)
def keep_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files of tracebacks go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def make_a_mistake() -> None:
    raise ZeroDivisionError("our mistake")


def stop_the_guest() -> None:
    try:
        make_a_mistake()
    except ZeroDivisionError as exc:
        log.error("the guest stopped", exc_info=exc)  # noqa: TRY400 - as whoever is handed the exception logs it


def test_a_bug_that_is_logged_is_one_line_and_its_traceback_a_file(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    configure_logging(None)

    stop_the_guest()
    (kept,) = folder.glob("emu-bug-*.log")

    assert capsys.readouterr().err == (
        f"emu: error: the guest stopped: internal error, ZeroDivisionError: our mistake ({kept} has its traceback)\n"
    )
    assert "in make_a_mistake" in kept.read_text()


def test_a_bug_that_is_logged_has_its_traceback_in_the_log_if_there_is_one(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    configure_logging(folder / "log")

    stop_the_guest()

    assert capsys.readouterr().err == (
        "emu: error: the guest stopped: internal error, ZeroDivisionError: our mistake (the log has its traceback)\n"
    )
    assert "in make_a_mistake" in (folder / "log").read_text()
    assert list(folder.glob("emu-bug-*")) == []


def test_a_traceback_that_cannot_be_kept_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder / "none"))
    configure_logging(None)

    stop_the_guest()

    assert capsys.readouterr().err.endswith("our mistake (its traceback could not be kept: No such file or directory)\n")


def test_what_is_no_bug_has_no_traceback(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    configure_logging(None)

    log.error("the guest stopped", exc_info=EngineError("the CPU cannot go on"))

    assert capsys.readouterr().err == "emu: error: the guest stopped: the CPU cannot go on\n"
    assert list(folder.iterdir()) == []


def test_a_thread_that_a_bug_ends_tells_it_like_any_other(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    configure_logging(None)

    thread = threading.Thread(target=make_a_mistake, name="migration")
    thread.start()
    thread.join()
    (kept,) = folder.glob("emu-bug-*.log")

    assert capsys.readouterr().err == (
        f"emu: error: thread migration ended: internal error, ZeroDivisionError: our mistake ({kept} has its traceback)\n"
    )
    assert "in make_a_mistake" in kept.read_text()
