"""A disk that moves with its guest: read block by block while the guest writes, written block by block on the other side."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

from emu.block.changes import Changes
from emu.block.image import Image
from emu.block.qcow2.image import Qcow2Image
from emu.block.raw import RawImage

PROBES = 256  # places of a backing file that are compared
PROBE_BYTES = 4096


class MovedDisk:
    """Either side's view of one image. Blocks are `block` bytes, the last one as much of that as the disk has."""

    def __init__(self, name: str, image: Image, block: int) -> None:
        """`name` is the drive's id."""
        self.name = name
        self.size = image.size
        self._image = image
        self._changes: Changes = image.changes
        self._block = block

    @property
    def place(self) -> str:
        """Where the image is, for the other side to see that it has another."""
        return self._image.place

    # Where it comes from

    def watch(self) -> None:
        """Begin to note changes."""
        self._changes.start(self.size, self._block)

    def changed(self) -> npt.NDArray[np.bool_]:
        """A flag for each block that changed since `watch` or the last question."""
        return self._changes.take()

    def unwatch(self) -> None:
        """Note no more changes; harmless when done."""
        self._changes.stop()

    def filled(self) -> npt.NDArray[np.bool_]:
        """A flag for each block that may hold something; all others read as zero."""
        return self._filled(self._image)

    def _filled(self, image: Image) -> npt.NDArray[np.bool_]:
        flags = self._flags(image.data_runs())
        if isinstance(image, Qcow2Image) and image.backing is not None:
            flags &= self._flags(image.own_runs()) | self._filled(image.backing)  # there are holes behind it, too
        return flags

    def own(self) -> npt.NDArray[np.bool_]:
        """A flag for each block that is not, or may not be, as the image behind has it."""
        behind = self._behind
        return self.filled() if behind is None else self._flags(behind.own_runs())

    def _flags(self, runs: Iterable[tuple[int, int]]) -> npt.NDArray[np.bool_]:
        flags = np.zeros(-(-self.size // self._block), np.bool_)
        for offset, length in runs:
            flags[offset // self._block : -(-(offset + length) // self._block)] = True
        return flags

    def read(self, first: int, data: memoryview) -> None:
        """Fill `data`, whole blocks from block `first` on; behind the end of the disk is zero."""
        offset = first * self._block
        there = min(len(data), self.size - offset)
        self._image.readv(offset, [data[:there]])
        data[there:] = bytes(len(data) - there)

    # Where it goes

    def write(self, first: int, data: memoryview) -> None:
        """Take whole blocks from block `first` on; what is behind the end of the disk is dropped."""
        offset = first * self._block
        self._image.writev(offset, [data[: self.size - offset]])

    def zero(self, first: int, count: int) -> None:
        """Make blocks read as zero, and give their space back."""
        offset = first * self._block
        self._image.write_zeroes(offset, min(count * self._block, self.size - offset), unmap=True)

    def make_empty(self) -> None:
        """Make everything as the image behind has it; for a disk that has one."""
        if self._behind is not None:
            self._behind.make_empty()

    def flush(self) -> None:
        """Return when all that was taken is on disk."""
        self._image.flush()

    # What is behind it on both sides

    @property
    def _behind(self) -> Qcow2Image | None:
        """The image, if there is one behind it."""
        return self._image if isinstance(self._image, Qcow2Image) and self._image.backing is not None else None

    def backing(self) -> str | None:
        """What to know the image behind by on the other side: a hash of its size and of PROBES places; None for none.

        It tells another image from a copy of the same one, whatever their names. It is no proof of every byte.
        """
        if self._behind is None or (image := self._behind.backing) is None:
            return None
        return _fingerprint(image)


def _fingerprint(image: RawImage | Qcow2Image) -> str:
    digest = xxhash.xxh3_128(f"{image.size}".encode())
    data = memoryview(bytearray(min(PROBE_BYTES, image.size)))
    places = np.linspace(0, image.size - len(data), PROBES).astype(np.int64)
    for offset in dict.fromkeys((places // PROBE_BYTES * PROBE_BYTES).tolist()):
        image.readv(offset, [data])
        digest.update(data)
    return digest.hexdigest()
