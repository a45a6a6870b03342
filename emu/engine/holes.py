"""Accesses to physical addresses where there is nothing.

A load or a fetch from a hole leaves the block at once. After a store Unicorn only asks for an exit: the rest of the block still
runs, with everything it does. So the first store to a hole copies the registers and blinds the rest of the block: the address
translations are dropped and no address has memory behind it, so that a load leaves the block and a store reaches nothing. Once
the slice is over the copy goes back, and the CPU is as it was at the store.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from emu.engine.layout import CoreLayout

LAST_ADDRESS = (1 << 64) - 1

_Mapping = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)


class Access(Enum):
    """What a guest wanted of a physical address where there is nothing."""

    LOAD = "load"
    STORE = "store"
    FETCH = "fetch"


ACCESS_OF_ERROR = {  # enum uc_err: READ, WRITE, FETCH of UNMAPPED and of PROT, the last by a jump to a device
    6: Access.LOAD,
    7: Access.STORE,
    8: Access.FETCH,
    12: Access.STORE,
    13: Access.LOAD,
    14: Access.FETCH,
}


class StoreTrap:
    """Catches the first store to a hole in a slice. All on the vCPU thread."""

    def __init__(self, core: CoreLayout, uc: int, cpu: int, env: int, env_size: int, flush_tlb: Callable[[], None]) -> None:
        self.address: int | None = None  # of the store that was caught
        self._env = env
        self._saved_env = ctypes.create_string_buffer(env_size)
        self._requests = ctypes.c_uint32.from_address(cpu + core.cpu_interrupt_request)
        self._saved_requests = 0
        self._halted = ctypes.c_uint32.from_address(cpu + core.cpu_halted)
        self._mapping = ctypes.c_void_p.from_address(uc + core.uc_memory_mapping)
        self._saved_mapping = self._mapping.value
        self._nothing_mapped = _Mapping(lambda _uc, _address: None)
        self._flush_tlb = flush_tlb

    def catch(self, address: int) -> None:
        """A store to a hole is under way; its pc and all registers are in place."""
        if self.address is not None:
            return  # a later store of the same block
        self.address = address
        ctypes.memmove(self._saved_env, self._env, len(self._saved_env))
        self._saved_requests = self._requests.value
        self._mapping.value = ctypes.cast(self._nothing_mapped, ctypes.c_void_p).value
        self._flush_tlb()

    def undo(self) -> None:
        """The slice is over: put back what the rest of the block changed."""
        ctypes.memmove(self._env, self._saved_env, len(self._saved_env))
        self._requests.value = self._saved_requests
        self._halted.value = 0
        self._mapping.value = self._saved_mapping
        self._flush_tlb()
        self.address = None


def gaps(blocks: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """First and last address of each stretch of the physical address space that is in none of `blocks` (base, size)."""
    begin = 0
    for base, size in sorted(blocks):
        if base > begin:
            yield begin, base - 1
        begin = base + size
    if begin <= LAST_ADDRESS:
        yield begin, LAST_ADDRESS
