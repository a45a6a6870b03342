"""The command line as a whole: every error is one line, no traceback reaches the user."""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.cli import ls
from emu.cli.ls import uptime
from emu.cli.main import COMMANDS, main
from emu.cli.report import configure_logging


@pytest.fixture(autouse=True)
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def keep_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([command, "--help"])

    assert code == 0
    assert f"usage: emu {command}" in capsys.readouterr().out


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--help"])
    out = capsys.readouterr().out

    assert code == 0
    assert all(command.summary in " ".join(out.split()) for command in COMMANDS.values())


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--version"])

    assert code == 0
    assert re.fullmatch(r"emu \S+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "the following arguments are required: COMMAND (see emu --help)"),
        (["fly"], "invalid choice: 'fly'"),
        (["ls", "--wat"], "unrecognized arguments: --wat"),
        (["run"], "no guest is named"),
        (["run", "vax"], "target 'vax' is unknown, must be one of "),
        (["run", "riscv64", "--kernel", "/none"], "kernel /none: No such file or directory"),
        (["run", "riscv64-tiny", "--memory", "2M"], "riscv64-tiny.elf needs"),
        (["run", "riscv64-tiny", "--drive", "/none"], "/none"),
        (["run", "riscv64-tiny", "--log", "/none/log"], "--log /none/log: No such file or directory"),
        (["run", "riscv64-tiny", "--loadvm", "boot"], "there is no snapshot 'boot'"),
        (["run", "riscv64-tiny", "--incoming", "gopher:x"], "migration URI 'gopher:x' is none of tcp:"),
        (["run", "riscv64-tiny", "--qmp", "pigeon:x"], "QMP address 'pigeon:x' must be"),
        (["run", "riscv64-tiny", "--monitor", "stdio", "--serial", "stdio"], "the serial line or the monitor, not both"),
        (["pull", "box"], "no guest named 'box' is running; running: none"),
        (["ctl", "box", "info", "status"], "no guest named 'box' is running"),
        (["demo", "--target", "vax"], "no bundled image vax-tiny"),
    ],
)
@pytest.mark.usefixtures("keep_logging")
def test_an_error_is_one_line_and_exit_code_1(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(words)
    out, err = capsys.readouterr()

    assert code == 1
    assert out == ""
    assert err.startswith("emu: error: ")
    assert err.count("\n") == 1
    assert told in err


def break_ls(_arguments: argparse.Namespace, _hook: object) -> int:
    raise ZeroDivisionError("our mistake")


def test_a_bug_is_one_line_and_its_traceback_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ls, "execute", break_ls)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    code = main(["ls"])
    err = capsys.readouterr().err
    (report,) = tmp_path.glob("emu-bug-*.log")

    assert code == 1
    assert err == f"emu: error: internal error, ZeroDivisionError: our mistake ({report} has its traceback)\n"
    assert "in break_ls" in report.read_text()


@pytest.mark.usefixtures("keep_logging")
def test_a_bugs_traceback_goes_to_the_log_when_there_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ls, "execute", break_ls)
    configure_logging(tmp_path / "log")

    main(["ls"])

    assert capsys.readouterr().err == (
        "emu: error: internal error, ZeroDivisionError: our mistake (the log has its traceback)\n"
    )
    assert "in break_ls" in (tmp_path / "log").read_text()


def test_no_guests_are_an_empty_table(capsys: pytest.CaptureFixture[str]) -> None:
    codes = main(["ls"]), main(["ls", "--json"])

    assert codes == (0, 0)
    assert capsys.readouterr().out.split("\n", 1) == ["NAME  TARGET  STATUS  MEMORY  PID  UPTIME", "[]\n"]


def test_the_bundled_guests_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["images"])
    table = capsys.readouterr().out
    main(["images", "--json"])
    listed = json.loads(capsys.readouterr().out)

    assert ["riscv64-tiny", "riscv64", "64", "MiB"] in [line.split()[:4] for line in table.splitlines()]
    assert listed["bundled"]["riscv64-tiny"]["memory"] == 64 << 20


def test_cached_debian_kernels_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMU_CACHE", str(tmp_path))
    for arch, manifest in (("riscv64", '{"release": "6.12.1-riscv64"}'), ("arm64", "{"), ("amd64", "[]")):
        (tmp_path / "linux" / arch).mkdir(parents=True)
        (tmp_path / "linux" / arch / "manifest.json").write_text(manifest)

    main(["images", "--json"])

    (kernel,) = json.loads(capsys.readouterr().out)["debian"]
    assert (kernel["arch"], kernel["release"]) == ("riscv64", "6.12.1-riscv64")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "00:00:00"), (3723, "01:02:03"), (90061, "1d 01:01:01"), (-5, "00:00:00")])
def test_uptime_is_told_as_a_clock(seconds: float, text: str) -> None:
    assert uptime(seconds) == text


def test_listing_guests_imports_no_translator() -> None:
    program = "import sys; from emu.cli.main import main; main(['ls']); print({'unicorn', 'numpy', 'rich'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "set()"
