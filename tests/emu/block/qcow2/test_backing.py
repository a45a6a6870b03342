"""Images behind images: locked shared, never written to, and refused when they go on for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.block.image import open_image
from emu.block.lock import try_lock
from emu.block.set import ImageSet
from emu.errors import ImageError, ImageErrorKind
from tests.emu.block.qcow2.tools import CLEAN, MIB, check, create, needs_qemu_img, opened, qemu_img, refused, state

pytestmark = needs_qemu_img


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """top -> middle -> base."""
    base, middle, top = (tmp_path / f"{name}.qcow2" for name in ("base", "middle", "top"))
    create(base, MIB)
    create(middle, MIB, backing=base)
    create(top, MIB, backing=middle)
    return [top, middle, base]


def test_the_top_is_locked_alone_and_what_is_behind_is_shared(chain: list[Path], tmp_path: Path) -> None:
    top, middle, base = chain
    image = opened(top)
    sibling = opened(create(tmp_path / "sibling.qcow2", MIB, backing=middle))

    for path, read_only in ((top, True), (middle, False), (base, False)):
        with refused(ImageErrorKind.LOCKED, "is in use by this process"):
            opened(path, read_only=read_only)
    image.close()
    with refused(ImageErrorKind.LOCKED):
        opened(base)
    sibling.close()
    opened(base).close()


def test_a_backing_file_in_use_leaves_nothing_locked(chain: list[Path]) -> None:
    top, _middle, base = chain
    writer = opened(base)

    with refused(ImageErrorKind.LOCKED):
        opened(top)
    writer.close()

    opened(top).close()


def test_without_locking_nothing_of_the_chain_is_locked(chain: list[Path]) -> None:
    top = open_image(str(chain[0]), "", read_only=False, active=True, locking=False)

    for path in chain:
        opened(path).close()
    top.close()


def test_chains_are_locked_from_the_base_up_always_in_the_same_order(
    chain: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [opened(chain[0], active=False), opened(create(tmp_path / "other.qcow2", MIB), active=False)]
    orders = []
    for given in (images, images[::-1]):
        locked: list[str] = []

        def lock(fd: int, *, exclusive: bool, locked: list[str] = locked) -> bool:
            locked.append(Path(f"/proc/self/fd/{fd}").readlink().stem)
            return try_lock(fd, exclusive=exclusive)

        monkeypatch.setattr("emu.block.file.try_lock", lock)
        disks = ImageSet(given)
        disks.activate()
        disks.inactivate()
        orders.append(locked)

    assert orders[0] == orders[1]
    assert [name for name in orders[0] if name != "other"] == ["base", "middle", "top"]
    for image in images:
        image.close()


def test_writes_go_to_the_top_alone(chain: list[Path]) -> None:
    top, middle, base = chain
    before = state(middle), state(base)
    image = opened(top)
    image.writev(10, [b"top"])
    image.close()

    assert (state(middle), state(base)) == before
    assert [check(path) for path in chain] == [CLEAN] * 3


def set_backing(path: Path, name: str, format: str = "qcow2") -> Path:  # noqa: A002
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", format, "-b", name, path)
    return path


def test_a_loop_is_refused(chain: list[Path]) -> None:
    top, middle, base = chain
    set_backing(base, str(middle))

    with refused(ImageErrorKind.CORRUPT, "has itself behind it"):
        opened(top)


def test_a_chain_too_long_is_refused(tmp_path: Path) -> None:
    path = create(tmp_path / "0.qcow2", MIB)
    empty = path.read_bytes()
    for number in range(1, 66):
        link = tmp_path / f"{number}.qcow2"
        link.write_bytes(empty)
        path = set_backing(link, path.name)

    with refused(ImageErrorKind.CORRUPT, "has more than 64 images behind each other"):
        opened(path)


def test_a_missing_backing_file_is_named(path: Path, tmp_path: Path) -> None:
    set_backing(path, "gone.qcow2")

    with refused(ImageErrorKind.MISSING, rf"{tmp_path}/gone\.qcow2: does not exist"):
        opened(path)


def test_a_backing_file_that_is_no_file_is_refused(path: Path) -> None:
    set_backing(path, "nbd://localhost/x", "raw")

    with refused(ImageErrorKind.MISSING, "has the backing file 'nbd://localhost/x', only files"):
        opened(path)


def test_a_refused_image_leaves_no_descriptor(chain: list[Path]) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    set_backing(chain[2], str(chain[1]))

    for path in chain:
        with pytest.raises(ImageError):
            opened(path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
