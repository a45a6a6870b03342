"""What the library does wrong to a guest, or to the process, and the few instructions of ours that put it right.

One fault, one file. Each checks that the library is the one it was made for, by functions and calls that are where the layout
table says, and raises EngineError before it changes anything else. What is changed is the library in this process: once for all
CPUs of an ISA, but for `codepages`, which changes one CPU.

| repair | of | without it |
|---|---|---|
| codewatch | all | code written through another address, or read from a disk, is not noticed: the old is executed |
| exitchecks | all | each block begins with a call that nearly always finds nothing |
| codepages | all | stores are slow wherever code could be fetched from, though none is |
| abort, assertions | most | a guest that does what QEMU has no answer for ends the process |
| thumb | ARM | a slice ends in the middle of an instruction, which is executed twice |
| translation, mipstlb | MIPS | long blocks end the process; the TLB depends on other CPUs of the process |
| delayslot, conditions | SPARC | a hook loses the next pc; reserved conditions end the process |
| contexts | TriCore | a list of contexts that is a circle ends the process |
| floatconditions | m68k | conditions that do not exist end the process |
| execute | s390x | a counted slice that ends at EXECUTE's target loses it |
"""

from __future__ import annotations

from emu.engine.layout import EXCP_HLT, CoreLayout, IsaLayout
from emu.engine.repairs.abort import ABORTED, catch_aborts
from emu.engine.repairs.assertions import catch_assertions
from emu.engine.repairs.codewatch import watch_code
from emu.engine.repairs.conditions import never_on_reserved_conditions
from emu.engine.repairs.contexts import bound_context_saves
from emu.engine.repairs.delayslot import leave_next_pc_alone
from emu.engine.repairs.exitchecks import check_in_place
from emu.engine.repairs.floatconditions import limit_conditions
from emu.engine.repairs.mipstlb import repair_tlb
from emu.engine.repairs.thumb import repair_thumb
from emu.engine.repairs.translation import repair_translator
from emu.engine.stubs import address_of


def repair_library(core: CoreLayout, layout: IsaLayout, exit_requests: int) -> None:
    """Have the library's functions for an ISA do what a guest relies on; EngineError when it is not as the table says.

    `exit_requests` is the offset of the CPU's exit requests from its state.
    """
    watch_code(layout.suffix, layout.calls, core.uc_cpu)
    check_in_place(layout.suffix, layout.calls, layout.tlb.word, exit_requests, core.cpu_uc - layout.env_in_cpu)
    if layout.conditions is not None:
        base = address_of(f"tb_invalidate_phys_page_fast_{layout.suffix}") - layout.calls.invalidate_fast
        never_on_reserved_conditions(base + layout.conditions)
    if layout.condition_masks is not None:
        limit_conditions(layout.condition_masks)
    if layout.abort is not None:
        catch_assertions(core, layout.suffix, layout.abort)
        abort = catch_aborts(layout.suffix, layout.abort, _abort_stores(core, layout))
        if layout.context_save is not None:
            depth, _size = layout.env["trap_depth"]
            bound_context_saves(layout.context_save, depth, layout.env_in_cpu, abort)
    if layout.translator_loop is not None:
        repair_translator(layout.suffix, layout.translator_loop)
    if layout.tlb_calls is not None:
        random, tlb, wired = (layout.env[name][0] for name in ("Random", "tlb", "Wired"))
        repair_tlb(layout.suffix, layout.tlb_calls, (random, tlb, wired))
    if layout.knows_thumb:
        repair_thumb()
    if "npc" in layout.env:
        leave_next_pc_alone(layout.suffix)


def _abort_stores(core: CoreLayout, layout: IsaLayout) -> tuple[tuple[int, int], ...]:
    """What a CPU that QEMU would abort leaves its slice with: offsets in CPUState, and 32-bit values."""
    fields = layout.abort_fields
    stores = [(layout.env_in_cpu + layout.env[name][0], value) for name, value in fields.items()]
    return ((core.cpu_exception_index, EXCP_HLT if fields else ABORTED), *stores)
