"""What POSIX says of files, in Linux on a share; where 9p is different, the list here says so, and docs/shares.md why."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from images.linux import LinuxImage
from tests.live import test_linux, test_share
from tests.live.machines import WAIT
from tests.live.programs import compile_program
from tests.live.test_linux import TIMEOUT, StartLinux
from tests.live.test_share import MOUNT

image, start, share = test_linux.image, test_linux.start, test_share.share

SUMMARY = re.compile(r"^(\d+) checks, (\d+) failed$", re.MULTILINE)
FAILED = re.compile(r"^FAILED (\S+) ", re.MULTILINE)
CHECKS = 351
ARCHITECTURES = ("riscv64", "arm64", "amd64")
LONG = 120  # seconds

# What Linux's 9p driver does otherwise, by the mount's cache.
WITHOUT_SHARED_MAPPINGS = {
    *("mmap.shared-reads", "mmap.end-is-zero", "mmap.shared-writes", "mmap.sees-writes", "mmap.outlives-content"),
    *("msync", "msync.content", "munmap"),
}
KNOWN: dict[str, set[str]] = {
    "none": {"utimensat.nanoseconds", "rename.replaced-links", "append.off-content", *WITHOUT_SHARED_MAPPINGS},
    "mmap": {"utimensat.nanoseconds", "rename.replaced-links"},
    "loose": {"utimensat.nanoseconds", "write.blocks"},
}


def failures(told: str) -> set[str]:
    """Names of the checks that failed, all of them made."""
    summary = SUMMARY.search(told)
    assert summary is not None, told
    found = set(FAILED.findall(told))
    assert [int(number) for number in summary.groups()] == [CHECKS, len(found)]
    return found


def program(arch: str, folder: Path) -> Path:
    """The program in a folder, to be run."""
    copy = folder / "posix"
    copy.write_bytes(compile_program("posix/posix.c", arch))
    copy.chmod(0o755)
    return copy


@pytest.mark.skipif(os.geteuid() != 0, reason="the program's checks want root")
def test_the_checks_hold_on_the_hosts_own_file_system(tmp_path: Path) -> None:
    command = [program("amd64", tmp_path), tmp_path / "dir"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert failures(done.stdout) == set(), done.stdout


@pytest.mark.linux
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("image", ARCHITECTURES, indirect=True)
def test_the_checks_hold_on_a_share(start: StartLinux, image: LinuxImage, share: Path) -> None:
    program(image.arch, share)
    guest = start("guest", "--share", str(share)).boot()
    found = {}
    for cache in KNOWN:
        guest.run(f"{MOUNT},cache={cache} host0 /mnt && cp /mnt/posix /tmp")
        told = guest.run(f"/tmp/posix /mnt/{cache}; umount /mnt", LONG)
        print(f"cache={cache}: {told}")
        found[cache] = failures(told)
    assert found == KNOWN
    assert guest.power_off() == 0
