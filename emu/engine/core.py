"""One CPU on Unicorn, run in slices.

    run() --> blocks of guest code --> MMIO read or write --.   callbacks, on the vCPU thread
      ^            |       '---------> on_exception --------|
      |            v                                        v
    STOPPED <-- block head <-- stop() from any thread, end_slice() or kick() from a callback
    HALTED  <-- the guest waits for an interrupt

Unicorn looks for an exit request after every load and store and then begins that instruction again: a device access or a
read-modify-write happens twice. The engine leaves those checks out of the translation, so a slice ends at the head of a block.
A counted slice ends at an exact instruction all the same, by a call in front of each one (counting.py).

Everything but `stop` belongs to the vCPU thread: between slices, or inside a callback where it says so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from emu.engine.alarm import Alarm
from emu.engine.counting import NO_LIMIT, Gate, InstructionCounter
from emu.engine.guard import Guard
from emu.engine.handle import Handle, MmioRead, MmioWrite
from emu.engine.holes import ACCESS_OF_ERROR, Access, StoreTrap, gaps
from emu.engine.question import StopQuestion, stop_or
from emu.engine.repairs.abort import ABORTED
from emu.engine.repairs.assertions import RUNNING
from emu.engine.traps import ExecInterrupt, Trap, TrapTrace
from emu.errors import EngineError

if TYPE_CHECKING:
    from _ctypes import CFuncPtr

UC_HOOK_INTR = 1
UC_HOOK_BLOCK = 8
UC_HOOK_MEM_WRITE_UNMAPPED = 32
UC_PROT_ALL = 7
UC_ERR_EXCEPTION = 21
CPU_INTERRUPT_HARD = 2  # QEMU's bit for the CPU's interrupt line

_Interrupt = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_Block = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
_Unmapped = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
)


class Exit(Enum):
    """Why a slice ended."""

    STOPPED = auto()  # asked to, or the count is used up
    HALTED = auto()  # the guest waits for an interrupt; the pc is past the instruction that waits


class Engine(Handle):
    """One CPU and its physical address space."""

    def __init__(self, isa: str) -> None:
        """Open a CPU of `isa` as it is after reset; EngineError when this build of Unicorn or this ISA is not in the table."""
        super().__init__(isa)
        self._budget = 0
        self._callbacks: list[object] = []  # the library points to them: they live as long as the handle
        self._ram: list[tuple[int, int, int]] = []  # base, size, ram_addr_t of the base
        self._failure: BaseException | None = None
        self._exception_handler: Callable[[int], None] | None = None
        self._trap_trace: TrapTrace | None = None
        self._unmapped_handler: Callable[[Access, int], int] | None = None
        self._held_requests = 0  # interrupt requests raised within a counted slice, for the next one

        core = self._core
        self._thumb = self.field("thumb") if self.layout.thumb else None
        self._requests = ctypes.c_uint32.from_address(self.cpu + core.cpu_interrupt_request)
        self._icount_high = ctypes.c_int16.from_address(self._pointer_at(self.cpu + core.cpu_icount_decr_ptr) + 2)
        self.counter = InstructionCounter(self, core)
        self._exception_index = ctypes.c_int32.from_address(self.cpu + core.cpu_exception_index)
        self._exec_interrupt = self._pointer_at(self.cpu + core.cpu_class) + core.class_exec_interrupt
        self._invalid_address = ctypes.c_uint64.from_address(self._uc + core.uc_invalid_addr)
        self._invalid_error = ctypes.c_uint32.from_address(self._uc + core.uc_invalid_error)
        ctypes.c_uint8.from_address(self._uc + core.uc_no_exit_request).value = 1
        self._guard = Guard(core, self._uc)
        self.answer_stop_interrupt(None)
        self._question = StopQuestion(
            self, self._exception_index, lambda callback: self.answer_stop_interrupt(self.keep(callback))
        )
        self._store_trap = StoreTrap(core, self._uc, self.cpu, self.env, self.layout.env_size, self.flush_tlb)

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

        on_read, on_write = self.accessors(read, write)
        reader, writer = MmioRead(on_read), MmioWrite(on_write)
        self._callbacks += [reader, writer]
        self._check(self._mmio_map(self._uc, base, size, reader, None, writer, None), f"map {size:#x} bytes at {base:#x}")

    def accessors(
        self, read: Callable[[int, int], int], write: Callable[[int, int, int], None]
    ) -> tuple[Callable[[int, int, int, int], int], Callable[[int, int, int, int, int], None]]:
        """The two functions as the library calls them; what they raise ends the slice."""

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

        return on_read, on_write

    def on_exception(self, handler: Callable[[int], None]) -> None:
        """Call `handler(exception number)` at every synchronous exception, with the pc at the instruction that caused it.

        The handler enters the guest's own handler (QEMU's `do_interrupt` of the ISA), or does what was asked for and moves the
        pc. Without a handler an exception is an EngineError. Set once.
        """
        handler = self._traced(handler)
        trap, question = self._store_trap, self._question

        def on_interrupt(_uc: int, number: int, _data: int) -> None:
            if trap.address is not None:
                return  # of an instruction behind the one that is to fault
            try:
                self._check_not_aborted(number)
                self._invalid_error.value = 0  # a TLB miss on MIPS claims to be one too
                question.restore_pc()
                handler(number)
                if self.counted and self.counter.exception():
                    self._cpu_exit(self.cpu)
            except BaseException as exc:
                self.fail(exc)
                self._cpu_exit(
                    self.cpu
                )  # a counted slice ends before an instruction, and there may be none that can be fetched

        self._exception_handler = handler
        self._hook(UC_HOOK_INTR, _Interrupt(on_interrupt))

    def answer_stop_interrupt(self, function: int | None) -> None:
        """Have the library ask `function`, an address, whether an exception ends the slice; None: no exception does."""
        answer = stop_or(function, self._core.uc_stop_request)
        ctypes.c_void_p.from_address(self._uc + self._core.uc_stop_interrupt).value = answer

    def on_interrupt(self, handler: Callable[[], bool], gate: Gate | None = None) -> None:
        """Ask `handler` at block heads while the interrupt line is up; it enters the guest's own handler, or answers False.

        For an ISA whose interrupts the library does not take by itself. A counted slice ends where `gate` opens: just when
        `handler` would not answer False any more. Set once.
        """
        if gate is not None:
            self.counter.look_at(gate)

        def exec_interrupt(_cpu: int, request: int) -> bool:
            try:
                return bool(request & CPU_INTERRUPT_HARD) and handler()
            except BaseException as exc:
                self.fail(exc)
                return False

        ctypes.c_void_p.from_address(self._exec_interrupt).value = self.keep(ExecInterrupt(exec_interrupt))

    def on_resume(self, handler: Callable[[], None]) -> None:
        """Call `handler` before guest code runs at the begin of a slice and behind each trap: to finish what the library left.

        For an ISA whose traps the library enters by itself. Set once.
        """

        def resumed() -> None:
            try:
                handler()
            except BaseException as exc:
                self.fail(exc)

        self._question.resumed = resumed

    def on_unmapped(self, handler: Callable[[Access, int], int]) -> None:
        """Make an access to a physical address where nothing is mapped an exception of the guest's, as on a real bus.

        `handler(access, physical address)` prepares what the ISA keeps of a fault and returns the number of the exception that
        the handler of `on_exception` is called with. The registers are as before the instruction, the pc is at it, and then the
        slice ends. Without a handler such an access is an EngineError. Set once, after all RAM is mapped.
        """

        def on_store(_uc: int, _kind: int, address: int, _size: int, _value: int, _data: int) -> bool:
            self._store_trap.catch(address)
            if self.counted:
                self.counter.end()
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

        self._hook(UC_HOOK_BLOCK, _Block(on_block))
        self.flush_code()  # what was translated before has no call of the hook in it

    def trace_traps(self, tracer: Callable[[Trap], None]) -> None:
        """Call `tracer` for every exception, and for every interrupt where the ISA can tell. Between slices; set once."""
        self._trap_trace = TrapTrace(self.layout, self.field, self._exec_interrupt, tracer, self.fail)

    def _traced(self, handler: Callable[[int], None]) -> Callable[[int], None]:
        def handle(number: int) -> None:
            if self._trap_trace is not None:
                self._trap_trace.exception(number)
            handler(number)

        return handle

    # Running

    @property
    def counted(self) -> bool:
        """Whether instructions are counted, in the running slice or the last one."""
        return self.counter.on

    @property
    def budget(self) -> int:
        """Instructions that a slice executes at most; 0: no limit. To be set before each counted slice, which then begins."""
        return self._budget

    @budget.setter
    def budget(self, instructions: int) -> None:
        self._budget = instructions
        self.counter.begin(instructions or NO_LIMIT)

    def run(self, count: int | None = None) -> Exit:
        """Run one slice from the pc on, of `budget` instructions at most, which `count` sets; `executed` says how many it were.

        Raises what a callback raised, or EngineError when the CPU cannot go on.
        """
        if count is not None:
            self.budget = count
        if (self._budget > 0) != self.counted:
            self.counter.switch()
        if self._held_requests:
            self._requests.value |= self._held_requests
            self._held_requests = 0
        self._question.slice_begins()
        start = self._pc.value | (self._thumb.value if self._thumb else 0)
        RUNNING.cpu = self.cpu
        error = self._emu_start(self._uc, start, 0, 0, 0)
        RUNNING.cpu = 0
        address = self._invalid_address.value
        if self._store_trap.address is not None:
            address = self._store_trap.address
            self._store_trap.undo()
        halted = bool(self._halted.value)
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
        return self.counter.done

    def stop(self) -> None:
        """Ask the slice to end, from any thread. One just about to start misses it: repeat until the vCPU thread answers."""
        if not self._uc:
            return  # closed: a thread that repeats its stop may come late
        if self.counted:
            self.counter.end()
        else:
            self._cpu_exit(self.cpu)

    def alarm(self) -> Alarm:
        """Make what ends slices in time, on the vCPU thread; an `Alarm` of counted slices would be no use."""
        return Alarm(self.cpu)

    def end_slice(self) -> None:
        """Inside a callback: end the slice at the next block head; a counted one before the next instruction."""
        self.stop()

    def kick(self) -> None:
        """Inside a callback that raised an interrupt: have the CPU look at its interrupt requests at the next block head.

        QEMU's `icount_decr.high = -1`: the block chain is left, requests are served and the slice goes on. A counted slice ends
        before the next instruction instead and the request is served when the next one starts: where chains end depends on
        what was translated before, which must not show in a deterministic run.
        """
        if self.counted:
            self._held_requests |= self._requests.value
            self._requests.value = 0
            self.counter.end()
        else:
            self._icount_high.value = -1

    def set_interrupt(self, level: bool) -> None:
        """Drive the CPU's interrupt line, for ISAs that have just one; the guest's own mask decides. Allowed in callbacks."""
        self.set_request(CPU_INTERRUPT_HARD, level)
        self.counter.set_pending(level)
        if level:
            self.kick()

    # State

    def set_request(self, request: int, level: bool) -> None:
        """Raise or withdraw one of the CPU's interrupt requests (QEMU's CPU_INTERRUPT_ bits)."""
        if level:
            self._requests.value |= request
        else:
            self._requests.value &= ~request
            self._held_requests &= ~request

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

    def _fault(self, error: int, address: int) -> None:
        """Give the guest the exception for an access that ended the slice, or say why it cannot go on."""
        access = ACCESS_OF_ERROR.get(error)
        if access is not None and self._unmapped_handler is not None and self._exception_handler is not None:
            self.counter.exception()
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

    def _check_not_aborted(self, number: int) -> None:
        if number == ABORTED:
            raise EngineError(f"CPU cannot go on near pc {self._pc.value:#x}: the library has no answer to what the guest did")

    def _hook(self, kind: int, callback: CFuncPtr, first: int = 1, last: int = 0) -> None:
        self.add_hook(kind, self.keep(callback), first, last)

    def keep(self, callback: CFuncPtr) -> int:
        """Have a callback live as long as the CPU, for the library points to it; its address."""
        self._callbacks.append(callback)
        return ctypes.cast(callback, ctypes.c_void_p).value or 0

    def fail(self, failure: BaseException) -> None:
        """Keep what a callback raised, which ctypes would print and drop, and end the slice; `run` raises it."""
        if self._failure is None:
            self._failure = failure
        self.end_slice()
