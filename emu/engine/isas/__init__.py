"""The ISAs: where each keeps its state, and the machine code of its self-test. One file for each family."""

from __future__ import annotations

from emu.engine.isas import arm, m68k, mips, ppc, riscv, s390x, sparc, tricore, x86
from emu.engine.layout import CORE, Build, CoreLayout, IsaLayout, Probe
from emu.errors import EngineError

LAYOUTS: dict[tuple[Build, str], IsaLayout] = {
    **arm.LAYOUTS,
    **m68k.LAYOUTS,
    **mips.LAYOUTS,
    **ppc.LAYOUTS,
    **riscv.LAYOUTS,
    **s390x.LAYOUTS,
    **sparc.LAYOUTS,
    **tricore.LAYOUTS,
    **x86.LAYOUTS,
}
PROBES: dict[str, Probe] = {
    **arm.PROBES,
    **m68k.PROBES,
    **mips.PROBES,
    **ppc.PROBES,
    **riscv.PROBES,
    **s390x.PROBES,
    **sparc.PROBES,
    **tricore.PROBES,
    **x86.PROBES,
}


def layout_of(build: Build, isa: str) -> tuple[CoreLayout, IsaLayout]:
    """The two rows for `isa` in `build`; EngineError when there are none."""
    if build not in CORE:
        raise EngineError(f"found {build}, supported is {', '.join(str(known) for known in CORE)}")
    known = sorted(name for row, name in LAYOUTS if row == build)
    if isa not in known:
        raise EngineError(f"no CPU {isa!r} in {build}, there are {', '.join(known)}")
    return CORE[build], LAYOUTS[build, isa]
