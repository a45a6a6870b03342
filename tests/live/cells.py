"""What the handover matrix is made of: disks as a guest has them, and one guest on its way from a machine to another."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from emu.block.lock import holder, try_lock
from images.journal import JournalReport, read_journal
from migration.protocols import Step
from tests.emu.block.nbd.server import qemu_nbd
from tests.emu.block.qcow2.tools import check, create, qemu_img
from tests.live.conftest import DISK_SIZE
from tests.live.machines import PROMPT, WAIT, EmuProcess, Teller, wait_for
from tests.live.test_handover import MEMORY, RECORDS, stop_journal

NEAR = ("source", "a")  # machines on the side that the guest starts on
BEGUN = 3  # records that a guest is told are safe before it sets out


@dataclass(frozen=True, kw_only=True)
class Disks:
    """The disks of one guest. Both sides have the same, unless there are others for the far one."""

    options: tuple[str, ...]  # of `emu run`
    images: tuple[Path, ...] = ()  # files whose lock shows their owner
    journal: Path | None  # the file of the disk that the guest writes its journal to; None where it can write nothing
    guarded: bool = True  # a guest that has moved away is not resumed on what was written since
    far: Disks | None = None  # those over there, which get the content of these
    how: Mapping[str, bool] = field(default_factory=dict)  # arguments of `migrate`
    spoil: Callable[[], AbstractContextManager[None]] | None = None  # nobody can use the disks until it ends

    def read_journal(self) -> JournalReport:
        """What was flushed, whoever owns the disk; nobody writes to it meanwhile."""
        assert self.journal is not None
        if self.journal.suffix != ".qcow2":
            return read_journal(self.journal)
        copy, content = self.journal.with_stem("copy"), self.journal.with_suffix(".raw")
        shutil.copyfile(self.journal, copy)  # qemu-img opens nothing that is locked, not even with -U
        qemu_img("convert", "-f", "qcow2", "-O", "raw", copy, content)
        return read_journal(content)

    def assert_sound(self, *, leaks: bool) -> None:
        """Nobody has the images any more: nothing is wrong with them, but clusters may be lost by whoever was killed."""
        for image in self.images:
            if image.suffix == ".qcow2":
                found = check(image)
                assert (found.corruptions, found.errors) == (0, 0), found
                assert leaks or found.leaks == 0


def _drive(path: object, *options: str) -> tuple[str, str]:
    return "--drive", ",".join((str(path), *options))


def _raw(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(DISK_SIZE)
    return path


@contextmanager
def _garbled(image: Path) -> Iterator[None]:
    """Without its header, and then as it was to the nanosecond."""
    times = image.stat()
    with image.open("r+b") as file:
        header = file.read(512)
        file.seek(0)
        file.write(bytes(512))
        file.flush()
        yield
        file.seek(0)
        file.write(header)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextmanager
def raw(folder: Path) -> Iterator[Disks]:
    """One raw image."""
    disk = _raw(folder / "disk.img")
    yield Disks(options=_drive(disk, "format=raw"), images=(disk,), journal=disk)


@contextmanager
def qcow2(folder: Path) -> Iterator[Disks]:
    """One qcow2 image."""
    disk = create(folder / "disk.qcow2", DISK_SIZE)
    yield Disks(options=_drive(disk), images=(disk,), journal=disk, spoil=lambda: _garbled(disk))


@contextmanager
def over_a_base(folder: Path) -> Iterator[Disks]:
    """A qcow2 image with another behind it."""
    base = create(folder / "base.qcow2", DISK_SIZE)
    disk = create(folder / "disk.qcow2", DISK_SIZE, "cluster_size=4k", backing=base)
    yield Disks(options=_drive(disk), images=(disk, base), journal=disk, spoil=lambda: _garbled(base))


@contextmanager
def two(folder: Path) -> Iterator[Disks]:
    """A raw image and a qcow2 image."""
    first, second = _raw(folder / "disk.img"), create(folder / "second.qcow2", DISK_SIZE)
    options = (*_drive(first, "format=raw"), *_drive(second))
    yield Disks(options=options, images=(first, second), journal=first, spoil=lambda: _garbled(second))


@contextmanager
def read_only(folder: Path) -> Iterator[Disks]:
    """A disk that nobody writes to, and everybody may share."""
    disk = _raw(folder / "disk.img")
    yield Disks(options=_drive(disk, "format=raw", "readonly"), images=(disk,), journal=None, guarded=False)


@contextmanager
def nbd(folder: Path) -> Iterator[Disks]:
    """A raw disk at qemu-nbd, which is no help in keeping two owners apart."""
    disk = _raw(folder / "disk.img")
    with ExitStack() as server:
        uri = server.enter_context(qemu_nbd(disk, folder / "nbd"))

        @contextmanager
        def gone() -> Iterator[None]:
            server.close()
            yield
            server.enter_context(qemu_nbd(disk, folder / "nbd"))

        yield Disks(options=_drive(uri, "format=raw"), journal=disk, guarded=False, spoil=gone)


@contextmanager
def copied(folder: Path) -> Iterator[Disks]:
    """`migrate -b`: a raw image on each side."""
    here, there = _raw(folder / "here.img"), _raw(folder / "there.img")
    far = Disks(options=_drive(there, "format=raw"), images=(there,), journal=there)
    yield Disks(options=_drive(here, "format=raw"), images=(here,), journal=here, far=far, how={"blk": True})


@contextmanager
def copied_over_a_base(folder: Path) -> Iterator[Disks]:
    """`migrate -i`: a qcow2 image on each side, with the same base behind both."""
    base = create(folder / "base.qcow2", DISK_SIZE)
    here, there = (create(folder / f"{name}.qcow2", DISK_SIZE, backing=base) for name in ("here", "there"))
    far = Disks(options=_drive(there), images=(there,), journal=there)
    yield Disks(options=_drive(here), images=(here,), journal=here, far=far, how={"inc": True})


ROWS: dict[str, Callable[[Path], AbstractContextManager[Disks]]] = {
    "raw": raw,
    "qcow2": qcow2,
    "over a base": over_a_base,
    "two": two,
    "read-only": read_only,
    "NBD": nbd,
    "-b": copied,
    "-i": copied_over_a_base,
}


class Cell:
    """One guest, with something in its RAM and its journal under way, and a machine that it is to move to."""

    def __init__(self, folder: Path, disks: Disks, *, paused: bool) -> None:
        self.folder = folder
        self.disks = disks
        self.paused = paused
        self.far = Path()  # where the destination listens
        self.leaks = False  # somebody who owned the disks was killed
        self._machines = ExitStack()

    def close(self) -> None:
        """End the machines, and see what they leave behind."""
        self._machines.close()
        for disks in (self.disks, self.disks.far or self.disks):
            disks.assert_sound(leaks=self.leaks)

    def disks_of(self, name: str) -> Disks:
        """The disks that a machine of this name has."""
        return self.disks if name in NEAR or self.disks.far is None else self.disks.far

    def migrate(self, source: EmuProcess, place: object) -> None:
        """Begin to move the guest to whoever listens at `place`."""
        source.qmp("migrate", uri=f"unix:{place}", **self.disks.how)

    def _machine(self, name: str, *options: str, fault: tuple[Step, str] | None) -> EmuProcess:
        machine = EmuProcess(self.folder, name, "riscv64-tiny", "--memory", "16M", *options, fault=fault)
        self._machines.callback(machine.close)
        return machine

    def source(self, fault: tuple[Step, str] | None = None) -> EmuProcess:
        """The machine with the guest."""
        machine = self._machine("source", *self.disks.options, fault=fault)
        machine.console.expect(PROMPT, WAIT)
        machine.console.send_line(f"mem fill 7 {MEMORY}")
        machine.console.expect("mem filled", WAIT)
        if self.disks.journal is not None:
            machine.console.send_line(f"blk journal {RECORDS}")
            machine.console.expect(rf"journal {BEGUN}\r", WAIT)
        if self.paused:
            machine.qmp("stop")
        return machine

    def destination(self, fault: tuple[Step, str] | None = None, *, name: str = "destination") -> EmuProcess:
        """The machine that waits for it."""
        self.far = self.folder / f"{name}.in"
        machine = self._machine(name, *self.disks_of(name).options, "--incoming", f"unix:{self.far}", fault=fault)
        wait_for(lambda: self.far.exists() or machine.ended, "the destination listens")
        return machine

    def teller(self) -> Teller:
        """For one of the two to be stopped at a step."""
        return Teller(self.folder / "teller")

    @property
    def state(self) -> str:
        """The run state of the guest wherever it is well."""
        return "paused" if self.paused else "running"

    def assert_lives(self, machine: EmuProcess) -> None:
        """The guest is here alone, as it was, and so are its disks; it can go on and has lost nothing."""
        assert machine.status == self.state
        for image in self.disks_of(machine.name).images:
            with image.open("rb") as file:
                assert holder(file.fileno()).startswith(f"process {machine.process.pid} ")
        if self.paused:
            machine.qmp("cont")
        self.assert_whole(machine)

    def assert_whole(self, machine: EmuProcess) -> None:
        """The guest runs here, with its RAM and its journal as they should be, and can write on."""
        console = machine.console
        if self.disks.journal is None:
            console.send_line("blk read 0")
            console.expect(r"blk sector 0 crc32 \w+ head [0 ]+", WAIT)
        else:
            self.assert_journal_holds(stop_journal(console), machine.name)
        console.send_line(f"mem check 7 {MEMORY}")
        console.expect("mem ok", WAIT)
        if self.disks.journal is not None:
            disks = self.disks_of(machine.name)
            before = disks.read_journal().records
            console.send_line("blk journal 2")
            console.expect("journal done", WAIT)
            assert disks.read_journal().records == before + 2

    def assert_journal_holds(self, acknowledged: int, name: str) -> None:
        """All records that the guest was told are safe, once and in order, where the machine of this name has them."""
        report = self.disks_of(name).read_journal()
        assert report.intact, report
        assert report.records >= acknowledged

    def assert_nobody_owns(self) -> None:
        """The disks are free, and intact."""
        with _locked(self.disks), _locked(self.disks.far) if self.disks.far else contextlib.nullcontext():
            pass
        if self.disks.journal is not None:
            assert self.disks.read_journal().intact

    def locked(self) -> AbstractContextManager[None]:
        """Own what the destination wants to."""
        return _locked(self.disks.far or self.disks)


@contextmanager
def _locked(disks: Disks) -> Iterator[None]:
    """Own the images ourselves."""
    with ExitStack() as files:
        for image in disks.images:
            assert try_lock(files.enter_context(image.open("r+b")).fileno(), exclusive=True), f"{image} is not free"
        yield


@contextmanager
def cell(folder: Path, row: str, *, paused: bool) -> Iterator[Cell]:
    """A cell of the matrix. What went wrong in it goes before what is then found on its disks."""
    with ROWS[row](folder) as disks:
        found = Cell(folder, disks, paused=paused)
        try:
            yield found
        except BaseException:
            with contextlib.suppress(AssertionError):
                found.close()
            raise
        found.close()
