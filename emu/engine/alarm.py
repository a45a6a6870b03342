"""A timer of the kernel's that ends slices: no thread has to wake up for it, only the one that it interrupts.

timer_create(2) with SIGEV_THREAD_ID sends the thread a signal, whose handler is a few instructions in front of the library's
`cpu_exit`. Python never sees it. A stop that comes as a slice is just starting is lost inside Unicorn, so an alarm rings again
until it is cleared.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from functools import cache

from emu.engine.stubs import address_of, executable, jump_to
from emu.errors import EngineError

AGAIN = 1_000_000  # ns
SIGNAL = signal.SIGRTMIN
SIGEV_THREAD_ID = 4
SA_SIGINFO, SA_RESTART = 4, 0x10000000
CLOCK_MONOTONIC = 1
SECOND = 1_000_000_000

HANDLER = bytes.fromhex("488b7e18")  # mov rdi, [rsi + 24]            void handler(int, siginfo_t *, void *): si_value


class _Sigaction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("unused", ctypes.c_int * 11),
    )


_Itimerspec = ctypes.c_int64 * 4  # interval, then delay, in seconds and ns
NEVER = _Itimerspec()


@cache
def _libc() -> ctypes.PyDLL:
    """The C library, by calls so short that letting the GIL go would cost more; its signal handler put in place."""
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.timer_settime.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    libc.timer_delete.argtypes = [ctypes.c_void_p]
    handler = executable(HANDLER + jump_to(address_of("cpu_exit")))
    action = _Sigaction(handler=handler, flags=SA_SIGINFO | SA_RESTART)
    if libc.sigaction(int(SIGNAL), ctypes.byref(action), None):
        raise EngineError(f"this host takes no handler for {SIGNAL.name}: {os.strerror(ctypes.get_errno())}")
    return libc


class Alarm:
    """Ends slices of one CPU on the thread that makes it."""

    def __init__(self, cpu: int) -> None:
        """`cpu` is the address of the library's CPUState."""
        self._libc = _libc()
        self._timer = ctypes.c_void_p()
        event = _Sigevent(value=cpu, signal=int(SIGNAL), notify=SIGEV_THREAD_ID, thread=threading.get_native_id())
        if self._libc.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)):
            raise EngineError(f"this host gives no timer: {os.strerror(ctypes.get_errno())}")

    def set(self, delay: int) -> None:
        """Ring in `delay` ns, and then every AGAIN ns; in place of what was set before. Any thread."""
        seconds, ns = divmod(max(delay, 1), SECOND)  # a delay of 0 would be none at all
        self._libc.timer_settime(self._timer, 0, _Itimerspec(0, AGAIN, seconds, ns), None)

    def clear(self) -> None:
        """Ring no more; harmless when nothing is set."""
        self._libc.timer_settime(self._timer, 0, NEVER, None)

    def close(self) -> None:
        """Give the timer back; on the thread that made it, which must not run the CPU afterwards."""
        self._libc.timer_delete(self._timer)
