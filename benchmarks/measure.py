"""The measurements: each takes an entrant and a guest, runs fresh processes, and returns one sample. Rules: __init__.py."""

from __future__ import annotations

import filecmp
import math
import os
import random
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self, TypeAlias

from benchmarks.contender import QEMU_DEFAULT_BANDWIDTH, UNLIMITED, Contender, Entrant, Guest, Migration
from benchmarks.serial import CHUNK, ConsoleError
from images.apt import LOCAL_SECONDS, run
from images.linux import Entry, cpio, fetch, make_ext4

REPEATS = 3
MIB = 1 << 20
PAGE = 4096
BOOT_SECONDS = 120
SETTLE_SECONDS = 2  # an idle guest is one whose boot work is over
DIRTY_MIB = 32
DIRTY_PASSES = 5
PASS_SECONDS = 10  # a pass takes QEMU 0.13 s, an answer less
DISK_MIB = 512
SNAPSHOT_DISK_MIB = 256
SAVES = 7
FILLED_MIB = 64  # as much as the root file system takes
SMALL_REQUESTS = (4096, 32)  # request size in bytes, MiB moved
LARGE_REQUESTS = (MIB, DISK_MIB)

# 4096 strings of 4 KiB, each replaced by another in every pass. awk makes the new one before it frees the old, so the strings
# wander through twice their size. In user mode: a loop of dd, which copies through the kernel, dirties memory some thirty times
# slower under QEMU 7.2 (8 MiB/s).
DIRTY_LOOP = f"""awk 'BEGIN {{
s = "emu "; while (length(s) < {PAGE}) s = s s
for (n = 1; ; n++) {{ for (i = 0; i < {DIRTY_MIB * MIB // PAGE // 2}; i++) a[i] = s n; print "pass " n; fflush() }}
}}' &"""

TALK = """awk 'BEGIN { for (n = 1; ; n++) { print "tick " n; fflush() } }' &"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a sample."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run told. Its first figure decides which sample is the median; `checks` say whether the guest came through.

    QEMU 7.2 moves no riscv64 timer deadline: its guest gets no timer interrupt until something else makes it set a new one, and
    its shell may then not answer.
    """

    figures: tuple[Figure, ...]
    checks: tuple[tuple[str, bool], ...] = ()


Measure: TypeAlias = Callable[[Entrant, Guest], Sample]
Results: TypeAlias = dict[str, dict[str, list[Sample]]]  # title -> entrant's name -> samples, sorted by their first figure


@contextmanager
def contender(entrant: Entrant, guest: Guest) -> Iterator[Contender]:
    """A contender not yet started, with a directory that goes with it."""
    with (
        tempfile.TemporaryDirectory(prefix="emu-bench-") as directory,
        closing(entrant.make(guest, Path(directory))) as machine,
    ):
        yield machine


@contextmanager
def running(entrant: Entrant, guest: Guest) -> Iterator[Contender]:
    """A contender whose guest has booted and settled."""
    with contender(entrant, guest) as machine:
        machine.start()
        machine.console.expect("^BOOT-OK", BOOT_SECONDS)
        machine.console.run("dmesg -n 1")
        time.sleep(SETTLE_SECONDS)
        yield machine


@contextmanager
def _destination(entrant: Entrant, guest: Guest) -> Iterator[Contender]:
    with contender(entrant, guest) as machine:
        machine.start(incoming=True)
        yield machine


def boot(entrant: Entrant, guest: Guest) -> Sample:
    """Seconds from starting the process to /init's `BOOT-OK` on the console."""
    with contender(entrant, guest) as machine:
        begin = time.monotonic()
        machine.start()
        machine.console.expect("^BOOT-OK", BOOT_SECONDS)
        seconds = time.monotonic() - begin
        machine.console.run("true")
        return Sample((Figure("start to shell", seconds, "s"),))


def idle_migration(entrant: Entrant, guest: Guest, *, bandwidth: int) -> Sample:
    """Migrate an idle guest to a second process."""
    with running(entrant, guest) as source, _destination(entrant, guest) as destination:
        migration = source.migrate(destination.incoming_uri, bandwidth=bandwidth)
        return Sample(_figures(migration), (_shell_answers(destination),))


