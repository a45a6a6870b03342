"""`emu run` and what is said to a running guest from outside, in processes of their own and without a terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.machines import PROMPT, WAIT, EmuProcess, wait_for

Start = Callable[..., EmuProcess]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> EmuProcess:
            process = EmuProcess(tmp_path, name, "riscv64-tiny", *arguments)
            stack.callback(process.close)
            return process

        yield start


@pytest.fixture
def box(start: Start) -> EmuProcess:
    """A guest at its prompt."""
    box = start("box")
    box.console.expect(PROMPT, WAIT)
    return box


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "emu.cli.main", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder)}


def emu(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT,
        cwd=ROOT,
        env=environment(folder),
        check=False,
    )


def test_standard_input_and_output_are_the_serial_line(tmp_path: Path) -> None:
    done = emu(tmp_path, "run", "riscv64-tiny", stdin="info\noff\n")

    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("\nemu tiny guest riscv64\n")
    assert "isa=riscv64\n" in done.stdout


def test_escapes_are_for_terminals_alone(tmp_path: Path) -> None:
    done = emu(tmp_path, "run", "riscv64-tiny", stdin="\x01xtick 1\noff\n")

    assert done.returncode == 0
    assert "? help\n" in done.stdout


def test_a_script_can_be_the_monitor(tmp_path: Path) -> None:
    done = emu(
        tmp_path, "run", "riscv64-tiny", "--paused", "--monitor", "stdio", stdin="info status\ncont\ninfo status\nquit\n"
    )

    assert done.returncode == 0
    assert done.stdout.splitlines() == ["VM status: paused (prelaunch)", "VM status: running"]


def test_an_ended_process_leaves_nothing_behind(box: EmuProcess, tmp_path: Path) -> None:
    box.console.send_line("off")

    assert box.wait_exit() == 0
    assert list((tmp_path / "emu").iterdir()) == []
    assert not box.serial_path.exists()
    assert not box.qmp_path.exists()


def test_a_signal_ends_the_process_and_closes_the_guest(box: EmuProcess, tmp_path: Path) -> None:
    box.process.send_signal(signal.SIGTERM)

    assert box.wait_exit() == 128 + signal.SIGTERM
    assert list((tmp_path / "emu").iterdir()) == []


def test_a_name_in_use_is_refused(box: EmuProcess, tmp_path: Path) -> None:
    done = emu(tmp_path, "run", "riscv64-tiny", "--name", "box")

    assert done.returncode == 1
    assert done.stderr == "emu: error: a guest named 'box' is running already; 'emu ls' lists the names in use\n"
    assert box.status == "running"


def test_ls_lists_the_running_guests(box: EmuProcess, tmp_path: Path) -> None:
    table = emu(tmp_path, "ls").stdout.splitlines()
    listed = json.loads(emu(tmp_path, "ls", "--json").stdout)

    assert table[0].split() == ["NAME", "TARGET", "STATUS", "MEMORY", "PID", "UPTIME"]
    assert table[1].split()[:5] == ["box", "riscv64", "running", "64", "MiB"]
    assert [(guest["name"], guest["status"], guest["pid"]) for guest in listed] == [("box", "running", box.process.pid)]


def test_ls_lists_a_guest_that_does_not_answer(box: EmuProcess, tmp_path: Path) -> None:
    box.process.send_signal(signal.SIGSTOP)

    (guest,) = json.loads(emu(tmp_path, "ls", "--json").stdout)

    assert (guest["name"], guest["status"]) == ("box", "no answer")


@pytest.mark.usefixtures("box")
def test_ctl_gives_the_monitor_a_command(tmp_path: Path) -> None:
    status = emu(tmp_path, "ctl", "box", "info", "status")
    wrong = emu(tmp_path, "ctl", "box", "frobnicate")

    assert (status.returncode, status.stdout) == (0, "VM status: running\n")
    assert wrong.returncode == 1
    assert wrong.stdout.startswith("Error: unknown command")


@pytest.mark.usefixtures("box")
def test_ctl_passes_qmp_from_arguments_and_standard_input(tmp_path: Path) -> None:
    argued = emu(tmp_path, "ctl", "--qmp", "box", '{"execute": "query-status"}')
    lines = '{"execute": "stop"}\n\n{"execute": "fly"}\n{"execute": "query-status", "arguments": {}}\n'
    read = emu(tmp_path, "ctl", "--qmp", "box", stdin=lines)

    assert argued.returncode == 0
    assert json.loads(argued.stdout) == {"return": {"status": "running", "running": True}}
    assert read.returncode == 1
    assert [next(iter(json.loads(line))) for line in read.stdout.splitlines()] == ["return", "error", "return"]


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("message", ["{", '{"execute": 1}', '["stop"]', '{"execute": "stop", "id": 1}'])
def test_ctl_tells_what_is_no_qmp(tmp_path: Path, message: str) -> None:
    done = emu(tmp_path, "ctl", "--qmp", "box", message)

    assert done.returncode == 1
    assert done.stderr.startswith(f"emu: error: {message}")


def test_a_monitor_socket_speaks_hmp(tmp_path: Path) -> None:
    path = tmp_path / "hmp"
    process = subprocess.Popen(
        command("run", "riscv64-tiny", "--serial", "none", "--monitor", f"unix:{path}"),
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(tmp_path),
    )
    wait_for(path.exists, "the monitor's socket")

    with process, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT)
        client.connect(str(path))
        with client.makefile("rw") as lines:
            lines.write("info status\ninfo name\nquit\n")
            lines.flush()
            answer = [lines.readline(), lines.readline()]
        told = process.communicate(timeout=WAIT)[1]

    assert told == b""
    assert answer == ["(emu) VM status: running\n", "(emu) riscv64-tiny\n"]
    assert process.returncode == 0


def test_a_moved_guests_process_stays_and_quits_with_3(box: EmuProcess, tmp_path: Path) -> None:
    moved = box.migrate(f"file:{tmp_path / 'moved'}")
    stays = box.status
    box.qmp("quit")

    assert moved["status"] == "completed"
    assert stays == "postmigrate"
    assert box.wait_exit() == 3
    assert f"emu: the guest has moved to file:{tmp_path / 'moved'}; the monitor's 'quit' ends this process" in box.errors


def test_a_guest_comes_in_from_a_file(box: EmuProcess, start: Start, tmp_path: Path) -> None:
    box.migrate(f"file:{tmp_path / 'moved'}")

    other = start("other", "--incoming", f"file:{tmp_path / 'moved'}")
    other.wait_status("running")
    other.console.send_line("tick 1")
    other.console.expect("tick 1\r\ntiny> ", WAIT)


def test_an_incoming_guest_can_stay_paused(box: EmuProcess, start: Start, tmp_path: Path) -> None:
    box.migrate(f"file:{tmp_path / 'moved'}")

    other = start("other", "--paused", "--incoming", f"file:{tmp_path / 'moved'}")
    other.wait_status("paused")
    other.qmp("cont")
    other.wait_status("running")


def test_a_deferred_incoming_failure_is_no_end(start: Start, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"GET / HTTP/1.1\r\n\r\n")
    other = start("other", "--incoming", "defer")

    other.qmp("migrate-incoming", uri=f"file:{tmp_path / 'garbage'}")

    assert other.wait_migration()["status"] == "failed"
    assert other.status == "inmigrate"


def test_a_snapshot_is_a_start(start: Start, tmp_path: Path) -> None:
    saved = str(tmp_path / "saved")
    first = start("first", "--snapshots", saved)
    first.console.expect(PROMPT, WAIT)
    first.console.send_line("mem fill 5 1")
    first.console.expect("mem filled", WAIT)
    first.monitor("savevm full")

    second = start("second", "--snapshots", saved, "--loadvm", "full")
    second.console.send_line("mem check 5 1")

    assert second.console.expect(r"mem (ok|BAD)", WAIT)[1] == "ok"
