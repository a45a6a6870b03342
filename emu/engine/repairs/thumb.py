"""Keeps exit checks out of translated Thumb code, and counts it like any other.

The engine has Unicorn leave out the checks for an exit request behind loads and stores, for they begin the instruction again
(core.py). The translator of Thumb sets that switch by itself, for each block anew. Its stores to it are changed into stores of
the value that the engine wants.

Where there is no exit check, as in an IT block, it has hooks called by a detour that must not end the slice. The counter
(counting.py) may, for it leaves the CPU's state whole; so it is called directly, as it is for the other ISAs.

It is the library that changes, for all engines of this process; only Thumb is concerned.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from emu.engine.library import library_build, library_path, quick_library
from emu.engine.stubs import overwrite
from emu.errors import EngineError

# mov byte [rbp + no_exit_request], imm8, and setne of the same place: seven bytes both
STORE = re.compile(rb"(?:\xc6\x85|\x0f\x95\x85)\xf2\x07\x00\x00")
STORES = 11  # in the translators of arm and aarch64 together
WANTED = b"\xc6\x85\xf2\x07\x00\x00\x01"  # mov byte [rbp + no_exit_request], 1

# cmp byte [rbp + no_exit_request], 0 and, a few instructions on, mov edx, UC_HOOK_CODE_IDX | UC_HOOK_FLAG_NO_STOP
DETOUR = re.compile(rb"\x80\xbd\xf2\x07\x00\x00\x00.{10,30}\xba(?=\x42\x00\x00\x00)", re.DOTALL)
DETOURS = 2
HOOK = b"\x02"  # UC_HOOK_CODE_IDX


@cache
def repair_thumb() -> None:
    """Make the change; EngineError when the library has other code than it was made for."""
    first, text = _text()
    stores = [first + match.start() for match in STORE.finditer(text)]
    detours = [first + match.end() for match in DETOUR.finditer(text)]
    for what, found, wanted in (("stores", stores, STORES), ("detours", detours, DETOURS)):
        if len(found) != wanted:
            raise EngineError(
                f"this library says it is {library_build()}, but has {len(found)} {what}, not {wanted}, to change"
            )
    for address in stores:
        overwrite(address, WANTED)
    for address in detours:
        overwrite(address, HOOK)


def _text() -> tuple[int, bytes]:
    """Where the library's code is in this process, and the code: from the file, for memory that is read stays resident."""
    quick_library()
    maps = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    code = [(*fields[0].split("-"), fields[2]) for fields in maps if fields[5:] == [str(library_path())] and "x" in fields[1]]
    if not code:
        raise EngineError("the library's code is not in this process's memory map")
    # What was changed before may be a mapping of its own between two others.
    first, last, offset = int(code[0][0], 16), int(code[-1][1], 16), int(code[0][2], 16)
    with library_path().open("rb") as file:
        file.seek(offset)
        return first, file.read(last - first)
