"""`python -m tests.live.probe`: make all programs anew."""

from __future__ import annotations

from tests.live.probe import ISAS, compile_probe, probe_path

for name in ISAS:
    probe_path(name).write_bytes(compile_probe(name))
