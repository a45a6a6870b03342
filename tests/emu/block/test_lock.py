"""Locks between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.block.image import open_image
from emu.errors import ImageError, ImageErrorKind

HOLDER = """
import sys
from emu.block.image import open_image
image = open_image(sys.argv[1], "raw", read_only=sys.argv[2] == "ro", active=True)
print("held", flush=True)
sys.stdin.read()
"""

Hold = Callable[[Path, str], "subprocess.Popen[str]"]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start a process that opens an image `rw` or `ro` and keeps it until its input ends."""
    processes: list[subprocess.Popen[str]] = []

    def start(path: Path, mode: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(path), mode]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return path


def test_image_in_use_is_refused_naming_the_holder(path: Path, hold: Hold) -> None:
    other = hold(path, "rw")

    with pytest.raises(ImageError) as caught:
        open_image(str(path), "raw", read_only=False, active=True)

    assert caught.value.kind is ImageErrorKind.LOCKED
    assert str(caught.value).startswith(f"{path}: is in use by process {other.pid} (python")


def test_lock_goes_with_a_killed_process(path: Path, hold: Hold) -> None:
    other = hold(path, "rw")
    other.kill()
    other.wait()

    image = open_image(str(path), "raw", read_only=False, active=True)

    assert image.active


@pytest.mark.parametrize(("held", "wanted"), [("rw", "rw"), ("rw", "ro"), ("ro", "rw")])
def test_a_writer_shares_with_nobody(path: Path, hold: Hold, held: str, wanted: str) -> None:
    hold(path, held)

    with pytest.raises(ImageError) as caught:
        open_image(str(path), "raw", read_only=wanted == "ro", active=True)

    assert caught.value.kind is ImageErrorKind.LOCKED


def test_readers_share(path: Path, hold: Hold) -> None:
    hold(path, "ro")

    image = open_image(str(path), "raw", read_only=True, active=True)

    assert image.active


def test_failed_attempt_leaves_the_holder_its_lock(path: Path, hold: Hold) -> None:
    hold(path, "ro")
    for _ in range(2):
        with pytest.raises(ImageError):
            open_image(str(path), "raw", read_only=False, active=True)

    image = open_image(str(path), "raw", read_only=True, active=True)

    assert image.active


def test_inactive_image_holds_no_lock(path: Path, hold: Hold) -> None:
    image = open_image(str(path), "raw", read_only=False, active=True)
    image.inactivate()

    other = hold(path, "rw")

    assert other.poll() is None
    with pytest.raises(ImageError):
        image.activate()


def test_symbolic_link_is_the_same_image(path: Path, hold: Hold) -> None:
    link = path.with_name("link.img")
    link.symlink_to(path)
    hold(path, "rw")

    with pytest.raises(ImageError) as caught:
        open_image(str(link), "raw", read_only=False, active=True)

    assert caught.value.kind is ImageErrorKind.LOCKED


def test_second_open_in_one_process_is_refused(path: Path) -> None:
    first = open_image(str(path), "raw", read_only=False, active=True)

    with pytest.raises(ImageError, match="is in use by this process"):
        open_image(str(path), "raw", read_only=False, active=True)

    assert first.active


def test_closing_another_descriptor_of_the_file_drops_nothing(path: Path, hold: Hold) -> None:
    image = open_image(str(path), "raw", read_only=False, active=True)
    os.close(os.open(path, os.O_RDWR))  # would drop a POSIX lock

    with pytest.raises(AssertionError):
        hold(path, "rw")

    assert image.active


@pytest.mark.skipif(not Path("/usr/bin/qemu-io").exists(), reason="qemu-io is not installed")
@pytest.mark.parametrize(("ours", "option"), [("rw", "-f"), ("rw", "-rf"), ("ro", "-f")])
def test_qemu_refuses_an_image_we_hold(path: Path, ours: str, option: str) -> None:
    image = open_image(str(path), "raw", read_only=ours == "ro", active=True)

    qemu = subprocess.run(["qemu-io", option, "raw", "-c", "read 0 512", str(path)], capture_output=True, text=True)

    assert "lock" in qemu.stderr
    assert qemu.returncode != 0
    image.close()


@pytest.mark.skipif(not Path("/usr/bin/qemu-io").exists(), reason="qemu-io is not installed")
@pytest.mark.parametrize("wanted", ["rw", "ro"])
def test_image_qemu_writes_to_is_refused(path: Path, wanted: str) -> None:
    command = ["qemu-io", "-f", "raw", str(path)]
    qemu = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert qemu.stdin is not None
    assert qemu.stdout is not None
    qemu.stdin.write("read 0 512\n")
    qemu.stdin.flush()
    qemu.stdout.readline()

    with pytest.raises(ImageError, match=rf"is in use by process {qemu.pid} \(qemu-io\)"):
        open_image(str(path), "raw", read_only=wanted == "ro", active=True)

    qemu.communicate("quit\n")


@pytest.mark.skipif(not Path("/usr/bin/qemu-io").exists(), reason="qemu-io is not installed")
def test_readers_share_with_qemu(path: Path) -> None:
    image = open_image(str(path), "raw", read_only=True, active=True)

    qemu = subprocess.run(["qemu-io", "-rf", "raw", "-c", "read 0 512", str(path)], capture_output=True, text=True)

    assert qemu.returncode == 0
    image.close()
