"""One CPU on Unicorn, run in slices.

    run() --> blocks of guest code --> MMIO read or write --.   callbacks, on the vCPU thread
      ^            |       '---------> on_exception --------|
      |            v                                        v
    STOPPED <-- block head <-- stop() from any thread, end_slice() or kick() from a callback
    HALTED  <-- the guest waits for an interrupt

Unicorn looks for an exit request after every load and store and then begins that instruction again: a device access or a
read-modify-write happens twice. The engine leaves those checks out of the translation, so a slice ends at the head of a block.
A counted slice needs them to end at an exact instruction; there the engine raises no exit request at all and lowers the count.

Everything but `stop` belongs to the vCPU thread: between slices, or inside a callback where it says so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from emu.engine.abort import ABORTED, catch_aborts
from emu.engine.codewatch import watch_code
from emu.engine.guard import Guard
from emu.engine.holes import ACCESS_OF_ERROR, Access, StoreTrap, gaps
from emu.engine.isas import layout_of
from emu.engine.layout import CoreLayout, Field
from emu.engine.library import library_build, quick_library, slow_library
from emu.engine.stubs import executable
from emu.engine.thumb import leave_thumb_exits_out
from emu.engine.translation import repair_translator
from emu.engine.traps import Trap, TrapTrace
from emu.engine.x86native import X86Native
from emu.errors import EngineError

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

CType: TypeAlias = "type[ctypes._SimpleCData[Any]] | type[CFuncPtr]"  # what a C argument or result may be

UC_HOOK_INTR = 1
UC_HOOK_INSN = 2
UC_HOOK_BLOCK = 8
UC_HOOK_MEM_WRITE_UNMAPPED = 32
UC_PROT_READ, UC_PROT_EXEC, UC_PROT_ALL = 1, 4, 7
UC_CTL_WRITE_ONE = 1 << 26 | 1 << 30  # UC_CTL_WRITE(..., 1)
UC_CTL_PAGE_SIZE = 1 | UC_CTL_WRITE_ONE
UC_CTL_USE_EXITS = 4 | UC_CTL_WRITE_ONE
UC_CTL_CPU_MODEL = 7 | UC_CTL_WRITE_ONE
CPU_INTERRUPT_HARD = 2  # QEMU's bit for the CPU's interrupt line

UC_ERR_EXCEPTION = 21
EXCP_HLT, EXCP_HALTED = 0x10001, 0x10003  # QEMU's exception numbers: the first ends a slice
EXEC_INTERRUPT = 144  # offset in CPUClass

_MmioRead = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_void_p)
_MmioWrite = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, ctypes.c_uint64, ctypes.c_void_p)
_StopInterrupt = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)
_ExecInterrupt = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int)
_Interrupt = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_PortRead = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
_PortWrite = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)
_Instruction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_Block = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_Unmapped = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)


class Exit(Enum):
    """Why a slice ended."""

    STOPPED = auto()  # asked to, or the count is used up
    HALTED = auto()  # the guest waits for an interrupt; the pc is past the instruction that waits


class Engine:
    """One CPU and its physical address space."""

    def __init__(self, isa: str) -> None:
        """Open a CPU of `isa` as it is after reset; EngineError when this build of Unicorn or this ISA is not in the table."""
        core, self._layout = layout_of(library_build(), isa)
        self.isa = isa
        self.budget = 0  # instructions that a slice executes at most unless `run` is told otherwise; 0: no limit
        self._executed: int | None = 0  # instructions in the last counted slice; None while it runs
        self._callbacks: list[object] = []  # the library points to them: they live as long as the handle
        self._ram: list[tuple[int, int, int]] = []  # base, size, ram_addr_t of the base
        self._failure: BaseException | None = None
        self._exception_handler: Callable[[int], None] | None = None
        self._trap_trace: TrapTrace | None = None
        self._unmapped_handler: Callable[[Access, int], int] | None = None
        self._counted = False
        self._held_requests = 0  # interrupt requests raised within a counted slice, for the next one

        watch_code(self._layout.suffix, self._layout.code_watch)
        if self._layout.abort is not None:
            catch_aborts(self._layout.suffix, self._layout.abort, self._abort_stores(core))
        if self._layout.translator_loop is not None:
            repair_translator(self._layout.suffix, self._layout.translator_loop)
        if self._layout.thumb:
            leave_thumb_exits_out()
        handle = ctypes.c_void_p()
        self._check(quick_library().uc_open(self._layout.arch, self._layout.mode, ctypes.byref(handle)), "open a CPU")
        self._uc = _address(handle.value)
        self._bind_calls()
        if self._layout.model is not None:
            self._check(self._ctl(self._uc, UC_CTL_CPU_MODEL, self._layout.model), "choose a CPU model")
        if self._layout.page_size is not None:
            self._check(self._ctl(self._uc, UC_CTL_PAGE_SIZE, self._layout.page_size), "choose a page size")
        self._register = ctypes.c_uint64()
        self._scratch = ctypes.c_uint64()  # of the machine code in x86native
        # Any register access makes the library build its CPU; only from then on is there a state to point into.
        self._check(self._reg_read(self._uc, self._layout.any_register, ctypes.addressof(self._register)), "build a CPU")
        self._check(self._ctl(self._uc, UC_CTL_USE_EXITS, 1), "do without an end address")

        self.cpu = self._get_cpu(self._uc, self._layout.cpu_index)
        self._check_layout(self._pointer_at(self._uc + core.uc_cpu) == self.cpu)
        self.env = self._pointer_at(self.cpu + core.cpu_env_ptr)
        self._check_layout(self.env == self.cpu + self._layout.env_in_cpu)
        if self._layout.left_unreset:
            reset = self._pointer_at(self._pointer_at(self.cpu + core.cpu_class))
            ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(reset)(self.cpu)
        for name, value in self._layout.reset.items():
            self.field(name).value = value
        self._pc = self.field("pc")
        self._thumb = self.field("thumb") if self._layout.thumb else None
        self._halted = ctypes.c_uint32.from_address(self.cpu + core.cpu_halted)
        self._requests = ctypes.c_uint32.from_address(self.cpu + core.cpu_interrupt_request)
        self._icount_high = ctypes.c_int16.from_address(self._pointer_at(self.cpu + core.cpu_icount_decr_ptr) + 2)
        self._counter = ctypes.c_uint64.from_address(self._uc + core.uc_emu_counter)
        self._count = ctypes.c_uint64.from_address(self._uc + core.uc_emu_count)
        self._exception_index = ctypes.c_int32.from_address(self.cpu + core.cpu_exception_index)
        self._exec_interrupt = self._pointer_at(self.cpu + core.cpu_class) + core.class_exec_interrupt
        self._invalid_address = ctypes.c_uint64.from_address(self._uc + core.uc_invalid_addr)
        self._no_exit_request = ctypes.c_uint8.from_address(self._uc + core.uc_no_exit_request)
        self._no_exit_request.value = 1
        self._stop_interrupt = ctypes.c_void_p.from_address(self._uc + core.uc_stop_interrupt)
        if not self._layout.stop_interrupt:
            self._stop_interrupt.value = None
        self._guard = Guard(core, self._uc)
        self._waiting = self.field(self._layout.wait_field) if self._layout.wait_field else None
        self._class = self._pointer_at(self.cpu + core.cpu_class)
        self._exception_pc = 0
        self._npc = self.field("npc") if "npc" in self._layout.env else None  # SPARC: the pc behind the pc
        self._first_npc: int | None = None
        self._exception_npc = 0
        if self._layout.pc_advance is None or self._layout.wait_spins or self._waiting is not None:
            self._answer_stop_interrupt()
        self._store_trap = StoreTrap(core, self._uc, self.cpu, self.env, self._layout.env_size, self.flush_tlb)

    def close(self) -> None:
        """Give the CPU back. Nothing of it may be used afterwards; closing twice is harmless."""
        if self._uc:
            quick_library().uc_close(ctypes.c_void_p(self._uc))
            self._uc = 0

    # Memory map

    def map_ram(self, base: int, host_address: int, size: int) -> None:
        """Back `size` bytes of physical memory from `base` on with host memory, which must stay there until `close`."""
        self._check(self._mem_map_ptr(self._uc, base, size, UC_PROT_ALL, host_address), f"map {size:#x} bytes at {base:#x}")
        self._ram.append((base, size, self._ram_address(self._uc, host_address)))

    def map_mmio(self, base: int, size: int, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        """Send accesses to `size` bytes from `base` on to `read(offset, size)` and `write(offset, size, value)`.

        `size` is 1, 2 or 4 and `offset` a multiple of it: an 8-byte access comes as two, the lower address first; an unaligned
        load as the two aligned ones around it, an unaligned store as single bytes. What a callback raises ends the slice and is
        raised again by `run`.
        """

        def on_read(_uc: int, offset: int, size: int, _data: int) -> int:
            try:
                return read(offset, size)
            except BaseException as exc:
                self.fail(exc)
                return 0

        def on_write(_uc: int, offset: int, size: int, value: int, _data: int) -> None:
            try:
                write(offset, size, value)
            except BaseException as exc:
                self.fail(exc)

        reader, writer = _MmioRead(on_read), _MmioWrite(on_write)
        self._callbacks += [reader, writer]
        self._check(self._mmio_map(self._uc, base, size, reader, None, writer, None), f"map {size:#x} bytes at {base:#x}")

    def map_ports(self, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        """Send an x86 guest's port accesses to `read(port, size)` and `write(port, size, value)`, as `map_mmio` does.

        `size` is 1, 2 or 4. What the guest's privilege does not allow is #GP and never gets here. Set once.
        """

        def on_read(_uc: int, port: int, size: int, _data: int) -> int:
            try:
                return read(port, size)
            except BaseException as exc:
                self.fail(exc)
                return 0

        def on_write(_uc: int, port: int, size: int, value: int, _data: int) -> None:
            try:
                write(port, size, value)
            except BaseException as exc:
                self.fail(exc)

        for instruction, callback in (("in", _PortRead(on_read)), ("out", _PortWrite(on_write))):
            self._callbacks.append(callback)
            entry = ctypes.cast(callback, ctypes.c_void_p).value or 0
            checked = executable(self._x86_native().checked_port(entry))
            self._add_hook(UC_HOOK_INSN, checked, 1, 0, self._layout.instructions[instruction])

    def on_instruction(self, instruction: str, handler: Callable[[], None]) -> None:
        """Call `handler()` instead of executing an instruction of those in the layout table, with the pc at it.

        Unicorn moves the pc by the instruction's length afterwards.
        """

        def on_hook(_uc: int, _data: int) -> int:
            try:
                handler()
            except BaseException as exc:
                self.fail(exc)
            return 1

        self._hook(UC_HOOK_INSN, _Instruction(on_hook), 1, 0, self._layout.instructions[instruction])

    def deliver_exceptions(self) -> None:
        """Have QEMU's own code enter the x86 guest's handler at every exception, instead of `on_exception`. Set once."""
        native = self._x86_native()
        self._stop_interrupt.value = executable(native.save_pc())
        self._add_hook(UC_HOOK_INTR, executable(native.enter_handler()), 1, 0)

    def _address_of(self, function: str) -> int:
        return ctypes.cast(cast("CFuncPtr", self.function(function, None)), ctypes.c_void_p).value or 0

    def _x86_native(self) -> X86Native:
        addresses = [
            self._address_of(name)
            for name in ("x86_cpu_do_interrupt", "helper_check_iob", "helper_check_iow", "helper_check_iol")
        ]
        offset = {name: self._layout.env[name][0] for name in ("pc", "hflags", "eflags")}
        scratch = ctypes.addressof(self._scratch)
        return X86Native(
            self.cpu,
            self.env,
            offset["pc"],
            offset["hflags"],
            offset["eflags"],
            addresses[0],
            (addresses[1], addresses[2], addresses[3]),
            scratch,
        )

    def on_exception(self, handler: Callable[[int], None]) -> None:
        """Call `handler(exception number)` at every synchronous exception, with the pc at the instruction that caused it.

        The handler enters the guest's own handler (QEMU's `do_interrupt` of the ISA), or does what was asked for and moves the
        pc. Without a handler an exception is an EngineError. Set once.
        """
        handler = self._traced(handler)
        pc, advance, trap = self._pc, self._layout.pc_advance, self._store_trap

        def on_interrupt(_uc: int, number: int, _data: int) -> None:
            if trap.address is not None:
                return  # of an instruction behind the one that is to fault
            try:
                self._check_not_aborted(number)
                pc.value = self._exception_pc if advance is None else pc.value - advance
                if self._npc is not None:
                    self._npc.value = self._exception_npc
                handler(number)
            except BaseException as exc:
                self.fail(exc)

        self._exception_handler = handler
        self._hook(UC_HOOK_INTR, _Interrupt(on_interrupt), 1, 0)  # begin > end: anywhere

    def _answer_stop_interrupt(self) -> None:
        """Use the library's question whether an exception ends the slice, which comes before anything is lost.

        It is where the pc of the exception is last known, and where a wait that would spin can be made to end the slice. It
        comes at the begin of a slice too, once the library has made the next pc the one behind the pc, and a slice may begin in
        a delay slot.
        """
        pc, npc, waiting, wait_bit = self._pc, self._npc, self._waiting, self._layout.wait_bit
        index, spins = self._exception_index, self._layout.wait_spins

        def on_question(_uc: int, number: int) -> bool:
            self._exception_pc = pc.value
            if spins and number == EXCP_HALTED:
                index.value = EXCP_HLT
            if waiting is not None and number < 0 and waiting.value & wait_bit:
                self._halted.value = 1
                index.value = EXCP_HLT
            if npc is None:
                return False
            if self._first_npc is not None:
                npc.value, self._first_npc = self._first_npc, None
            self._exception_npc = npc.value
            return False

        callback = _StopInterrupt(on_question)
        self._callbacks.append(callback)
        self._stop_interrupt.value = ctypes.cast(callback, ctypes.c_void_p).value

    def on_interrupt(self, handler: Callable[[], bool]) -> None:
        """Ask `handler` at block heads while the interrupt line is up; it enters the guest's own handler, or answers False.

        For an ISA whose interrupts the library does not take by itself. Set once.
        """

        def exec_interrupt(_cpu: int, request: int) -> bool:
            try:
                return bool(request & CPU_INTERRUPT_HARD) and handler()
            except BaseException as exc:
                self.fail(exc)
                return False

        callback = _ExecInterrupt(exec_interrupt)
        self._callbacks.append(callback)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        ctypes.c_void_p.from_address(self._class + EXEC_INTERRUPT).value = address

    def on_unmapped(self, handler: Callable[[Access, int], int]) -> None:
        """Make an access to a physical address where nothing is mapped an exception of the guest's, as on a real bus.

        `handler(access, physical address)` prepares what the ISA keeps of a fault and returns the number of the exception that
        the handler of `on_exception` is called with. The registers are as before the instruction, the pc is at it, and then the
        slice ends. Without a handler such an access is an EngineError. Set once, after all RAM is mapped.
        """

        def on_store(_uc: int, _kind: int, address: int, _size: int, _value: int, _data: int) -> bool:
            self._store_trap.catch(address)
            return False

        self._unmapped_handler = handler
        callback = _Unmapped(on_store)
        for first, last in gaps((base, size) for base, size, _ram_address in self._ram):
            # Not one hook for all addresses: where a memory hook covers RAM, every store takes the slow path.
            self._hook(UC_HOOK_MEM_WRITE_UNMAPPED, callback, first, last)

    # Tracing: for logs alone, for each of these costs a Python call at least

    def trace_blocks(self, tracer: Callable[[int, int], None]) -> None:
        """Call `tracer(pc, size in bytes)` before each block of guest code. Between slices; set once."""

        def on_block(_uc: int, address: int, size: int, _data: int) -> None:
            try:
                tracer(address, size)
            except BaseException as exc:
                self.fail(exc)

        self._hook(UC_HOOK_BLOCK, _Block(on_block), 1, 0)
        self.flush_code()  # what was translated before has no call of the hook in it

    def trace_traps(self, tracer: Callable[[Trap], None]) -> None:
        """Call `tracer` for every exception, and for every interrupt where the ISA can tell. Between slices; set once."""
        self._trap_trace = TrapTrace(self._layout, self.field, self._exec_interrupt, tracer, self.fail)

    def _traced(self, handler: Callable[[int], None]) -> Callable[[int], None]:
        def handle(number: int) -> None:
            if self._trap_trace is not None:
                self._trap_trace.exception(number)
            handler(number)

        return handle

    # Running

    def run(self, count: int | None = None) -> Exit:
        """Run one slice from the pc on; with a `count`, that many instructions at most, and `executed` says how many it were.

        Without one it is `budget`; 0 is no limit. Raises what a callback raised, or EngineError when the CPU cannot go on.
        """
        if count is None:
            count = self.budget
        if (count > 0) != self._counted:
            self._translate_for(counted=count > 0)
        if self._held_requests:
            self._requests.value |= self._held_requests
            self._held_requests = 0
        self._executed = None
        if self._waiting is not None:
            self._waiting.value &= ~self._layout.wait_bit
        if self._npc is not None:
            self._first_npc = self._npc.value
        start = self._pc.value | (self._thumb.value if self._thumb else 0)
        error = self._emu_start(self._uc, start, 0, 0, count)
        address = self._invalid_address.value
        if self._store_trap.address is not None:
            address = self._store_trap.address
            self._store_trap.undo()
        halted = bool(self._halted.value)
        # The instruction that a slice stops at was counted, but not executed.
        self._executed = self._counter.value - (not halted and not error) if count else 0
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if error:
            self._fault(error, address)
            return Exit.STOPPED
        return Exit.HALTED if halted else Exit.STOPPED

    @property
    def executed(self) -> int:
        """Instructions of the last counted slice; in a callback, those of the running one up to and with the current."""
        return self._counter.value if self._executed is None else self._executed

    def stop(self) -> None:
        """Ask the slice to end, from any thread. One just about to start misses it: repeat until the vCPU thread answers."""
        if not self._uc:
            return  # closed: a thread that repeats its stop may come late
        if self._counted:
            self._count.value = 0
        else:
            self._emu_stop(self._uc)

    def end_slice(self) -> None:
        """Inside a callback: end the slice at the next block head; a counted one before the next instruction."""
        self.stop()

    def kick(self) -> None:
        """Inside a callback that raised an interrupt: have the CPU look at its interrupt requests at the next block head.

        QEMU's `icount_decr.high = -1`: the block chain is left, requests are served and the slice goes on. A counted slice ends
        before the next instruction instead and the request is served when the next one starts: where chains end depends on
        what was translated before, which must not show in a deterministic run.
        """
        if self._counted:
            self._held_requests |= self._requests.value
            self._requests.value = 0
            self._count.value = 0
        else:
            self._icount_high.value = -1

    def set_interrupt(self, level: bool) -> None:
        """Drive the CPU's interrupt line, for ISAs that have just one; the guest's own mask decides. Allowed in callbacks."""
        self.set_request(CPU_INTERRUPT_HARD, level)
        if level:
            self.kick()

    def translate(self, address: int) -> int | None:
        """The physical address of a virtual one as the CPU would load from it or execute it now; None when it could not.

        Allowed in callbacks. As for the CPU itself, page table entries may be marked accessed.
        """
        physical = ctypes.c_uint64()
        for access in (UC_PROT_READ, UC_PROT_EXEC):
            if not self._vmem_translate(self._uc, address, access, ctypes.byref(physical)):
                return physical.value
        return None

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
        offset, size = self._layout.env[name]
        return _FIELD_TYPES[size].from_address(self.env + offset)

    def view(self, name: str) -> memoryview:
        """A part of the CPU's state of any size by its name in the layout table, in place, as bytes."""
        offset, size = self._layout.env[name]
        return memoryview((ctypes.c_uint8 * size).from_address(self.env + offset)).cast("B")

    def set_request(self, request: int, level: bool) -> None:
        """Raise or withdraw one of the CPU's interrupt requests (QEMU's CPU_INTERRUPT_ bits)."""
        if level:
            self._requests.value |= request
        else:
            self._requests.value &= ~request
            self._held_requests &= ~request

    def requested(self, request: int) -> bool:
        """Whether an interrupt request is raised."""
        return bool((self._requests.value | self._held_requests) & request)

    def function(self, name: str, restype: CType | None, *argtypes: CType) -> Callable[..., int]:
        """QEMU's internal function `name` of this ISA, typed by ctypes types. Most take `cpu` or `env` first.

        It is called with the GIL held and must not leave by longjmp: that would skip the Python frames below it.
        """
        for symbol in (f"{name}_{self._layout.suffix}", name):  # what only one ISA has bears no suffix
            if hasattr(quick_library(), symbol):
                return ctypes.PYFUNCTYPE(restype, *argtypes)((symbol, quick_library()))
        raise EngineError(f"libunicorn has no function {name}_{self._layout.suffix}")

    def deliver(self, number: int, entry: Callable[..., int]) -> bool:
        """Have `entry`, QEMU's entry code of the ISA, enter exception `number`: its CPUState method `do_interrupt`.

        False when memory that the entry needs cannot be accessed; the state is then as far as it came. In an exception handler
        or between slices.
        """
        self._exception_index.value = number
        done = self._guard.call(entry, self.cpu)
        self._exception_index.value = -1
        if self._store_trap.address is not None:
            self._store_trap.undo()
            return False
        return done

    # Translations

    def invalidate_code(self, start: int, size: int) -> None:
        """Forget translations of `size` bytes of physical memory from `start` on, written by the host. Allowed in callbacks."""
        for base, length, ram_address in self._ram:
            if base <= start and start + size <= base + length:
                offset = ram_address + start - base
                self._tb_invalidate(self._uc, offset, offset + size)
                return
        raise ValueError(f"{size:#x} bytes at {start:#x} are not inside one block of RAM")

    def flush_code(self) -> None:
        """Forget all translations. Between slices only: a callback would return into one."""
        self._tb_flush(self.cpu)

    def flush_tlb(self) -> None:
        """Forget all address translations. Allowed in callbacks."""
        self._tlb_flush(self.cpu)

    def _translate_for(self, *, counted: bool) -> None:
        """A counted slice ends at exits inside a block, which an ordinary one must not have."""
        self._counted = counted
        self._no_exit_request.value = not counted
        self.flush_code()

    def _fault(self, error: int, address: int) -> None:
        """Give the guest the exception for an access that ended the slice, or say why it cannot go on."""
        access = ACCESS_OF_ERROR.get(error)
        if access is not None and self._unmapped_handler is not None and self._exception_handler is not None:
            number = self._unmapped_handler(access, address)
            self._exception_index.value = number
            self._exception_handler(number)
            self._exception_index.value = -1
            return
        if access is not None:
            reason = f"{access.value} at physical address {address:#x}, where nothing is mapped"
        elif error == UC_ERR_EXCEPTION:
            reason = "an exception that nothing handles"
        else:
            reason = f"Unicorn error {error}"
        raise EngineError(f"CPU cannot go on at pc {self._pc.value:#x}: {reason}")

    def _abort_stores(self, core: CoreLayout) -> tuple[tuple[int, int], ...]:
        """What a CPU that QEMU would abort leaves its slice with: offsets in CPUState, and 32-bit values."""
        fields = self._layout.abort_fields
        stores = [(self._layout.env_in_cpu + self._layout.env[name][0], value) for name, value in fields.items()]
        return ((core.cpu_exception_index, EXCP_HLT if fields else ABORTED), *stores)

    def _check_not_aborted(self, number: int) -> None:
        if number == ABORTED:
            raise EngineError(f"CPU cannot go on near pc {self._pc.value:#x}: the library has no answer to what the guest did")

    def _hook(self, kind: int, callback: CFuncPtr, begin: int, end: int, instruction: int = 0) -> None:
        self._callbacks.append(callback)
        self._add_hook(kind, ctypes.cast(callback, ctypes.c_void_p).value or 0, begin, end, instruction)

    def _add_hook(self, kind: int, entry: int, begin: int, end: int, instruction: int = 0) -> None:
        hook = ctypes.c_size_t()
        error = self._hook_add(self._uc, ctypes.byref(hook), kind, entry, None, begin, end, instruction)
        self._check(error, f"add a hook of kind {kind}")

    def keep(self, callback: object) -> None:
        """Have something that the library points to live as long as the CPU."""
        self._callbacks.append(callback)

    def fail(self, failure: BaseException) -> None:
        """Keep what a callback raised, which ctypes would print and drop, and end the slice; `run` raises it."""
        if self._failure is None:
            self._failure = failure
        self.end_slice()

    def _bind_calls(self) -> None:
        pointer, number, u64, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t
        self._ctl = _call("uc_ctl", number, pointer, number, number)
        self._reg_read = _call("uc_reg_read", number, pointer, number, pointer)
        self._reg_write = _call("uc_reg_write", number, pointer, number, pointer)
        self._mem_map_ptr = _call("uc_mem_map_ptr", number, pointer, u64, size, number, pointer)
        self._mmio_map = _call("uc_mmio_map", number, pointer, u64, size, _MmioRead, pointer, _MmioWrite, pointer)
        self._hook_add = _call("uc_hook_add", number, pointer, pointer, number, pointer, pointer, u64, u64, number)
        self._emu_stop = _call("uc_emu_stop", number, pointer)
        self._vmem_translate = _call("uc_vmem_translate", number, pointer, u64, number, pointer)
        start = ctypes.CFUNCTYPE(number, pointer, u64, u64, u64, size)
        self._emu_start = start(("uc_emu_start", slow_library()))
        self._get_cpu = self.function("qemu_get_cpu", u64, pointer, number)
        self._ram_address = self.function("qemu_ram_addr_from_host", u64, pointer, pointer)
        self._tb_invalidate = self.function("tb_invalidate_phys_range", None, pointer, u64, u64)
        self._tb_flush = self.function("tb_flush", None, pointer)
        self._tlb_flush = self.function("tlb_flush", None, pointer)

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


def _call(name: str, restype: CType, *argtypes: CType) -> Callable[..., int]:
    """An API function, called with the GIL held: it is short, and giving the GIL up costs more than the call."""
    return ctypes.PYFUNCTYPE(restype, *argtypes)((name, quick_library()))
