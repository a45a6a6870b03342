"""Has Unicorn's translator of m68k survive floating point conditions that do not exist.

FBcc, FScc and their like name one of 32 conditions by 6 bits (M68000PRM, 3.6.2). With the upper one set, QEMU's translator
finds no condition, goes on with what its stack holds, and the process ends. Its two places that take the 6 bits are made to
take 5. As in `codewatch` it is the library that changes, once.
"""

from __future__ import annotations

import ctypes
from functools import cache

from emu.engine.layout import ConditionMasks
from emu.engine.library import library_build
from emu.engine.stubs import address_of, overwrite
from emu.errors import EngineError

AND_3F, AND_1F = b"\x3f", b"\x1f"  # the last byte of `and r32, imm8`


@cache
def limit_conditions(masks: ConditionMasks) -> None:
    """Make the change; EngineError when the library has other code than it was made for."""
    moved_by = address_of("gen_intermediate_code_m68k") - masks.translator
    for place in masks.masks:
        if ctypes.string_at(place + moved_by, 1) != AND_3F:
            raise EngineError(f"this library says it is {library_build()}, but has no mask of conditions at {place:#x}")
        overwrite(place + moved_by, AND_1F)
