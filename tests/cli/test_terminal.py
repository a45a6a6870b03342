"""The guest's console and the monitor in a real terminal, which every way out leaves as it was found."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.terminals import Terminal

Start = Callable[..., Terminal]
PROMPT = r"tiny> "
MONITOR = r"\(emu\)"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*arguments: str) -> Terminal:
            terminal = Terminal(tmp_path, *arguments)
            stack.callback(terminal.close)
            return terminal

        yield start


@pytest.fixture
def terminal(start: Start) -> Terminal:
    """A guest at its prompt."""
    terminal = start("run", "riscv64-tiny")
    terminal.expect(PROMPT)
    return terminal


def test_power_off_ends_with_0_and_the_terminal_restored(terminal: Terminal) -> None:
    was_raw = terminal.is_raw
    terminal.type("off\r")

    assert was_raw
    assert terminal.wait_exit() == 0
    assert terminal.settings == terminal.found


def test_ctrl_a_x_quits_and_restores_the_terminal(terminal: Terminal) -> None:
    terminal.type("\x01x")

    assert terminal.wait_exit() == 0
    assert terminal.settings == terminal.found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_the_process_with_the_terminal_restored(terminal: Terminal, number: signal.Signals) -> None:
    terminal.process.send_signal(number)

    assert terminal.wait_exit() == 128 + number
    assert terminal.settings == terminal.found


def test_an_error_ends_the_process_with_the_terminal_restored(start: Start, tmp_path: Path) -> None:
    terminal = start("run", "riscv64-tiny", "--incoming", f"unix:{tmp_path / 'in'}")
    terminal.expect("waiting for a guest at unix:")
    terminal.wait_for(lambda: terminal.is_raw, "raw mode")

    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "in"))
        peer.sendall(b"GET / HTTP/1.1\r\n")
        terminal.expect("emu: error: no guest came in: not an emu stream")

    assert terminal.wait_exit() == 1
    assert terminal.settings == terminal.found


def test_a_stopped_process_lends_the_terminal_as_it_was_found(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.wait_stopped()
    while_stopped = terminal.settings
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait_for(lambda: terminal.is_raw, "raw mode")
    terminal.type("tick 1\r")
    terminal.expect("tick 1\r+\ntiny> ")

    assert while_stopped == terminal.found


def test_ctrl_c_goes_to_the_guest(terminal: Terminal) -> None:
    terminal.type("sleep 100000\r")
    terminal.expect("sleep 100000")
    terminal.type("\x03")
    terminal.expect(PROMPT)

    assert terminal.process.poll() is None


def test_ctrl_a_h_tells_the_keys(terminal: Terminal) -> None:
    terminal.type("\x01h")
    terminal.expect("Ctrl-A X quits")


def test_ctrl_a_c_goes_to_the_monitor_and_back(terminal: Terminal) -> None:
    terminal.type("\x01c")
    terminal.expect(MONITOR)
    terminal.type("info status\r")
    terminal.expect("VM status: running")
    terminal.expect(MONITOR)
    terminal.type("\x01ctick 1\r")
    terminal.expect("tick 1\r+\ntiny> ")


def test_guest_output_waits_while_the_monitor_is_there(terminal: Terminal) -> None:
    terminal.type("sleep 300\r")
    terminal.expect("sleep 300")
    terminal.type("\x01c")
    terminal.expect(MONITOR)
    terminal.type("info status\r")
    shown = terminal.expect(r"VM status: running[\s\S]*" + MONITOR)[0]
    terminal.type("\x01c")

    terminal.expect(r"slept \d{3,} ms")

    assert "slept" not in shown


def test_tab_completes_a_monitor_command(terminal: Terminal) -> None:
    terminal.type("\x01c")
    terminal.expect(MONITOR)
    terminal.type("info stat\t")
    terminal.expect("info status")
    terminal.type("\r")
    terminal.expect("VM status: running")


def test_quit_in_the_monitor_ends_with_0(terminal: Terminal) -> None:
    terminal.type("\x01c")
    terminal.expect(MONITOR)
    terminal.type("quit\r")

    assert terminal.wait_exit() == 0
    assert terminal.settings == terminal.found


def test_ctrl_c_in_the_monitor_ends_with_130(terminal: Terminal) -> None:
    terminal.type("\x01c")
    terminal.expect(MONITOR)
    terminal.type("\x03")

    assert terminal.wait_exit() == 130
    assert terminal.settings == terminal.found


def test_ctrl_c_stops_waiting_for_a_migration_and_leaves_the_guest_alone(terminal: Terminal) -> None:
    terminal.type("\x01c")
    terminal.expect(MONITOR)
    terminal.type("migrate 'exec:sleep 100'\r")
    terminal.expect("setup|active")
    terminal.type("\x03")
    terminal.expect("goes on in the background")
    terminal.type("migrate_cancel\r")
    terminal.expect(MONITOR)

    def is_running() -> bool:
        terminal.type("info status\r")
        return terminal.expect(r"VM status: (\w+)\W")[1] == "running"

    terminal.wait_for(is_running, "the end of the migration")  # cancelling is an order; its thread carries it out


def test_a_migration_shows_how_far_it_is_and_the_process_then_quits_with_3(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("\x01c")
    terminal.expect(MONITOR)
    terminal.type(f"migrate file:{tmp_path / 'moved'}\r")
    terminal.expect(r"completed \S+ .*MiB in \d+ ms, downtime \d+ ms")
    terminal.expect("emu: the guest has moved to file:")
    terminal.type("\x01x")

    assert terminal.wait_exit() == 3
    assert terminal.settings == terminal.found


def test_a_console_elsewhere_leaves_the_terminal_to_the_monitor(start: Start, tmp_path: Path) -> None:
    terminal = start("run", "riscv64-tiny", "--serial", f"file:{tmp_path / 'serial'}")
    terminal.expect(MONITOR)
    terminal.type("info status\r")
    terminal.expect("VM status: running")


def test_no_monitor_in_the_terminal_is_told(start: Start) -> None:
    terminal = start("run", "riscv64-tiny", "--monitor", "none")
    terminal.expect(PROMPT)
    terminal.type("\x01c")
    terminal.expect("the monitor is not in this terminal")
