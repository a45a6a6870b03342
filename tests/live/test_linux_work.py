"""Debian's kernels at work whose every answer is known: sums, floating point, processes, programs that write the code they run.

`pytest -m linux -rP tests/live/test_linux_work.py` prints what was measured.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from images.linux import Entry, LinuxImage, cpio, fetch
from tests.images.test_linux_image import read_cpio
from tests.live import test_linux
from tests.live.linux import LinuxGuest
from tests.live.programs import compile_program
from tests.live.test_linux import (
    LONG,
    SUMS,
    TIMEOUT,
    StartLinux,
    Task,
    begin_work,
    finish_work,
    md5sum,
    move_about,
    seq,
)

pytestmark = [pytest.mark.linux, pytest.mark.timeout(TIMEOUT)]
debian, start, ext4 = test_linux.image, test_linux.start, test_linux.ext4

NUMBERS = 30000  # in what is summed and packed
PROCESSES = 20
TERMS = 2000

# The ISAs that probe.c is compiled for that a guest can run, and the architecture whose busybox it runs besides its own.
PROBES = {
    "riscv64": ("riscv64",),
    "arm64": ("arm64", "armhf", "thumb"),
    "amd64": ("amd64", "i386"),
    "armhf": ("armhf", "thumb"),
    "i386": ("i386",),
}
OTHERS = {"amd64": "i386", "arm64": "armhf"}

CODE = {"jit": 3000, "self": 3000, "cached": 3000, "recycled": 1000, "forked": 50}  # rounds of the probe's modes
ADDITIONS = 1_000_000  # of each of two processes


def float_sum() -> str:
    """What awk prints in `work_of`: operations of IEEE 754, and digits that an x87's rounding cannot change."""
    total = 0.0
    for number in range(1, TERMS + 1):
        total += number * 1.7 / 3 - 1 / number
    return f"{total:.11e}"


def work_of(busybox: str) -> dict[str, Task]:
    """What the applets of the program `busybox` do."""
    seq_awk = f"""{busybox} seq 1 {TERMS} | {busybox} awk '{{ s += $1 * 1.7 / 3 - 1 / $1 }} END {{ printf "%.11e\\n", s }}'"""
    numbers = f"{busybox} seq 1 {NUMBERS}"
    return {
        "sha256": Task(f"{numbers} | {busybox} sha256sum", f"{hashlib.sha256(seq(1, NUMBERS).encode()).hexdigest()}  -"),
        "gzip": Task(f"{numbers} | {busybox} gzip | {busybox} gunzip | {busybox} md5sum", md5sum(seq(1, NUMBERS))),
        "float": Task(seq_awk, float_sum()),
        "forks": Task(
            f"for i in $(seq 1 {PROCESSES}); do {busybox} echo $i & done | {busybox} sort -n | {busybox} md5sum",
            md5sum(seq(1, PROCESSES)),
        ),
    }


def tasks_of(arch: str) -> dict[str, Task]:
    """What a guest of `arch` can do."""
    tasks = SUMS | work_of("/bin/busybox")
    if other := OTHERS.get(arch):
        tasks |= {f"{other}.{name}": task for name, task in work_of(f"/bin/busybox-{other}").items()}
    for name in PROBES[arch]:
        tasks[f"{name}.jit"] = Task(f"probe-{name} jit 200", "200")
        tasks[f"{name}.count"] = Task(f"probe-{name} count 50000", "100000")
    return tasks


@pytest.fixture
def image(debian: LinuxImage, tmp_path: Path) -> LinuxImage:
    """Debian's kernel, and our initramfs with more programs: the kernel unpacks one archive after the other."""
    program = stat.S_IFREG | 0o755
    entries = [Entry(f"bin/probe-{name}", program, compile_program("probe/probe.c", name)) for name in PROBES[debian.arch]]
    if other := OTHERS.get(debian.arch):
        busybox = read_cpio(fetch(other).initrd.read_bytes())["bin/busybox"].data
        entries.append(Entry(f"bin/busybox-{other}", program, busybox))
    initrd = tmp_path / "initrd.cpio"
    initrd.write_bytes(debian.initrd.read_bytes() + cpio(entries))
    return LinuxImage(debian.kernel, debian.packed, initrd, debian.release, debian.arch)


def assert_what_was_written_last_runs(guest: LinuxGuest, arch: str) -> None:
    """Each of the probe's modes alone, at its full speed; and nothing was added twice or lost at an interrupt."""
    for name in PROBES[arch]:
        answers = {mode: guest.run(f"probe-{name} {mode} {rounds}", LONG) for mode, rounds in CODE.items()}
        assert answers == {mode: str(rounds) for mode, rounds in CODE.items()}
        assert guest.run(f"probe-{name} count {ADDITIONS}", LONG) == str(2 * ADDITIONS)


def work_travels(start: StartLinux, disk: Path, folder: Path, arch: str, *, moves: int) -> None:
    """Put a guest to work, kill it, take it up from its snapshot and move it; then account for everything."""
    tasks = tasks_of(arch)
    options = ("--drive", f"{disk},savevm=copy")
    first = start("first", *options).boot()
    assert_what_was_written_last_runs(first, arch)
    begin_work(first, tasks)
    assert first.monitor("savevm work") == ""
    first.close()
    restored = start("again", *options, "--loadvm", "work")
    finish_work(move_about(start, restored, *options, moves=moves), disk, folder / "files", tasks)


def test_a_guest_at_work_is_restored_and_moves_four_times(
    start: StartLinux, ext4: Path, tmp_path: Path, image: LinuxImage
) -> None:
    work_travels(start, ext4, tmp_path, image.arch, moves=4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_guest_at_work_is_restored_and_moves_forty_times(
    start: StartLinux, ext4: Path, tmp_path: Path, image: LinuxImage
) -> None:
    work_travels(start, ext4, tmp_path, image.arch, moves=40)
