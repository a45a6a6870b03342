"""Register ids for `Engine.read_register`, so that targets need no import of unicorn."""

from __future__ import annotations

from collections.abc import Mapping

from emu.engine.isas import layout_of
from emu.engine.library import library_build, register_ids


def registers(isa: str) -> Mapping[str, int]:
    """Register ids of `isa` by the architecture's lower-case names: `registers("riscv64")["mstatus"]`."""
    _core, layout = layout_of(library_build(), isa)
    return register_ids(layout.constants)
