"""Debian's kernel with ext4 on a qcow2 image over its base, under load and moved to and fro: every byte is verified."""

from __future__ import annotations

import hashlib
import random
from itertools import cycle
from pathlib import Path

import pytest

from emu.errors import EmuError
from images.linux import LinuxImage, fetch
from tests.emu.block.qcow2.tools import CLEAN, check, create, needs_qemu_img, qemu_img
from tests.live import test_linux
from tests.live.linux import SHELL, LinuxGuest, check_ext4, unpack_ext4
from tests.live.test_io_errors import limit_file_size
from tests.live.test_journeys import SEED
from tests.live.test_linux import DISK, LONG, TIMEOUT, StartLinux

ext4, start = test_linux.ext4, test_linux.start

pytestmark = [pytest.mark.linux, pytest.mark.timeout(TIMEOUT), needs_qemu_img]

JOBS = ("a", "b", "c")
KEPT = 6  # files of each job
# Each job writes files of random bytes, reads them back from the disk, and frees old ones; beside that it writes anywhere.
WORK = (
    "work() { n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); f=/mnt/$1.$n; "
    "dd if=/dev/urandom of=$f bs=16k count=$((1+n%40)) conv=fsync 2>/dev/null; s=$(md5sum <$f); "
    "dd if=/dev/urandom of=/mnt/$1.random bs=4k count=1 seek=$((RANDOM%1024)) conv=notrunc,fsync 2>/dev/null; "
    'echo 3 >/proc/sys/vm/drop_caches; [ "$(md5sum <$f)" = "$s" ] || echo $f >>/tmp/bad; '
    f'echo "$s $f" >>/tmp/sums; rm -f /mnt/$1.$((n-{KEPT})); echo $n >/tmp/$1.done; done; }}'
)


@pytest.fixture(scope="module")
def image() -> LinuxImage:
    """One architecture: what is looked at is the disk."""
    try:
        return fetch("amd64")
    except EmuError as exc:
        pytest.skip(f"Debian's kernel cannot be had: {exc}")


def begin_work(guest: LinuxGuest) -> None:
    guest.run("mount -t ext4 -o discard /dev/vda /mnt")
    guest.run(WORK)
    for job in JOBS:
        guest.run(f"echo 0 >/tmp/{job}.done; work {job} &")


def await_work(guest: LinuxGuest, files: int) -> None:
    """Wait until each job has written so many files more."""
    for job in JOBS:
        guest.run(f"n=$(cat /tmp/{job}.done); until [ $(cat /tmp/{job}.done) -ge $((n+{files})) ]; do sleep 0.05; done", LONG)


def finish_work(guest: LinuxGuest) -> dict[str, str]:
    """End the work and the guest; the sum of each file that was written, by its name."""
    guest.run("touch /tmp/stop; wait", LONG)
    assert guest.run("cat /tmp/bad 2>/dev/null || echo none").strip() == "none"
    guest.run("sync && echo 3 >/proc/sys/vm/drop_caches")
    lines = guest.run('cat /tmp/sums; for f in /mnt/*.random; do echo "$(md5sum <$f) $f"; done', LONG).splitlines()
    guest.run("umount /mnt")
    assert guest.power_off() == 0
    return {name.removeprefix("/mnt/"): md5 for md5, _dash, name in map(str.split, lines)}


def loaded_guest_travels(start: StartLinux, base: Path, folder: Path, *, moves: int) -> None:
    disk = create(folder / "disk.qcow2", DISK, "cluster_size=16k", backing=base, backing_format="raw")
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    here = start("m0", "--drive", str(disk)).boot()
    begin_work(here)
    for move, scheme in zip(range(1, moves + 1), cycle(("unix", "tcp"))):
        there = start(f"m{move}", "--drive", str(disk), "--incoming", "defer")
        await_work(here, chance.randrange(1, 3))
        answer = here.move(there, scheme)
        print(f"move {move:3} {scheme:4}: total {answer['total-time']} ms, downtime {answer['downtime']} ms")
        here.close()
        here = there
    await_work(here, 1)
    sums = finish_work(here)

    assert check(disk) == CLEAN
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, folder / "raw")
    check_ext4(folder / "raw")
    unpack_ext4(folder / "raw", folder / "files")
    files = {path.name: path for path in (folder / "files").iterdir() if path.is_file()}
    print(f"{len(sums)} files written, {len(files)} of them left")
    assert len(files) == len(JOBS) * (KEPT + 1)
    for name, path in files.items():
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == sums[name], name


def test_a_guest_under_load_moves_five_times_with_its_qcow2_disk(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    loaded_guest_travels(start, ext4, tmp_path, moves=5)


def test_a_guest_whose_disk_fails_notices_nothing_and_moves(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    disk = create(tmp_path / "disk.qcow2", DISK, backing=ext4, backing_format="raw")
    drive = ("--drive", f"{disk},werror=stop")
    here = start("here", *drive).boot()
    here.run("mount -t ext4 /dev/vda /mnt")
    limit_file_size(here, disk.stat().st_size + (4 << 20))
    here.console.send_line("dd if=/dev/urandom of=/mnt/big bs=64k count=256; sync; md5sum </mnt/big")
    here.wait_status("io-error")
    there = start("there", *drive, "--incoming", "defer")

    here.move(there, "unix")
    arrived = there.status
    there.qmp("cont")
    written = there.console.expect(r"([0-9a-f]{32}  -)\r?\n", LONG)[1]
    there.console.expect(SHELL, LONG)
    read_back = there.run("echo 3 >/proc/sys/vm/drop_caches; md5sum </mnt/big", LONG).strip()
    there.run("umount /mnt")

    assert arrived == "io-error"
    assert read_back == written
    assert there.power_off() == 0
    assert check(disk) == CLEAN
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, tmp_path / "raw")
    check_ext4(tmp_path / "raw")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_guest_under_load_moves_fifty_times_with_its_qcow2_disk(start: StartLinux, ext4: Path, tmp_path: Path) -> None:
    loaded_guest_travels(start, ext4, tmp_path, moves=50)
