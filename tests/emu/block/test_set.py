"""All images of a machine are owned together or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from emu.block.image import Image, open_image
from emu.block.set import ImageSet
from emu.errors import ImageError, ImageErrorKind


def broken_image(image: Image, call: str) -> Image:
    return cast(Image, BrokenImage(image, call))


class BrokenImage:
    """An image whose letting go, or taking, fails."""

    def __init__(self, image: Image, broken: str) -> None:
        self._image = image
        self._broken = broken

    def __getattr__(self, name: str) -> object:
        if name == self._broken:
            raise ImageError(ImageErrorKind.IO, self._image.path, f"cannot {name}")
        return getattr(self._image, name)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("c.img", "a.img", "b.img")]
    for path in paths:
        path.write_bytes(bytes(512))
    return paths


def opened(paths: list[Path], *, active: bool = True) -> list[Image]:
    return [open_image(str(path), "raw", read_only=False, active=active) for path in paths]


def test_order_does_not_depend_on_the_order_given(paths: list[Path]) -> None:
    images = opened(paths, active=False)

    forth = ImageSet(images)
    back = ImageSet(reversed(images))

    assert forth.images == back.images


def test_set_moves_from_one_owner_to_the_other(paths: list[Path]) -> None:
    source = ImageSet(opened(paths))
    destination = ImageSet(opened(paths, active=False))

    source.inactivate()
    destination.activate()

    assert not source.active
    assert destination.active
    assert all(image.active for image in destination.images)


def test_activation_that_fails_half_way_gives_back_what_it_took(paths: list[Path]) -> None:
    images = ImageSet(opened(paths, active=False))
    rival = open_image(images.images[-1].path, "raw", read_only=False, active=True)

    with pytest.raises(ImageError) as caught:
        images.activate()

    assert caught.value.kind is ImageErrorKind.LOCKED
    assert not images.active
    rival.close()
    other = ImageSet(opened(paths))
    assert other.active


@pytest.mark.parametrize("broken", ["flush", "inactivate"])
def test_inactivation_that_fails_half_way_takes_back_what_it_let_go(paths: list[Path], broken: str) -> None:
    images = opened(paths)
    last = ImageSet(images).images[-1]
    mixed = ImageSet([broken_image(image, broken) if image is last else image for image in images])

    with pytest.raises(ImageError):
        mixed.inactivate()

    assert mixed.active
    assert all(image.active for image in images)


def test_stale_image_refuses_the_whole_set(paths: list[Path]) -> None:
    source = ImageSet(opened(paths))
    source.inactivate()
    destination = ImageSet(opened(paths))
    destination.images[1].writev(0, [b"x"])
    destination.close()

    with pytest.raises(ImageError) as caught:
        source.activate(expect_unchanged=True)

    assert caught.value.kind is ImageErrorKind.STALE
    assert caught.value.path == source.images[1].path
    assert not any(image.active for image in source.images)


def test_rollback_when_nobody_wrote_succeeds(paths: list[Path]) -> None:
    source = ImageSet(opened(paths))
    source.images[0].writev(0, [b"x"])
    source.inactivate()
    destination = ImageSet(opened(paths))
    destination.close()

    source.activate(expect_unchanged=True)

    assert source.active


def test_twice_is_harmless_and_close_lets_go(paths: list[Path]) -> None:
    images = ImageSet(opened(paths))
    images.activate()
    images.inactivate()
    images.inactivate()
    images.activate()
    images.close()
    images.close()

    assert not images.active
    assert ImageSet(opened(paths)).active


def test_close_closes_all_though_one_fails(paths: list[Path]) -> None:
    images = opened(paths)
    first = ImageSet(images).images[0]
    mixed = ImageSet([broken_image(image, "close") if image is first else image for image in images])

    with pytest.raises(ImageError):
        mixed.close()

    first.close()
    assert not any(image.active for image in images)


def test_machine_without_disks_is_active_or_not_as_any_other() -> None:
    images = ImageSet([])
    before = images.active
    images.inactivate()

    assert before
    assert not images.active
