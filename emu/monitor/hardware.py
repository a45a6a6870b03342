"""Commands that tell what the machine consists of."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Protocol, cast

from emu.config import DriveConfig
from emu.monitor.command import Context
from migration.vmstate import Wire

# QEMU's names of architectures (qapi/machine.json, SysEmuTarget) where a target here is called otherwise.
QEMU_ARCH = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "arm"}


class RegisterFile(Protocol):
    """A CPU that shows its registers."""

    def registers(self) -> Mapping[str, int]:
        """Name to value, in the order to show them; called on the vCPU thread."""


class MappedBoard(Protocol):
    """A board that shows its memory map."""

    regions: Sequence[tuple[int, int, str]]  # base, size in bytes, name


def _arch(ctx: Context) -> str:
    target = ctx.machine.config.target
    return QEMU_ARCH.get(target, target)


def query_target(ctx: Context) -> Wire:
    """The guest's architecture."""
    return {"arch": _arch(ctx)}


def query_cpus_fast(ctx: Context) -> Wire:
    """The CPUs, each with the host thread that runs it."""
    return [
        {
            "cpu-index": 0,
            "qom-path": "/machine/cpu[0]",
            "thread-id": ctx.machine.call(threading.get_native_id),
            "target": _arch(ctx),
            "props": {"core-id": 0},
        }
    ]


def registers(ctx: Context) -> Wire:
    """The CPU's registers, name to value."""
    cpu = cast(RegisterFile, ctx.machine.board.cpu)
    return {**ctx.machine.call(cpu.registers)}


def memory_tree(ctx: Context) -> Wire:
    """The guest-physical memory map, in order of address."""
    board = ctx.machine.board
    rams = {ram.name for ram in board.rams}
    return [
        {"base": base, "size": size, "name": name, "kind": "ram" if name in rams else "i/o"}
        for base, size, name in sorted(cast(MappedBoard, board).regions)
    ]


def device_tree(ctx: Context) -> Wire:
    """The names of CPU and devices, which are also the names of their sections in a stream."""
    board = ctx.machine.board
    return [device.name for device in (board.cpu, *board.devices)]


def configuration(ctx: Context) -> Wire:
    """Every field of the machine's MachineConfig as plain values, host paths absolute: enough to build it again elsewhere."""
    return _plain(ctx.machine.config)


def _plain(value: object) -> Wire:
    match value:
        case None | bool() | int() | str():
            return value
        case Path():
            return str(value.absolute())
        case tuple():
            return [_plain(item) for item in value]
        case DriveConfig():
            value = value.absolute()
    if not is_dataclass(value):
        raise TypeError(f"a machine's configuration holds a {type(value).__name__}, which has no form on the wire")
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
