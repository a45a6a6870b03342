"""Which format an image has: as it is told, else by its first bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.block.image import Image, open_image
from emu.errors import ConfigError, ImageErrorKind
from tests.emu.block.qcow2.tools import needs_qemu_img, refused

pytestmark = needs_qemu_img


def test_the_format_is_told_by_the_magic(path: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(4096))

    images = [open_image(str(one), "", read_only=False, active=True) for one in (path, raw)]

    assert [image.format for image in images] == ["qcow2", "raw"]


def test_a_format_that_is_given_wins(path: Path) -> None:
    image: Image = open_image(str(path), "raw", read_only=False, active=True)

    image.writev(0, [b"QFI\xfb"])

    assert (image.format, image.size) == ("raw", path.stat().st_size)


@pytest.mark.parametrize(("offset", "data"), [(0, [b"QFI\xfb" + bytes(508)]), (0, [b"QF", b"", b"I\xfb"]), (1, [b"FI\xfb"])])
def test_a_guest_cannot_turn_a_guessed_raw_disk_into_another_format(offset: int, data: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"Q" + bytes(4095))
    image = open_image(str(path), "", read_only=False, active=True)

    with refused(ImageErrorKind.READ_ONLY, "refuses to be made look like qcow2: give the drive format=raw"):
        image.writev(offset, data)
    image.writev(512, [b"QFI\xfb"])
    image.writev(0, [b"fine"])

    assert path.read_bytes()[:4] == b"fine"


def test_an_unknown_format_lists_the_known_ones(path: Path) -> None:
    with pytest.raises(ConfigError, match="'vmdk' is unknown, known are raw, qcow2"):
        open_image(str(path), "vmdk", read_only=False, active=True)
