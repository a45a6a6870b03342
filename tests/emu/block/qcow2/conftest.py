"""What several of the tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.emu.block.qcow2.tools import MIB, create


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power does not fail here, and a disk that is to survive that would take most of the time."""
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create(tmp_path / "disk.qcow2", MIB)
