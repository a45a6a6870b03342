"""Keeps exit checks out of translated Thumb code.

The engine has Unicorn leave out the checks for an exit request behind loads and stores, for they begin the instruction again
(core.py). The translator of Thumb sets that switch by itself, for each block anew. Its stores to it are changed into stores of
the value that the engine wants. It is the library that changes, for all engines of this process; only Thumb is concerned.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path

from emu.engine.library import library_build, library_path, quick_library
from emu.engine.stubs import change_code
from emu.errors import EngineError

# mov byte [rbp + no_exit_request], imm8, and setne of the same place: seven bytes both
STORE = re.compile(rb"(?:\xc6\x85|\x0f\x95\x85)\xf2\x07\x00\x00")
STORES = 11  # in the translators of arm and aarch64 together
WANTED = b"\xc6\x85\xf2\x07\x00\x00\x01"  # mov byte [rbp + no_exit_request], 1


@cache
def leave_thumb_exits_out() -> None:
    """Make the change; EngineError when the library has other code than it was made for."""
    first, last = _text()
    text = ctypes.string_at(first, last - first)
    stores = [first + match.start() for match in STORE.finditer(text)]
    if len(stores) != STORES:
        raise EngineError(f"this library says it is {library_build()}, but has {len(stores)} stores, not {STORES}, to change")
    for address in stores:
        change_code(address, WANTED)


def _text() -> tuple[int, int]:
    """Where the library's code is in this process."""
    quick_library()
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(library_path()) and "x" in fields[1]:
            first, _, last = fields[0].partition("-")
            return int(first, 16), int(last, 16)
    raise EngineError("the library's code is not in this process's memory map")
