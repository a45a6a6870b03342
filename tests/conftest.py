"""For all tests: examples may take as long as they need, on a busy machine too; only a hang is a failure."""

from __future__ import annotations

import gc

from hypothesis import settings

settings.register_profile("emu", deadline=None)
settings.load_profile("emu")


def pytest_collection_finish() -> None:
    """Spare the garbage collector thousands of collected tests."""
    gc.collect()
    gc.freeze()