def disk_migration(entrant: Entrant, guest: Guest) -> Sample:
    """Migrate an idle guest with a disk that is not shared and full (`migrate -b`)."""
    with tempfile.TemporaryDirectory(prefix="emu-bench-") as directory:
        here, there = Path(directory, "here.img"), Path(directory, "there.img")
        with here.open("wb") as file:
            file.write(random.Random(0).randbytes(MIB) * DISK_MIB)
            os.fsync(file.fileno())  # as that of a guest that has been there for a while
        with there.open("wb") as file:
            file.truncate(DISK_MIB * MIB)
        with (
            running(entrant, replace(guest, disk=here)) as source,
            _destination(entrant, replace(guest, disk=there)) as destination,
        ):
            migration = source.migrate(destination.incoming_uri, bandwidth=UNLIMITED, disk=True)
            checks = (_shell_answers(destination), ("disks are equal", filecmp.cmp(here, there, shallow=False)))
            return Sample(_figures(migration)[:2], checks)


def busy_migration(entrant: Entrant, guest: Guest, *, bandwidth: int) -> Sample:
    """Migrate a guest that rewrites 32 MiB in a loop, which needs its heap whole to go on at the destination."""
    with running(entrant, guest) as source, _destination(entrant, guest) as destination:
        source.console.run(DIRTY_LOOP)
        rate = _dirty_rate(source)
        migration = source.migrate(destination.incoming_uri, bandwidth=bandwidth)
        figures = (*_figures(migration), Figure("dirtied before it", rate, "MiB/s"))
        return Sample(figures, (("loop goes on", _goes_on(destination)), _shell_answers(destination)))


def talking_migration(entrant: Entrant, guest: Guest, *, bandwidth: int) -> Sample:
    """Migrate a guest that prints without pause: how long neither console says anything is the downtime as a user sees it."""
    with running(entrant, guest) as source, _destination(entrant, guest) as destination:
        source.console.send_line(TALK)
        source.console.expect("^tick 100\r?\n", PASS_SECONDS)
        with Ear(source.console.connection) as there, Ear(destination.console.connection) as here:
            source.migrate(destination.incoming_uri, bandwidth=bandwidth)
            goes_on = here.heard.wait(PASS_SECONDS)
        silence = here.first - there.last if goes_on else math.inf
        return Sample((Figure("silence", silence * 1e3, "ms"),), (("guest goes on", goes_on),))


class Ear:
    """Notes when a console says something, in seconds of the monotonic clock, while its context is open."""

    def __init__(self, connection: socket.socket) -> None:
        self.heard = threading.Event()
        self.first = self.last = 0.0
        self._connection = connection
        self._over, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.close()
        self._thread.join()
        self._over.close()

    def _listen(self) -> None:
        while self._over not in (ready := select.select([self._connection, self._over], [], [])[0]):
            if ready and not self._connection.recv(CHUNK):
                return
            self.last = time.monotonic()
            if not self.heard.is_set():
                self.first = self.last
                self.heard.set()


def snapshot(entrant: Entrant, guest: Guest) -> Sample:
    """Save an idle guest with a mounted disk, and load it again; seconds on the host's clock."""
    return _snapshot(entrant, guest, entrant.snapshot_format, fill_mib=0, saves=1)


def snapshot_inside(entrant: Entrant, guest: Guest) -> Sample:
    """The same inside a qcow2 disk, with RAM that nobody can compress or leave out; medians of several saves of each guest."""
    return _snapshot(entrant, guest, "qcow2", fill_mib=FILLED_MIB, saves=SAVES)


