"""`python -m tests.live.posix`: make all programs anew."""

from __future__ import annotations

from tests.live.posix import ARCHITECTURES, compile_posix, posix_path

for arch in ARCHITECTURES:
    posix_path(arch).write_bytes(compile_posix(arch))
