"""`emu demo` proves what it says, and says so to scripts."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_run import emu


def test_the_demo_moves_a_writing_guest_and_loses_nothing(tmp_path: Path) -> None:
    done = emu(tmp_path, "demo", "--json")

    result = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, done.stderr) == (0, "")
    assert (result["target"], result["journal_lost"], result["ram_checked"]) == ("riscv64", 0, True)
    assert 0 < result["downtime_ms"] <= result["total_ms"]
