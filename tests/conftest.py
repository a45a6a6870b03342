"""For all tests: examples may take as long as they need, on a busy machine too; only a hang is a failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("emu", deadline=None)
settings.load_profile("emu")
