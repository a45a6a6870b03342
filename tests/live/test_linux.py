"""Debian's kernels, unmodified, with their own drivers: they boot, work on their disks, and do not notice being moved,
saved or restored. `pytest -m linux -rP tests/live/test_linux.py` prints what was measured."""

from __future__ import annotations

import hashlib
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from benchmarks.contender import cpu_seconds
from benchmarks.emu import GUESTS
from emu.errors import EmuError
from images.linux import LinuxImage, fetch, make_ext4
from migration.protocols import Step
from tests.emu.block.qcow2.tools import CLEAN, check, needs_qemu_img, qemu_img
from tests.live.linux import GuestClock, HostMemory, LinuxGuest, check_ext4, unpack_ext4
from tests.live.machines import WAIT, wait_for
from tests.live.test_journeys import SEED

TIMEOUT = 600  # seconds; a first run fetches the kernel as well
pytestmark = [pytest.mark.linux, pytest.mark.timeout(TIMEOUT)]

RAM = 256 << 20
DISK = 256 << 20
FIRMWARE = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")  # Debian: opensbi

CLOCK_BOUND = 0.050  # seconds that a guest's clock may be off after a move, its downtime aside
PROBES = 8  # of the guest's clock before and after each move
LONG = 120  # seconds for a round of all tasks at once
IDLE_SECONDS = 5
IDLE_SHARE = 0.08  # of one core
OVERHEAD = 120 << 20  # bytes beside the RAM that the guest touched
RELOADS = 20  # of every module: their code comes to lie where other code ran before

# By its path, or the shell runs it within itself, where it writes line by line as to a terminal.
SEQ = "/bin/seq"
ROUND = f"{{ cat /tmp/numbers; {SEQ} 1 20000; }} | md5sum"  # memory as it was before the first move, and a computation
WRITER = (
    "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); /bin/seq $i $((i+500)) >/mnt/$i; echo $i >>/mnt/journal; sync; "
    "echo $i >/tmp/synced; done"
)


def seq(first: int, last: int) -> str:
    """What seq(1) prints."""
    return "".join(f"{number}\n" for number in range(first, last + 1))


def md5sum(content: bytes | str) -> str:
    """What md5sum(1) prints."""
    data = content.encode() if isinstance(content, str) else content
    return f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  -"


NUMBERS = seq(1, 200000)


@dataclass(frozen=True, slots=True)
class Task:
    """A shell command that prints the same every time."""

    command: str
    answer: str


SUMS = {"md5": Task(ROUND, md5sum(NUMBERS + seq(1, 20000)))}

StartLinux = Callable[..., LinuxGuest]


@pytest.fixture(scope="session", params=GUESTS)
def image(request: pytest.FixtureRequest) -> LinuxImage:
    """Debian's kernel and our initramfs."""
    try:
        return fetch(str(request.param))
    except EmuError as exc:
        pytest.skip(f"Debian's kernel cannot be had: {exc}")


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    """A raw disk with an empty ext4 file system."""
    path = tmp_path / "disk.img"
    try:
        make_ext4(path, DISK)
    except EmuError as exc:
        pytest.skip(str(exc))
    return path


@pytest.fixture
def start(image: LinuxImage, tmp_path: Path) -> Iterator[StartLinux]:
    """Starts machines with Debian's kernel: start(name, *options, fault=None)."""
    machines: list[LinuxGuest] = []
    base = ("--memory", f"{RAM >> 20}M", "--snapshots", str(tmp_path / "snapshots"))

    def begin(name: str, *options: str, fault: tuple[Step, str] | None = None) -> LinuxGuest:
        machines.append(LinuxGuest(tmp_path, name, image, *base, *options, fault=fault))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


def test_the_guests_own_drivers_mount_and_write_ext4(start: StartLinux, ext4: Path) -> None:
    guest = start("guest", "--drive", str(ext4)).boot()
    guest.run(f"mount -t ext4 /dev/vda /mnt && {SEQ} 1 200000 >/mnt/numbers && sync")
    guest.run("mount -o remount,ro /mnt && echo 3 >/proc/sys/vm/drop_caches")

    assert guest.run("md5sum </mnt/numbers") == md5sum(NUMBERS)

    guest.run("mount -o remount,rw /mnt && rm /mnt/numbers && mkdir /mnt/folder && umount /mnt")
    assert guest.power_off() == 0
    check_ext4(ext4)


