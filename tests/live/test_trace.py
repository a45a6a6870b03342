"""A process whose guest is looked into: its log, and `x` through HMP and QMP."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.machines import PROMPT, WAIT, EmuProcess


@pytest.mark.parametrize("guest", ["riscv32-tiny", "riscv64-tiny"])
def test_a_running_guest_is_logged_and_looked_into(guest: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    machine = EmuProcess(tmp_path, "one", guest, "--log", f"{log},int,in_asm")
    try:
        machine.console.expect(PROMPT, WAIT)
        machine.console.send_line("tick 30")
        machine.console.expect(r"tick 3\r?\n", WAIT)
        machine.qmp("stop")
        pc = int(machine.monitor("print $pc"), 16)
        shown = machine.monitor("x/2i $pc").splitlines()
        assert len(shown) == 2
        assert shown[0].startswith(f"0x{pc:08x}:  ")
        assert machine.monitor("x/4xb $pc").split()[1:] == machine.monitor(f"xp/4xb {pc}").split()[1:]  # identity mapped
        machine.qmp("quit")
        assert machine.wait_exit() == 0
    finally:
        machine.close()
    text = log.read_text()
    assert text.count("interrupt 5 (supervisor timer) at 0x") >= 3
    assert "exception 8 (environment call) at 0x" in text
    assert "IN: arch_timer_set+0x" in text
    assert " ecall\n" in text


def test_without_a_file_the_log_is_on_stderr(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emu.cli.main", "run", "riscv64-tiny", "--log", "int", "--memory", "16M"]
    done = subprocess.run(
        command,
        input="off\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"XDG_RUNTIME_DIR": str(tmp_path)},
    )

    assert done.returncode == 0
    assert re.match(r"exception 8 \(environment call\) at 0x802[0-9a-f]+ \w+\+0x", done.stderr)
    assert "emu tiny guest riscv64" in done.stdout
