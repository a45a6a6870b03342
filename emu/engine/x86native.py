"""What an x86 needs done inside the library: entering exception handlers, and the permission check of port accesses.

Both may raise an exception, which leaves the library's functions by longjmp. No Python frame may stand in its way, so these few
instructions are called by the library instead of Python.

QEMU ends the process when an exception needs the kernel's stack and the task register is not fit to find it, as after LTR of
the null selector. A CPU shuts down: that call is led to code that leaves the slice as a triple fault does.

Unicorn sets the pc behind an INT before it calls the exception hook, and translates no permission check for IN and OUT.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.engine.counting import COUNT_EXCEPTION

SAVE_PC = bytes.fromhex(
    "48b8 0000000000000000"  # movabs rax, &env->eip       bool stop_interrupt(uc, number)
    "488b08"  # mov rcx, [rax]
    "48b8 0000000000000000"  # movabs rax, &saved
    "488908"  # mov [rax], rcx
    "31c0 c3"  # xor eax, eax; ret           the slice goes on
)
ENTER_HANDLER = bytes.fromhex(
    "48b8 0000000000000000"  # movabs rax, &saved           void hook(uc, number, data)
    "488b08"  # mov rcx, [rax]
    "48b8 0000000000000000"  # movabs rax, &env->eip
    "488908"  # mov [rax], rcx
    f"{COUNT_EXCEPTION.hex()}"
    "48bf 0000000000000000"  # movabs rdi, cpu
    "720e"  # jb enter
    "57"  # push rdi
    "48b8 0000000000000000"  # movabs rax, cpu_exit
    "ffd0"  # call rax
    "5f"  # pop rdi
    "48b8 0000000000000000"  # enter: movabs rax, x86_cpu_do_interrupt
    "ffe0"  # jmp rax
)
CHECK_PORT = bytes.fromhex(
    "48b8 0000000000000000"  # movabs rax, env              hook(uc, port, size, ...)
    "448b90 00000000"  # mov r10d, [rax + hflags]
    "448b98 00000000"  # mov r11d, [rax + eflags]
    "41f7c300000200 7511"  # test r11d, VM; jnz check
    "4183e203 41c1eb0c 4183e303"  # and r10d, 3 (CPL); shr r11d, 12; and r11d, 3 (IOPL)
    "4539da 7636"  # cmp r10d, r11d; jbe allowed
    "57 56 52 51 4150"  # check: push rdi, rsi, rdx, rcx, r8
    "4889c7"  # mov rdi, rax
    "48b8 0000000000000000"  # movabs rax, helper_check_iob
    "83fa02 7216"  # cmp edx, 2; jb call
    "48b8 0000000000000000"  # movabs rax, helper_check_iow
    "740a"  # je call
    "48b8 0000000000000000"  # movabs rax, helper_check_iol
    "ffd0"  # call: call rax
    "4158 59 5a 5e 5f"  # pop r8, rcx, rdx, rsi, rdi
    "48b8 0000000000000000"  # allowed: movabs rax, callback
    "ffe0"  # jmp rax
)
MOVABS = (b"\x48\xb8" + bytes(8), b"\x48\xbf" + bytes(8))


@dataclass(frozen=True, slots=True)
class X86Native:
    """Addresses and offsets the instructions work on."""

    cpu: int
    env: int
    pc: int  # offsets in env
    hflags: int
    eflags: int
    do_interrupt: int
    counter: int  # data of the engine's InstructionCounter
    cpu_exit: int  # has the CPU leave its chain of blocks
    check_port: tuple[int, int, int]  # of 1, 2 and 4 bytes: take env and port, return or raise #GP
    scratch: int  # 8 bytes

    def save_pc(self) -> bytes:
        """For `uc_struct.stop_interrupt`, which is called before the pc is moved."""
        return _filled(SAVE_PC, self.env + self.pc, self.scratch)

    def enter_handler(self) -> bytes:
        """For the exception hook: puts the pc back, counts, and has QEMU's own code enter the guest's handler."""
        return _filled(
            ENTER_HANDLER, self.scratch, self.env + self.pc, self.counter, self.cpu, self.cpu_exit, self.do_interrupt
        )

    def checked_port(self, callback: int) -> bytes:
        """For a hook of IN or OUT: goes on to `callback` if privilege level or the TSS allow it, else raises #GP."""
        code = bytearray(_filled(CHECK_PORT, self.env, *self.check_port, callback))
        code[13:17] = self.hflags.to_bytes(4, "little")
        code[20:24] = self.eflags.to_bytes(4, "little")
        return bytes(code)


def _filled(code: bytes, *values: int) -> bytes:
    """`code` with `values` in its empty movabs instructions, in order."""
    filled, at = bytearray(code), 0
    for value in values:
        at = min(found for start in MOVABS if (found := code.find(start, at)) >= 0) + 2
        filled[at : at + 8] = value.to_bytes(8, "little")
    return bytes(filled)