def guest_travels(start: StartLinux, disk: Path, folder: Path, *options: str, moves: int) -> None:
    """Move a guest `moves` times while it computes and writes; then account for everything."""
    options = ("--drive", str(disk), *options)
    guest = start("m0", *options).boot()
    begin_work(guest)
    finish_work(move_about(start, guest, *options, moves=moves), disk, folder / "files")


def move_about(start: StartLinux, here: LinuxGuest, *options: str, moves: int) -> LinuxGuest:
    """Move a guest that was started with `options`, over unix and tcp in turn; where it is in the end. Its clock is watched."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    clock = GuestClock(here)
    downtimes, drifts = [], []
    for move, scheme in zip(range(1, moves + 1), cycle(("unix", "tcp"))):
        there = start(f"m{move}", *options, "--incoming", "defer")
        before = clock.offset(here, PROBES + chance.randrange(20))
        answer = here.move(there, scheme)
        after = clock.offset(there, PROBES)
        here.close()
        here = there
        downtime, lost = float(str(answer["downtime"])) / 1000, before.middle - after.middle
        print(
            f"move {move:3} {scheme:4}: total {answer['total-time']} ms, downtime {downtime * 1000:.0f} ms, "
            f"clock stood still {lost * 1000:.0f} ms"
        )
        downtimes.append(downtime)
        drifts.append(lost - downtime)
        assert -CLOCK_BOUND <= lost <= downtime + CLOCK_BOUND  # the downtime counts until the source has heard the answer
    clock.stop(here)
    print(f"downtime median {statistics.median(downtimes) * 1000:.0f} ms, longest {max(downtimes) * 1000:.0f} ms")
    print(f"clock off by {min(drifts) * 1000:.0f}..{max(drifts) * 1000:.0f} ms from that")
    return here


def begin_work(guest: LinuxGuest, tasks: Mapping[str, Task] = SUMS) -> None:
    """Have the guest do all tasks at once, again and again, and write until /tmp/stop is there; returns when it does all."""
    guest.run("mount -t ext4 /dev/vda /mnt")
    guest.run(f"{SEQ} 1 200000 >/tmp/numbers")
    for name, task in tasks.items():
        guest.run(f"(while [ ! -e /tmp/stop ]; do {task.command}; done) >/tmp/{name}.sums 2>&1 &")
    guest.run(f"({WRITER}) &")
    begun = " && ".join(f"[ -s /tmp/{name} ]" for name in ("synced", *(f"{name}.sums" for name in tasks)))
    guest.run(f"until {begun}; do sleep 0.1; done", LONG)


def finish_work(guest: LinuxGuest, disk: Path, folder: Path, tasks: Mapping[str, Task] = SUMS) -> None:
    """End the work, account for all of it, and switch the guest off. The disk's files are left in `folder`."""
    assert_everything_synced_is_there(disk, folder, end_work(guest, tasks))


def end_work(guest: LinuxGuest, tasks: Mapping[str, Task] = SUMS) -> int:
    """End the work, look at its sums, and switch the guest off; how many files the writer had on its disk."""
    guest.run("touch /tmp/stop; wait", LONG)
    for name, task in tasks.items():
        rounds, answer = guest.run(f"sort /tmp/{name}.sums | uniq -c").split(maxsplit=1)  # two answers would not be equal
        print(f"{name}: {rounds} sums, all {answer}")
        assert answer == task.answer
    synced = int(guest.run("cat /tmp/synced"))
    guest.run("umount /mnt")
    assert guest.power_off() == 0
    return synced


def assert_everything_synced_is_there(disk: Path, folder: Path, synced: int) -> None:
    """The writer's files 1..`synced` and its journal, as read on the host from a file system without a fault."""
    print(f"{synced} files synced")
    assert synced > 0
    check_ext4(disk)
    unpack_ext4(disk, folder)
    assert (folder / "journal").read_text() == seq(1, synced)
    written = [(folder / str(number)).read_text() for number in range(1, synced + 1)]
    assert written == [seq(number, number + 500) for number in range(1, synced + 1)]


