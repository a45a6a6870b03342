"""All images of one machine, owned together or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from emu.block.image import Image
from emu.errors import ImageError


class ImageSet:
    """The images of a machine in one fixed order, so that two machines with the same images never each hold half of them.

    Safe to call from any thread.
    """

    def __init__(self, images: Iterable[Image]) -> None:
        self.images = tuple(sorted(images, key=_order))
        self._lock = threading.RLock()
        self._active = all(image.active for image in self.images)

    @property
    def active(self) -> bool:
        """True while this process owns all the images."""
        return self._active

    def activate(self, *, expect_unchanged: bool = False) -> None:
        """Own all images; on an error those taken are given back. Harmless when active.

        `expect_unchanged` refuses images that somebody wrote to since they were inactivated here.
        """
        with self._lock:
            taken: list[Image] = []
            try:
                for image in self.images:
                    if not image.active:
                        image.activate(expect_unchanged=expect_unchanged)
                        taken.append(image)
            except ImageError:
                for image in reversed(taken):
                    image.inactivate()
                raise
            self._active = True

    def flush(self) -> None:
        """Put on disk what was written."""
        for image in self.images:
            image.flush()

    def inactivate(self) -> None:
        """Let all images go; on an error those let go are taken back. Harmless when inactive."""
        with self._lock:
            self.flush()  # what can fail fails here, while all are still ours
            gone: list[Image] = []
            try:
                for image in self.images:
                    if image.active:
                        image.inactivate()
                        gone.append(image)
            except ImageError:
                for image in gone:
                    image.activate(expect_unchanged=True)
                raise
            self._active = False

    def close(self) -> None:
        """Let all images go for good, every one of them; then the first error, if any, is raised."""
        with self._lock:
            self._active = False
            errors: list[ImageError] = []
            for image in self.images:
                try:
                    image.close()
                except ImageError as exc:
                    errors.append(exc)
            if errors:
                raise errors[0]


def _order(image: Image) -> tuple[int, int, str]:
    try:
        status = os.stat(image.path)  # noqa: PTH116 - not a file to handle but an identity to compare
    except OSError:
        return (0, 0, image.path)
    return (status.st_dev, status.st_ino, image.path)
