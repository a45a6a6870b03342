"""What several of the tests need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emu.block.qcow2.tools import MIB, create


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create(tmp_path / "disk.qcow2", MIB)