def test_a_busy_guest_moves_twenty_times(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    guest_travels(start, ext4, tmp_path, moves=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_busy_guest_moves_two_hundred_times(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    guest_travels(start, ext4, tmp_path, moves=200)


COUNTING = "n=0; while :; do n=$((n+1)); echo count $n; sleep 0.05; done"


def counted(*transcripts: str) -> list[int]:
    """The numbers of COUNTING on one console after the other, as if they were one."""
    return [int(number) for number in re.findall(r"^count (\d+)\r", "".join(transcripts), re.MULTILINE)]


def test_a_moving_guest_prints_everything_once(start: StartLinux) -> None:
    here = start("m0").boot()
    here.console.send_line(COUNTING)
    transcripts = []
    for move, scheme in zip(range(1, 5), cycle(("unix", "tcp"))):
        there = start(f"m{move}", "--incoming", "defer")
        here.console.expect(r"count \d*0\r", WAIT)
        here.move(there, scheme)
        here.qmp("quit")
        transcripts.append(here.console.read_to_end())
        here = there
    here.console.expect(r"count \d*0\r", WAIT)
    here.interrupt()
    transcripts.append(here.console.transcript)

    numbers = counted(*transcripts)
    assert numbers == list(range(1, len(numbers) + 1))
    assert here.power_off() == 0


def test_a_killed_guest_goes_on_from_its_snapshot_as_often_as_wanted(start: StartLinux, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    content = random.Random(SEED).randbytes(8 << 20)
    disk.write_bytes(content)
    drive = ("--drive", f"{disk},readonly")
    first = start("first", *drive).boot()
    first.console.send_line(COUNTING)
    first.console.expect(r"count 20\r", WAIT)
    first.qmp("stop")
    assert first.monitor("savevm middle") == ""
    first.process.kill()
    printed = first.console.read_to_end()

    for again in ("second", "third"):
        guest = start(again, *drive, "--loadvm", "middle")
        guest.console.expect(rf"count {len(counted(printed)) + 20}\r", WAIT)
        guest.interrupt()
        numbers = counted(printed, guest.console.transcript)
        assert numbers == list(range(1, len(numbers) + 1))
        assert guest.run("md5sum </dev/vda") == md5sum(content)
        assert guest.power_off() == 0


def test_a_writable_disk_goes_back_with_its_guest(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    drive = ("--drive", f"{ext4},savevm=copy")
    first = start("first", *drive).boot()
    begin_work(first)
    assert first.monitor("savevm middle") == ""
    first.run("sleep 1")  # in which the writer goes on: the disk is then newer than the memory that comes back
    first.close()

    for again in ("second", "third"):
        guest = start(again, *drive, "--loadvm", "middle")
        guest.run("sleep 1")
        finish_work(guest, ext4, tmp_path / f"{again}.files")


@needs_qemu_img
def test_a_disk_that_has_its_snapshots_inside_goes_back_with_its_guest(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", ext4, disk)
    drive = ("--drive", str(disk))
    first = start("first", *drive).boot()
    begin_work(first)
    for tag in ("early", "middle", "middle"):
        assert first.monitor(f"savevm {tag}") == ""  # while the writer goes on
        first.run("sleep 1")
    assert first.monitor("delvm early") == ""
    first.close()

    for again in ("second", "third"):
        guest = start(again, *drive, "--loadvm", "middle")
        guest.run("sleep 1")
        synced = end_work(guest)
        assert check(disk) == CLEAN
        qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, ext4)
        assert_everything_synced_is_there(ext4, tmp_path / f"{again}.files", synced)


def test_loadvm_takes_a_running_guest_back(start: StartLinux) -> None:
    guest = start("guest").boot()
    guest.run("echo before >/tmp/note")
    assert guest.monitor("savevm before") == ""
    guest.run(f"echo after >/tmp/note; {SEQ} 1 100000 >/tmp/more")

    assert guest.monitor("loadvm before") == ""

    assert guest.run("cat /tmp/note; ls /tmp") == "before\nnote"
    assert guest.power_off() == 0


riscv64 = pytest.mark.parametrize("image", ["riscv64"], indirect=True)


@riscv64
@needs_qemu_img
def test_a_disk_that_is_not_shared_moves_along_while_the_guest_writes(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    disks = tmp_path / "here.qcow2", tmp_path / "there.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", ext4, disks[0])
    qemu_img("create", "-q", "-f", "qcow2", disks[1], DISK)
    here = start("m0", "--drive", str(disks[0])).boot()
    begin_work(here)
    for move in range(1, 6):
        there = start(f"m{move}", "--drive", str(disks[move % 2]), "--incoming", f"unix:{tmp_path}/{move}.in")
        wait_for((tmp_path / f"{move}.in").exists, "the destination listens")
        here.qmp("migrate", uri=f"unix:{tmp_path}/{move}.in", blk=True)
        answer = here.wait_migration()
        assert answer["status"] == "completed", answer
        print(f"move {move}: total {answer['total-time']} ms, downtime {answer['downtime']} ms, {answer['disk']}")
        here.close()
        here = there
    synced = end_work(here)

    assert check(disks[1]) == CLEAN
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disks[1], ext4)
    assert_everything_synced_is_there(ext4, tmp_path / "files", synced)


@pytest.fixture(params=["fw_dynamic.bin", "fw_jump.bin", "fw_dynamic.elf"])
def opensbi(request: pytest.FixtureRequest, image: LinuxImage) -> Path:
    """Debian's firmware."""
    if image.arch != "riscv64":
        pytest.skip(f"OpenSBI is not for {image.arch}")
    path = FIRMWARE / str(request.param)
    if not path.exists():
        pytest.skip(f"{path} is not there (Debian: opensbi)")
    return path


@riscv64
def test_a_busy_guest_under_opensbi_moves(opensbi: Path, start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    guest_travels(start, ext4, tmp_path, "--bios", str(opensbi), moves=6)


@riscv64
def test_opensbi_starts_and_serves_the_kernel(opensbi: Path, start: StartLinux) -> None:
    guest = start("guest", "--bios", str(opensbi)).boot()

    assert "OpenSBI v" in guest.console.transcript
    assert "SBI implementation ID=0x1 " in guest.run("dmesg")
    assert guest.power_off() == 0


def test_an_idle_guest_costs_little(start: StartLinux) -> None:
    guest = start("guest").boot()
    guest.run("sleep 1")  # the kernel's own work after a boot
    used, began = cpu_seconds(guest.process.pid), time.monotonic()
    guest.run(f"sleep {IDLE_SECONDS}")
    share = (cpu_seconds(guest.process.pid) - used) / (time.monotonic() - began)
    memory = HostMemory.of(guest.process.pid, RAM)
    print(f"idle: {share:.1%} of a core; {memory.guest >> 20} MiB touched by the guest, {memory.rest >> 20} MiB beside")

    assert share < IDLE_SHARE
    assert memory.rest <= OVERHEAD


@pytest.mark.parametrize("image", ["amd64"], indirect=True)
def test_a_kernel_as_debian_ships_it_unpacks_itself(start: StartLinux, image: LinuxImage) -> None:
    guest = start("guest", "--kernel", str(image.packed)).boot()

    assert guest.power_off() == 0


def test_modules_can_be_loaded_again_and_again(start: StartLinux, ext4: Path) -> None:
    guest = start("guest", "--drive", str(ext4)).boot()
    guest.run("tac /etc/modules >/tmp/unload")
    for number in range(1, RELOADS + 1):
        guest.run("(while read -r m; do rmmod $m || exit 1; done </tmp/unload)")
        guest.run("(while read -r m; do insmod /lib/modules/$m.ko || exit 1; done </etc/modules)")
        guest.run(f"mount -t ext4 /dev/vda /mnt && echo {number} >>/mnt/rounds && umount /mnt")

    guest.run("mount -t ext4 /dev/vda /mnt")
    assert guest.run("cat /mnt/rounds").split() == seq(1, RELOADS).split()
    guest.run("umount /mnt")
    assert guest.power_off() == 0
    check_ext4(ext4)
