"""A machine whose guest does its worst, in a process that is to survive it.

    python -m tests.live.worst TARGET code|registers|devices SECONDS SEED [--only ROUND]

Every round starts from a reset and has random numbers of its own, so that one can be repeated alone. In a round of

- code        memory, all of it or a few bytes of the tiny guest, is random, and so is often where the CPU begins
- registers   the CPU is given a random state of those that a stream may hold, with the tiny guest or anything as its memory
- devices     every register that the CPU can reach is read and written with random values while the tiny guest runs

Afterwards the guest is paused, its state saved, checked and loaded again. Whatever Python raises but an EngineError, which is a
CPU that cannot go on, ends the process with status 1 and a traceback; a vCPU thread that does not answer ends it too.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import targets.base
from emu.config import DriveConfig, MachineConfig
from emu.engine.core import Engine
from emu.errors import EngineError, StateError
from emu.machine import Machine
from images import BUNDLED
from migration.sections import Section, dump_sections, plan_load
from migration.vmstate import Wire, dump, parse
from targets import find_target
from tests.devices.fakes import MemoryChardev

MEMORY = 16 << 20  # bytes
DISK = 1 << 20  # bytes
HANG = 60  # seconds for one round; only a hang takes so long
BOOT = 0.5  # seconds at most until the shell is there; a guest that is late is tormented while it starts
BUNCH = 50  # accesses between two looks of the CPU at its interrupts
PORTS = 0x10000
USED_MAX = 4096  # offsets kept of a door
BLOCK = 1 << 18  # bytes of random memory, repeated
CODE = 1 << 16  # bytes; as much as the tiny guest's code and vectors take
GROWTH = 192 << 20  # bytes that the process may grow by once every part of it has been used

Read = Callable[[int, int, int, int], int]
Write = Callable[[int, int, int, int, int], None]


class Door:
    """One range of registers as the CPU reaches it."""

    def __init__(self, size: int, read: Read, write: Write) -> None:
        self.size = size
        self.read = read
        self.write = write
        self.used: list[int] = []  # offsets that were touched so far, by the guest's own drivers first
        self._known: set[int] = set()

    def note(self, offset: int) -> None:
        """Somebody passes."""
        if offset not in self._known and len(self._known) < USED_MAX:
            self._known.add(offset)
            self.used.append(offset)


class WatchedEngine(Engine):
    """An engine that keeps the doors it gives the CPU."""

    def __init__(self, isa: str) -> None:
        self.doors: list[Door] = []
        self._size = PORTS
        super().__init__(isa)

    def map_mmio(self, base: int, size: int, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        """Note the size."""
        self._size = size
        super().map_mmio(base, size, read, write)
        self._size = PORTS

    def accessors(self, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> tuple[Read, Write]:
        """Note who passes."""

        def on_read(offset: int, size: int) -> int:
            door.note(offset)
            return read(offset, size)

        def on_write(offset: int, size: int, value: int) -> None:
            door.note(offset)
            write(offset, size, value)

        door = Door(self._size, *super().accessors(on_read, on_write))
        self.doors.append(door)
        return door.read, door.write


class Torment:
    """One machine, and what is done to it."""

    def __init__(self, target: str, folder: Path) -> None:
        disk = folder / "disk"
        disk.write_bytes(bytes(DISK))
        kernel = folder / "kernel"
        kernel.write_bytes(BUNDLED[f"{target}-tiny"].read())
        self.console = MemoryChardev()
        config = MachineConfig(
            target=target, memory=MEMORY, kernel=kernel, drives=(DriveConfig(path=str(disk), id="drive0", format="raw"),)
        )
        self.machine = Machine(config, find_target(target), self.console)
        engine = self.machine.board.engine
        assert isinstance(engine, WatchedEngine)
        self.doors = engine.doors
        self.ends: Counter[str] = Counter()
        self.refused = 0

    def round(self, kind: str, chance: random.Random) -> None:
        """One round of `kind`."""
        self.machine.reset()
        self.console.output = b""
        {"code": self._code, "registers": self._registers, "devices": self._devices}[kind](chance)
        self.machine.stop()
        self.ends[str(self.machine.state)] += 1
        self.machine.call(self._save_and_load)

    def _run(self, seconds: float) -> None:
        self.machine.cont()
        give_up = time.monotonic() + seconds
        while self.machine.running and time.monotonic() < give_up:
            time.sleep(0.001)

    # What is random

    def _code(self, chance: random.Random) -> None:
        if chance.random() < 0.3:
            self._run(chance.random() * 0.05)
            self.machine.stop()
        self.machine.call(lambda: self._spoil(chance))
        if chance.random() < 0.7:
            self.machine.call(lambda: self._jump(chance))
        self.machine.call(lambda: self.console.feed(b"mem churn 1 1 1\n"))
        self._run(0.02)

    def _spoil(self, chance: random.Random) -> None:
        for ram in self.machine.board.rams:
            if chance.random() < 0.5:
                block = chance.randbytes(BLOCK)
                ram.view[:] = block * (ram.size // BLOCK) + block[: ram.size % BLOCK]
                continue
            at = (self.machine.board.engine.pc - ram.base) % (ram.size - CODE) & -CODE
            for start, size in ((at, CODE), (0, CODE if chance.random() < 0.5 else ram.size)):
                for _ in range(chance.randrange(1, 400)):
                    ram.view[start + chance.randrange(size)] = chance.randrange(256)
        self.machine.loaded()

    def _jump(self, chance: random.Random) -> None:
        ram = chance.choice(self.machine.board.rams)
        engine = self.machine.board.engine
        wide = 64 if "64" in engine.isa or engine.isa == "s390x" else 32
        where = chance.choice((ram.base + chance.randrange(ram.size), chance.getrandbits(wide), chance.getrandbits(12)))
        engine.pc = where & ~chance.choice((0, 1, 3, 3, 3)) & (1 << wide) - 1

    def _registers(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            self._run(chance.random() * 0.05)
            self.machine.stop()
        if chance.random() < 0.5:
            self.machine.call(lambda: self._spoil(chance))
        self.machine.call(lambda: self._randomize(chance))
        self._run(0.02)

    def _randomize(self, chance: random.Random) -> None:
        cpu = self.machine.board.cpu
        cls = cpu.STATE
        assert cls is not None
        before = cast("dict[str, Wire]", dump(cpu.save()))
        share = chance.choice((0.02, 0.1, 0.5, 1.0))
        for _attempt in range(50):
            wire = _changed(before, chance, share)
            try:
                state = parse(cls, cls.VMSTATE.version, wire)
            except StateError:
                self.refused += 1
                share *= 0.8
                continue
            cpu.load(state)  # type: ignore[arg-type]  # it is the class that this CPU declares
            self._load(self._save())  # the interrupt lines are the controllers' to say
            return

    def _devices(self, chance: random.Random) -> None:
        self.machine.cont()
        give_up = time.monotonic() + BOOT
        while b"tiny> " not in self.console.output and self.machine.running and time.monotonic() < give_up:
            time.sleep(0.001)
        work = chance.choice((b"tick 1000\n", b"blk journal 100\n", b"mem churn 1 100 1\n", b"rand\n", b""))
        self.machine.call(lambda: self.console.feed(work))
        door = chance.choice(self.doors) if chance.random() < 0.5 else None
        for _ in range(chance.randrange(1, 40)):
            if not self.machine.running:
                break
            self.machine.call(lambda: self._touch(chance, door))
            if chance.random() < 0.1:
                time.sleep(0.001)

    def _touch(self, chance: random.Random, door: Door | None) -> None:
        if chance.random() < 0.2:
            self.console.feed(chance.randbytes(chance.randrange(1, 64)))
        for _ in range(BUNCH):
            at = door or chance.choice(self.doors)
            size = chance.choice((1, 2, 4, 4, 4))
            offset = chance.choice(at.used) if at.used and chance.random() < 0.8 else chance.randrange(at.size)
            if chance.random() < 0.3:
                offset = min(offset & ~0xFF | chance.randrange(0x100), at.size - 4)
            offset &= ~(size - 1)
            if chance.random() < 0.3:
                at.read(0, offset, size, 0)
            else:
                at.write(0, offset, size, self._value(chance) & (1 << 8 * size) - 1, 0)

    def _value(self, chance: random.Random) -> int:
        ram = chance.choice(self.machine.board.rams)
        value = chance.choice(
            (
                0,
                1,
                chance.randrange(16),
                chance.randrange(256),
                1 << chance.randrange(32),
                (1 << chance.randrange(33)) - 1,
                chance.getrandbits(32),
                ram.base + chance.randrange(ram.size) & ~0xFFF,
                ram.base + ram.size - chance.randrange(64),
            )
        )
        if self.machine.board.big_endian and chance.random() < 0.5:
            value = int.from_bytes((value & 0xFFFF_FFFF).to_bytes(4, "little"), "big")
        return value

    # What must hold afterwards

    def _save(self) -> list[Section]:
        return [Section.from_wire(section.to_wire()) for section in dump_sections(self.machine.savables())]

    def _load(self, sections: list[Section]) -> None:
        plan_load(self.machine.savables(), sections).commit()
        self.machine.loaded()

    def _save_and_load(self) -> None:
        """A state that a guest can bring about is one that a stream may hold."""
        self.machine.board.drain()
        before = self._save()
        self._load(before)
        for one, other in zip(before, self._save(), strict=True):
            if one.fields != other.fields:
                raise AssertionError(f"section {one.name} is not as it was saved: {_difference(one.fields, other.fields)}")


def _difference(one: Wire, other: Wire) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        return "; ".join(f"{key}: {_difference(one[key], other.get(key))}" for key in one if one[key] != other.get(key))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return "; ".join(f"[{at}] {_difference(a, b)}" for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    return f"{one!r:.60} -> {other!r:.60}"


def _changed(wire: Wire, chance: random.Random, share: float) -> Wire:
    """`wire` with a share of its numbers random."""
    if isinstance(wire, dict):
        return {key: _changed(value, chance, share) for key, value in wire.items()}
    if isinstance(wire, list):
        return [_changed(value, chance, share) for value in wire]
    if isinstance(wire, bool):
        return chance.random() < 0.5 if chance.random() < share else wire
    if isinstance(wire, int) and chance.random() < share:
        return chance.choice(
            (0, 1, wire ^ 1 << chance.randrange(64), chance.getrandbits(32), chance.getrandbits(64), chance.randrange(1 << 16))
        )
    return wire


class Failures(logging.Handler):
    """Keeps what stopped a guest, unless it was the CPU."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        self.reasons: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """One log record."""
        exc = record.exc_info[1] if record.exc_info else None
        if isinstance(exc, EngineError):
            self.reasons[str(exc).split(":")[-1].strip()[:60]] += 1
        elif exc is not None:
            self.texts.append("".join(traceback.format_exception(exc)))

    def threads(self, told: threading.ExceptHookArgs) -> None:
        """threading.excepthook."""
        self.texts.append("".join(traceback.format_exception(told.exc_value)))


def resident() -> int:
    """Bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> int:
    """Torment a machine for a while; 0 when it has survived."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("kind", choices=("code", "registers", "devices"))
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed")
    parser.add_argument("--only", type=int)
    given = parser.parse_args()
    failures = Failures()
    logging.basicConfig(handlers=[failures])
    threading.excepthook = failures.threads
    sys.unraisablehook = lambda told: failures.texts.append(repr(told.exc_value))
    targets.base.Engine = WatchedEngine  # type: ignore[misc]  # the boards' way to their engine
    done, sizes = 0, [0]
    with TemporaryDirectory() as folder:
        torment = Torment(given.target, Path(folder))
        began = time.monotonic()
        while time.monotonic() - began < given.seconds and (given.only is None or not done):
            number = given.only if given.only is not None else done
            print(f"round {number}", flush=True)
            faulthandler.dump_traceback_later(HANG, exit=True)
            with contextlib.suppress(EngineError):  # told, and counted
                try:
                    torment.round(given.kind, random.Random(f"{given.seed} {given.target} {given.kind} {number}"))
                except EngineError:
                    raise
                except Exception:
                    failures.texts.append(traceback.format_exc())
            faulthandler.cancel_dump_traceback_later()
            if failures.texts:
                print(failures.texts[0])
                return 1
            done += 1
            sizes.append(resident())
        middle = max(sizes[: len(sizes) // 2 + 1])
        if sizes[-1] > middle + GROWTH:
            print(f"the process has grown from {middle >> 20} to {sizes[-1] >> 20} MiB")
            return 1
        torment.machine.close()
    summary = {"rounds": done, "ends": torment.ends, "refused": torment.refused, "reasons": failures.reasons}
    print(json.dumps(summary | {"mib": sizes[-1] >> 20}))
    return 0


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
