"""The power state coordination interface for the one CPU there is (ARM DEN 0022, PSCI 1.0), by HVC or SMC.

Absent, which asking for features tells: CPU_DEFAULT_SUSPEND, SYSTEM_SUSPEND and what manages a trusted OS. CPU_SUSPEND is a
standby that ends at once. PSCI knows no power-off that failed: FAILED_OFF, in the range of OEM services, is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from targets.arm.cpu import VirtCpu

SPEC_VERSION = 1 << 16  # 1.0
SMC64 = 1 << 30  # the call with 64-bit arguments (SMCCC table 2-1)
MASK64 = (1 << 64) - 1
MASK32 = (1 << 32) - 1


class Function(IntEnum):
    """Function ids (5.1), without the bit SMC64."""

    VERSION = 0x8400_0000
    CPU_SUSPEND = 0x8400_0001
    CPU_OFF = 0x8400_0002
    CPU_ON = 0x8400_0003
    AFFINITY_INFO = 0x8400_0004
    MIGRATE_INFO_TYPE = 0x8400_0006
    SYSTEM_OFF = 0x8400_0008
    SYSTEM_RESET = 0x8400_0009
    FEATURES = 0x8400_000A
    FAILED_OFF = 0x8300_0000


HAVE_64 = (Function.CPU_SUSPEND, Function.CPU_ON, Function.AFFINITY_INFO)


class Ret(IntEnum):
    """Return codes (5.2.2)."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    DENIED = -3
    ALREADY_ON = -4


NO_TRUSTED_OS = 2  # MIGRATE_INFO_TYPE
AFFINITY_ON = 0  # AFFINITY_INFO


class Psci:
    """Answers the calls. It remembers nothing."""

    def __init__(self, cpu: VirtCpu, *, power_off: Callable[[int], None], request_reset: Callable[[], None]) -> None:
        self._cpu = cpu
        self._power_off = power_off
        self._request_reset = request_reset
        self._calls: dict[Function, Callable[[], int]] = {
            Function.VERSION: lambda: SPEC_VERSION,
            Function.CPU_SUSPEND: lambda: Ret.SUCCESS,
            Function.CPU_OFF: lambda: Ret.DENIED,  # nothing could start the only CPU again
            Function.CPU_ON: lambda: Ret.ALREADY_ON if self._names_cpu() else Ret.INVALID_PARAMETERS,
            Function.AFFINITY_INFO: lambda: AFFINITY_ON if self._names_cpu() else Ret.INVALID_PARAMETERS,
            Function.MIGRATE_INFO_TYPE: lambda: NO_TRUSTED_OS,
            Function.SYSTEM_OFF: lambda: self._off(0),
            Function.SYSTEM_RESET: self._reset,
            Function.FEATURES: self._features,
            Function.FAILED_OFF: lambda: self._off(1),
        }

    def call(self) -> None:
        """Carry out the call whose arguments are in the registers; on the vCPU thread, inside the slice."""
        function = _function(self._cpu.read(0))
        result = Ret.NOT_SUPPORTED if function is None else self._calls[function]()
        self._cpu.write(0, result & MASK64)

    def _names_cpu(self) -> bool:
        """Whether the first argument is the affinity of CPU 0."""
        return not self._cpu.read(1) & MASK32

    def _off(self, code: int) -> int:
        self._power_off(code)
        return Ret.SUCCESS

    def _reset(self) -> int:
        self._request_reset()
        return Ret.SUCCESS

    def _features(self) -> int:
        return Ret.NOT_SUPPORTED if _function(self._cpu.read(1)) is None else Ret.SUCCESS


def _function(number: int) -> Function | None:
    number &= MASK32
    known = number in tuple(Function)
    if not known and number & SMC64:
        number &= ~SMC64
        known = number in HAVE_64
    return Function(number) if known else None