def _snapshot(entrant: Entrant, guest: Guest, disk_format: str, *, fill_mib: int, saves: int) -> Sample:
    with tempfile.TemporaryDirectory(prefix="emu-bench-") as directory:
        disk = Path(directory, "disk")
        _make_disk(disk, disk_format)
        with running(entrant, replace(guest, disk=disk, disk_format=disk_format, snapshots=True)) as machine:
            if fill_mib:
                _dd(machine, f"if=/dev/urandom of=/filled bs=1M count={fill_mib}")
            machine.console.run("mount -t ext4 /dev/vda /mnt && echo before > /mnt/proof")
            pauses: list[float] = []
            seconds = [_seconds(lambda: pauses.append(machine.savevm("bench"))) for _ in range(saves)]
            machine.console.run("echo after > /mnt/proof")
            load = _seconds(lambda: machine.loadvm("bench"))
            came_back = _answers(machine, "cat /mnt/proof", "before")
            figures = (("savevm", statistics.median(seconds)), ("pause in it", statistics.median(pauses)), ("loadvm", load))
            checks = (("guest is as it was saved", came_back),)
            return Sample(tuple(Figure(name, value * 1e3, "ms") for name, value in figures), checks)


def throughput(entrant: Entrant, guest: Guest, *, requests: tuple[int, int], disk_format: str = "raw") -> Sample:
    """Write, then read a disk from its start on with requests of one size (bytes, MiB moved), as the guest's `dd` sees it."""
    size, mib = requests
    blocks = f"bs={size} count={mib * MIB // size}"
    return _throughput(
        replace(guest, disk_format=disk_format),
        entrant,
        mib,
        write=f"dd if=/dev/zero of=/dev/vda {blocks} oflag=direct 2>/dev/null",
        read=f"dd if=/dev/vda of=/dev/null {blocks} iflag=direct 2>/dev/null",
    )


def random_throughput(entrant: Entrant, guest: Guest, *, disk_format: str = "raw") -> Sample:
    """Write, then read 4 KiB at a time at random places of a disk, one request after the other (random_io.c)."""
    size, mib = SMALL_REQUESTS
    count = mib * MIB // size
    with tempfile.TemporaryDirectory(prefix="emu-bench-") as directory:
        initrd = Path(directory, "initrd")
        initrd.write_bytes(guest.initrd.read_bytes() + cpio([Entry("bin/random-io", 0o100755, _random_io(Path(directory)))]))
        return _throughput(
            replace(guest, disk_format=disk_format, initrd=initrd),
            entrant,
            mib,
            write=f"random-io w /dev/vda {DISK_MIB} {count}",
            read=f"random-io r /dev/vda {DISK_MIB} {count}",
        )


def _random_io(directory: Path) -> bytes:
    """The program, made with Debian's cross compiler."""
    program, source = directory / "random-io", Path(__file__).with_name("random_io.c")
    flags = (
        "-Os",
        "-march=rv64ima_zifencei",
        "-mabi=lp64",
        "-ffreestanding",
        "-static",
        "-no-pie",
        "-nostdlib",
        "-Wl,--no-relax",
    )
    run(["riscv64-linux-gnu-gcc", *flags, str(source), "-o", str(program)], LOCAL_SECONDS)
    return program.read_bytes()


