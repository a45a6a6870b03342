"""The library's handle of one CPU: opened, repaired where the library is wrong, checked, and its state by name.

What runs it is `Engine` (core.py), which this is the lower half of. Nothing here runs guest code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from emu.engine.isas import layout_of
from emu.engine.layout import Field
from emu.engine.library import library_build, quick_library, slow_library
from emu.engine.repairs import repair_library
from emu.engine.repairs.codepages import keep_stores_fast
from emu.engine.stubs import address_of
from emu.errors import EngineError

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

CType: TypeAlias = "type[ctypes._SimpleCData[Any]] | type[CFuncPtr]"  # what a C argument or result may be

UC_PROT_READ, UC_PROT_EXEC = 1, 4
UC_CTL_WRITE_ONE = 1 << 26 | 1 << 30  # UC_CTL_WRITE(..., 1)
UC_CTL_PAGE_SIZE = 1 | UC_CTL_WRITE_ONE
UC_CTL_USE_EXITS = 4 | UC_CTL_WRITE_ONE
UC_CTL_CPU_MODEL = 7 | UC_CTL_WRITE_ONE
NO_PAGE = (1 << 64) - 1  # of QEMU's function for the physical page of an address

MmioRead = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
MmioWrite = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p)


class Handle:
    """One CPU of the library, as it is after reset."""

    def __init__(self, isa: str) -> None:
        """Open a CPU of `isa`; EngineError when this build of Unicorn or this ISA is not in the table."""
        core, self.layout = layout_of(library_build(), isa)
        self.isa = isa
        self._core = core
        handle = ctypes.c_void_p()
        self._check(quick_library().uc_open(self.layout.arch, self.layout.mode, ctypes.byref(handle)), "open a CPU")
        self._uc = _address(handle.value)
        self._bind_calls()
        if self.layout.model is not None:
            self._check(self._ctl(self._uc, UC_CTL_CPU_MODEL, self.layout.model), "choose a CPU model")
        if self.layout.page_size is not None:
            self._check(self._ctl(self._uc, UC_CTL_PAGE_SIZE, self.layout.page_size), "choose a page size")
        self._register = ctypes.c_uint64()
        # Any register access makes the library build its CPU; only from then on is there a state to point into.
        self._check(self._reg_read(self._uc, self.layout.any_register, ctypes.addressof(self._register)), "build a CPU")
        self._check(self._ctl(self._uc, UC_CTL_USE_EXITS, 1), "do without an end address")

        self.cpu = self._get_cpu(self._uc, self.layout.cpu_index)
        self._check_layout(self._pointer_at(self._uc + core.uc_cpu) == self.cpu)
        self._check_layout(self._pointer_at(self.cpu + core.cpu_uc) == self._uc)
        self.env = self._pointer_at(self.cpu + core.cpu_env_ptr)
        self._check_layout(self.env == self.cpu + self.layout.env_in_cpu)
        requests = self._pointer_at(self.cpu + core.cpu_icount_decr_ptr)
        repair_library(core, self.layout, requests - self.env)
        cpu_class = self._pointer_at(self.cpu + core.cpu_class)
        keep_stores_fast(core, self.layout.tlb, cpu_class, requests)
        if self.layout.left_unreset:
            reset = self._pointer_at(cpu_class)
            ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(reset)(self.cpu)
        for name, value in self.layout.reset.items():
            self.field(name).value = value
        self._pc = self.field("pc")
        self._npc = self.field("npc") if "npc" in self.layout.env else None  # SPARC: the pc behind the pc
        self._halted = ctypes.c_uint32.from_address(self.cpu + core.cpu_halted)

    def close(self) -> None:
        """Give the CPU back. Nothing of it may be used afterwards; closing twice is harmless."""
        if self._uc:
            quick_library().uc_close(ctypes.c_void_p(self._uc))
            self._uc = 0

    # State

    @property
    def pc(self) -> int:
        """The program counter. In a callback it is exact in an exception handler only."""
        return self._pc.value

    @pc.setter
    def pc(self, value: int) -> None:
        # uc_reg_write would mark the pc as set by hand, and the mark outlives the exit it was meant for.
        self._pc.value = value
        if self._npc is not None:
            self._npc.value = value + 4

    @property
    def halted(self) -> bool:
        """Whether the guest waits for an interrupt. `run` clears it: do not run a halted CPU before there is one."""
        return bool(self._halted.value)

    @halted.setter
    def halted(self, value: bool) -> None:
        self._halted.value = value

    def read_register(self, regid: int) -> int:
        """A register of up to 64 bits, by its id in `registers`; one the current privilege may not see reads as 0."""
        self._register.value = 0
        self._check(self._reg_read(self._uc, regid, ctypes.addressof(self._register)), f"read register {regid}")
        return self._register.value

    def write_register(self, regid: int, value: int) -> None:
        """Write a register of up to 64 bits, as the current privilege may. Not for the pc."""
        self._register.value = value
        self._check(self._reg_write(self._uc, regid, ctypes.addressof(self._register)), f"write register {regid}")

    def field(self, name: str) -> Field:
        """A field of the CPU's state by its name in the layout table; it bypasses all side effects."""
        offset, size = self.layout.env[name]
        return _FIELD_TYPES[size].from_address(self.env + offset)

    def view(self, name: str) -> memoryview:
        """A part of the CPU's state of any size by its name in the layout table, in place, as bytes."""
        offset, size = self.layout.env[name]
        return memoryview((ctypes.c_uint8 * size).from_address(self.env + offset)).cast("B")

    def function(self, name: str, restype: CType | None, *argtypes: CType) -> Callable[..., int]:
        """QEMU's internal function `name` of this ISA, typed by ctypes types. Most take `cpu` or `env` first.

        It is called with the GIL held and must not leave by longjmp: that would skip the Python frames below it.
        """
        return ctypes.PYFUNCTYPE(restype, *argtypes)(self.address_of(name))

    def address_of(self, name: str) -> int:
        """Where QEMU's internal function `name` of this ISA is; EngineError when there is none."""
        symbol = f"{name}_{self.layout.suffix}"
        # What only one ISA has bears no suffix.
        return address_of(symbol if hasattr(quick_library(), symbol) or not hasattr(quick_library(), name) else name)

    def translate(self, address: int) -> int | None:
        """The physical address of a virtual one as the CPU would load from it or execute it now; None when it could not.

        Allowed in callbacks. As for the CPU itself, page table entries may be marked accessed.
        """
        if self._phys_page is not None:
            return self._translate_by_page(self._phys_page, address)
        physical = ctypes.c_uint64()
        for access in (UC_PROT_READ, UC_PROT_EXEC):
            if not self._vmem_translate(self._uc, address, access, ctypes.byref(physical)):
                return physical.value
        return None

    def _translate_by_page(self, phys_page: Callable[..., int], address: int) -> int | None:
        """By QEMU's function for debuggers, which leaves a fault in the CPU's state where there is no page."""
        exception = ctypes.c_int32.from_address(self.cpu + self._core.cpu_exception_index)
        before = exception.value, ctypes.string_at(self.env, self.layout.env_size)
        page = phys_page(self.cpu, address)
        exception.value = before[0]
        ctypes.memmove(self.env, before[1], self.layout.env_size)
        in_page = self.layout.map_unit - 1
        return None if page == NO_PAGE else page & ~in_page | address & in_page

    def add_hook(
        self, kind: int, entry: int, first: int = 1, last: int = 0, *, instruction: int = 0, data: int | None = None
    ) -> int:
        """Have the library call the function at `entry` for addresses from `first` to `last`: for all, if `first` is larger.

        The function gets `data` as its last argument. Returns what `remove_hook` takes.
        """
        hook = ctypes.c_size_t()
        error = self._hook_add(self._uc, ctypes.byref(hook), kind, entry, data, first, last, instruction)
        self._check(error, f"add a hook of kind {kind}")
        return hook.value

    def remove_hook(self, hook: int) -> None:
        """Have the library call it no more, from the next translations on. Between slices."""
        self._check(self._hook_delete(self._uc, hook), "remove a hook")

    def flush_code(self) -> None:
        """Forget all translations. Between slices only: a callback would return into one."""
        self._tb_flush(self.cpu)

    def flush_tlb(self) -> None:
        """Forget all address translations. Allowed in callbacks."""
        self._tlb_flush(self.cpu)

    def _bind_calls(self) -> None:
        pointer, number, u64, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t
        self._ctl = _call("uc_ctl", number, pointer, number, number)
        self._reg_read = _call("uc_reg_read", number, pointer, number, pointer)
        self._reg_write = _call("uc_reg_write", number, pointer, number, pointer)
        self._mem_map_ptr = _call("uc_mem_map_ptr", number, pointer, u64, size, number, pointer)
        self._mmio_map = _call("uc_mmio_map", number, pointer, u64, size, MmioRead, pointer, MmioWrite, pointer)
        self._hook_add = _call("uc_hook_add", number, pointer, pointer, number, pointer, pointer, u64, u64, number)
        self._cpu_exit = _call("cpu_exit", None, pointer)
        self._hook_delete = _call("uc_hook_del", number, pointer, size)
        self._vmem_translate = _call("uc_vmem_translate", number, pointer, u64, number, pointer)
        start = ctypes.CFUNCTYPE(number, pointer, u64, u64, u64, size)
        self._emu_start = start(("uc_emu_start", slow_library()))
        self._get_cpu = self.function("qemu_get_cpu", u64, pointer, number)
        self._ram_address = self.function("qemu_ram_addr_from_host", u64, pointer, pointer)
        self._tb_invalidate = self.function("tb_invalidate_phys_range", None, pointer, u64, u64)
        self._tb_flush = self.function("tb_flush", None, pointer)
        self._tlb_flush = self.function("tlb_flush", None, pointer)
        phys_page = self.layout.phys_page
        self._phys_page = self.function(phys_page, u64, pointer, u64) if phys_page else None

    @staticmethod
    def _check_layout(as_expected: bool) -> None:
        if not as_expected:
            raise EngineError(f"this library says it is {library_build()}, but its CPU state is laid out differently")

    @staticmethod
    def _pointer_at(address: int) -> int:
        return ctypes.c_uint64.from_address(address).value

    @staticmethod
    def _check(error: int, what: str) -> None:
        if error:
            raise EngineError(f"Unicorn cannot {what}: uc_err {error}")


_FIELD_TYPES = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


def _address(pointer: int | None) -> int:
    if pointer is None:
        raise EngineError("Unicorn opened a CPU at address 0")
    return pointer


def _call(name: str, restype: CType | None, *argtypes: CType) -> Callable[..., int]:
    """An API function, called with the GIL held: it is short, and giving the GIL up costs more than the call."""
    return ctypes.PYFUNCTYPE(restype, *argtypes)((name, quick_library()))