def _throughput(guest: Guest, entrant: Entrant, mib: int, *, write: str, read: str) -> Sample:
    """10^6 bytes a second of two commands, O_DIRECT in the guest, the disk's file allocated and in the host's page cache."""
    with tempfile.TemporaryDirectory(prefix="emu-bench-") as directory:
        disk = Path(directory, "disk")
        run(["qemu-img", "create", "-q", "-f", guest.disk_format, str(disk), f"{DISK_MIB}M"], LOCAL_SECONDS)
        with running(entrant, replace(guest, disk=disk)) as machine:
            _dd(machine, f"if=/dev/zero of=/dev/vda bs=1M count={DISK_MIB} oflag=direct")  # allocate
            seconds = {
                name: _seconds(partial(machine.console.run, command, BOOT_SECONDS))
                for name, command in (("write", write), ("read", read))
            }
            return Sample(tuple(Figure(name, mib * MIB / taken / 1e6, "MB/s") for name, taken in seconds.items()))


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement and what the table calls it."""

    title: str
    measure: Measure


MEASUREMENTS: dict[str, Measurement] = {
    "boot": Measurement("boot", boot),
    "idle": Measurement("migrate idle guest, unlimited", partial(idle_migration, bandwidth=UNLIMITED)),
    "idle-128": Measurement("migrate idle guest, 128 MiB/s", partial(idle_migration, bandwidth=QEMU_DEFAULT_BANDWIDTH)),
    "disk": Measurement(f"migrate idle guest with a disk of {DISK_MIB} MiB that is not shared", disk_migration),
    "busy": Measurement(f"migrate guest dirtying {DIRTY_MIB} MiB, unlimited", partial(busy_migration, bandwidth=UNLIMITED)),
    "busy-128": Measurement(
        f"migrate guest dirtying {DIRTY_MIB} MiB, 128 MiB/s", partial(busy_migration, bandwidth=QEMU_DEFAULT_BANDWIDTH)
    ),
    "talking": Measurement("migrate guest that prints, unlimited", partial(talking_migration, bandwidth=UNLIMITED)),
    "snapshot": Measurement("snapshot", snapshot),
    "snapshot-inside": Measurement(f"snapshot inside qcow2, {FILLED_MIB} MiB of RAM filled", snapshot_inside),
    "disk-4k": Measurement("virtio-blk, 4 KiB", partial(throughput, requests=SMALL_REQUESTS)),
    "disk-1m": Measurement("virtio-blk, 1 MiB", partial(throughput, requests=LARGE_REQUESTS)),
    "disk-1m-qcow2": Measurement("virtio-blk, 1 MiB, qcow2", partial(throughput, requests=LARGE_REQUESTS, disk_format="qcow2")),
    "disk-random": Measurement("virtio-blk, 4 KiB at random", random_throughput),
    "disk-random-qcow2": Measurement("virtio-blk, 4 KiB at random, qcow2", partial(random_throughput, disk_format="qcow2")),
}


def measure_all(entrants: Sequence[Entrant], names: Sequence[str], repeats: int = REPEATS) -> Results:
    """Take the named measurements; the entrants take turns, so that whatever else the host does meets them all alike."""
    image = fetch("riscv64", progress=_say)
    guest = Guest(kernel=image.kernel, initrd=image.initrd)
    results: Results = {}
    for name in names:
        measurement = MEASUREMENTS[name]
        samples: dict[str, list[Sample]] = {entrant.name: [] for entrant in entrants}
        for number in range(repeats):
            for entrant in entrants:
                _say(f"{measurement.title}: {entrant.name}, {number + 1}/{repeats}")
                samples[entrant.name].append(measurement.measure(entrant, guest))
        results[measurement.title] = {
            entrant: sorted(taken, key=lambda sample: sample.figures[0].value) for entrant, taken in samples.items()
        }
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _figures(migration: Migration) -> tuple[Figure, ...]:
    return (
        Figure("total", migration.total_ms, "ms"),
        Figure("downtime", migration.downtime_ms, "ms"),
        Figure("sent", migration.transferred / MIB, "MiB"),
    )


def _dirty_rate(machine: Contender) -> float:
    first = _next_pass(machine)
    seconds = _seconds(lambda: [_next_pass(machine) for _ in range(DIRTY_PASSES)])
    return (_next_pass(machine) - first - 1) * DIRTY_MIB / 2 / seconds


def _next_pass(machine: Contender) -> int:
    return int(machine.console.expect(r"^pass (\d+)\r?\n", PASS_SECONDS)[1])


def _goes_on(machine: Contender) -> bool:
    try:
        return _dirty_rate(machine) > 0
    except ConsoleError:
        return False


def _shell_answers(machine: Contender) -> tuple[str, bool]:
    return "shell answers", _answers(machine, "echo sh''ell", "shell")


def _answers(machine: Contender, command: str, answer: str) -> bool:
    machine.console.send_line(command)
    try:
        machine.console.expect(rf"^{answer}\r?\n", PASS_SECONDS)
    except ConsoleError:
        return False
    return True


def _dd(machine: Contender, operands: str) -> None:
    machine.console.run(f"dd {operands} 2>/dev/null", BOOT_SECONDS)


def _seconds(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def _make_disk(path: Path, disk_format: str) -> None:
    raw = path.with_suffix(".raw")
    make_ext4(raw, SNAPSHOT_DISK_MIB * MIB)
    if disk_format == "raw":
        raw.rename(path)
    else:
        run(["qemu-img", "convert", "-O", disk_format, str(raw), str(path)], LOCAL_SECONDS)
