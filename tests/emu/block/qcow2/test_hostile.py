"""Images that are broken, by chance or on purpose: an ImageError of one line, soon, and without much memory."""

from __future__ import annotations

import os
import random
import re
import resource
import struct
from itertools import islice
from pathlib import Path

import pytest

from emu.block.image import Image
from emu.block.qcow2.image import Qcow2Image
from emu.block.qcow2.snapshottable import About
from emu.errors import ImageError, ImageErrorKind
from tests.emu.block.qcow2.tools import KIB, MIB, create, needs_qemu_img, opened, qemu_img

pytestmark = needs_qemu_img

SEED = int(os.environ.get("EMU_TEST_SEED", "20250101"))
MOST_MEMORY = 512 * MIB
INTERESTING = (
    0,
    1,
    7,
    8,
    0x1FF,
    0x200,
    0xFFF,
    0x1000,
    0x7FFFFFFF,
    0xFFFFFFFF,
    (1 << 56) - 1,
    1 << 62,
    (1 << 63) | 0x1000,
    (1 << 64) - 1,
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small images of all kinds."""
    folder = tmp_path_factory.mktemp("samples")
    images: list[bytes] = []
    for options in (
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=4k,compat=0.10",
        "cluster_size=64k,lazy_refcounts=on",
    ):
        path = create(folder / f"{len(images)}.qcow2", 256 * KIB, options)
        image = opened(path)
        image.writev(1000, [random.Random(1).randbytes(30000)])
        image.write_zeroes(8192, 8192, unmap=False)
        image.close()
        if "refcount_bits=1" not in options:
            qemu_img("snapshot", "-c", "one", path)
            image = opened(path)
            assert isinstance(image, Qcow2Image)
            make_snapshot(image)
            image.close()
        images.append(path.read_bytes())
    (folder / "raw").write_bytes(b"compressible" * 10000 + bytes(120000 % 512))
    qemu_img(
        "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k,compression_type=zstd", folder / "raw", folder / "c"
    )
    images.append((folder / "c").read_bytes())
    return images


def tables_of(image: bytes) -> list[int]:
    """Offsets of the header and of every cluster that may hold a table: what is worth breaking."""
    (bits,) = struct.unpack_from(">I", image, 20)
    return [0, 0, 0, *range(1 << bits, min(len(image), 12 << bits), 1 << bits)]


def mutated(image: bytes, chance: random.Random) -> bytes:
    raw = bytearray(image + bytes(-len(image) % 512))
    for _ in range(chance.choice((1, 1, 2, 5))):
        start = chance.choice(tables_of(image))
        at = start + chance.randrange(112 if start == 0 else 256)
        kind = chance.randrange(4)
        if kind == 0:
            raw[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            raw[at] = chance.randrange(256)
        elif kind == 2:
            struct.pack_into(">Q", raw, at // 8 * 8, chance.choice(INTERESTING))
        else:
            struct.pack_into(">I", raw, at // 4 * 4, chance.choice(INTERESTING) & 0xFFFFFFFF)
    if chance.random() < 0.1:
        del raw[chance.randrange(len(raw)) :]
    return bytes(raw)


def use(image: Image, chance: random.Random) -> None:
    """All that a guest can have done with a disk."""
    length = min(image.size, 64 * KIB)
    for offset in (0, chance.randrange(image.size - length + 1), image.size - length):
        image.readv(offset, [bytearray(length)])
        image.readv_cached(offset, [bytearray(length)])
    for _offset, _length in zip(range(1000), image.data_runs(), strict=False):
        pass
    offset = chance.randrange(image.size - length + 1)
    image.writev(offset, [b"x" * length])
    image.discard(0, length)
    image.write_zeroes(offset, length, unmap=False)
    image.flush()
    image.inactivate()
    image.activate()
    image.writev(0, [b"y" * length])


def use_snapshots(image: Image, chance: random.Random) -> None:
    """All that a monitor can have done with them, to some of the images."""
    if chance.random() < 0.7:
        return
    assert isinstance(image, Qcow2Image)
    for snapshot in image.snapshots():
        state = image.saved_state(snapshot)
        for position, length in islice(state.data_runs(0, state.size), 100):
            state.readv(position, [bytearray(min(length, 64 * KIB))])
    orders = [
        lambda: image.check_snapshot("new"),
        lambda: image.apply_snapshot("one"),
        lambda: image.delete_snapshot("one"),
        lambda: make_snapshot(image),
    ]
    chance.shuffle(orders)
    errors: list[ImageError] = []
    for order in orders:
        try:
            order()
        except ImageError as exc:
            errors.append(exc)
    if errors:
        raise errors[-1]


def make_snapshot(image: Qcow2Image) -> None:
    image.freeze()
    try:
        image.writev(0, [b"z" * 512])
        image.put_state(0, b"s" * image.cluster_size)
        image.keep("new", About(time_ns=0, disk_size=image.size, state_size=image.cluster_size))
    finally:
        image.thaw()


def abuse(path: Path, sample: bytes, seed: int) -> str:
    """Break an image and use it; what it was refused with."""
    chance = random.Random(seed)
    path.unlink(missing_ok=True)  # a file that is cut and written again is synced when it is closed (ext4)
    path.write_bytes(mutated(sample, chance))
    said: list[str] = []
    for read_only in (True, False):
        try:
            image = opened(path, read_only=read_only)
        except ImageError as exc:
            said.append(str(exc))
            continue
        for final in (lambda image=image: use(image, chance), lambda image=image: use_snapshots(image, chance), image.close):
            try:
                final()
            except ImageError as exc:
                said.append(str(exc))
    for text in said:
        assert text.startswith(str(path)), text
        assert "\n" not in text
        assert len(text) < 600, text
    return " ".join(said)


def abuse_many(folder: Path, samples: list[bytes], count: int) -> None:
    path, before = folder / "disk.qcow2", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = sum(bool(abuse(path, samples[number % len(samples)], SEED + number)) for number in range(count))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused > count // 4  # they were broken indeed
    assert (after - before) * KIB < MOST_MEMORY


@pytest.mark.usefixtures("no_sync")
def test_two_thousand_broken_images_are_refused_in_one_line(samples: list[bytes], tmp_path: Path) -> None:
    abuse_many(tmp_path, samples, 2000)


@pytest.mark.soak
@pytest.mark.usefixtures("no_sync")
@pytest.mark.timeout(1200)
def test_twenty_thousand_broken_images_are_refused_in_one_line(samples: list[bytes], tmp_path: Path) -> None:
    abuse_many(tmp_path, samples, 20000)


def patched(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def refusal(path: Path, *, read_only: bool = False) -> ImageError:
    with pytest.raises(ImageError) as caught:
        opened(path, read_only=read_only)
    assert caught.value.kind is ImageErrorKind.CORRUPT
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create(tmp_path / "disk.qcow2", MIB)


@pytest.mark.parametrize(
    ("offset", "data", "text"),
    [
        (0, b"QFI\xfa", "is no qcow2 image"),
        (4, struct.pack(">I", 4), "is qcow version 4, this build knows 2 and 3"),
        (20, struct.pack(">I", 8), r"has clusters of 2\^8 bytes, must be 2\^9\.\.2\^21"),
        (20, struct.pack(">I", 22), r"has clusters of 2\^22 bytes"),
        (24, struct.pack(">Q", 1 << 63), "has a disk of 9223372036854775808 bytes, at most"),
        (32, struct.pack(">I", 2), "is encrypted, which is not supported"),
        (36, struct.pack(">I", 0), r"has 0 L1 entries, must be 1\.\."),
        (36, struct.pack(">I", 1 << 23), r"has 8388608 L1 entries, must be 1\.\.4194304"),
        (40, struct.pack(">Q", 0x30001), "has its L1 table at 0x30001"),
        (40, struct.pack(">Q", 1 << 50), "has its L1 table at 0x4000000000000"),
        (56, struct.pack(">I", 1000), r"has 1000 clusters of refcount table, must be 1\.\.128"),
        (96, struct.pack(">I", 7), r"has refcounts of 2\^7 bits"),
        (100, struct.pack(">I", 96), "has a header of 96 bytes"),
        (72, struct.pack(">Q", 4), "keeps its data in an external file, which is not supported"),
        (72, struct.pack(">Q", 16), r"has extended L2 entries \(subclusters\), which are not supported"),
        (72, struct.pack(">Q", 1 << 40), "needs features that this build does not know: bit 40"),
        (104, b"\x05", "has compression type 5, known are zlib, zstd"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused_with_the_reason(offset: int, data: bytes, text: str, path: Path) -> None:
    error = refusal(patched(path, offset, data))

    assert re.search(text, str(error)), str(error)


def test_an_unknown_feature_is_named_as_the_image_names_it(path: Path) -> None:
    table = path.read_bytes().find(b"dirty bit") - 2
    patched(path, table, struct.pack("BB46s", 0, 40, b"teleportation"))

    error = refusal(patched(path, 72, struct.pack(">Q", 1 << 40 | 1 << 41)))

    assert str(error).endswith("needs features that this build does not know: 'teleportation', bit 41")


def test_an_image_marked_corrupt_can_only_be_read(path: Path) -> None:
    patched(path, 72, struct.pack(">Q", 2))

    error = refusal(path)
    image = opened(path, read_only=True)
    image.readv(0, [bytearray(512)])
    image.close()

    assert "is marked corrupt and can only be read" in str(error)


def test_a_dirty_images_counts_are_made_anew_before_the_first_write(path: Path) -> None:
    image = opened(path)
    image.writev(0, [b"a" * 200_000])
    image.close()
    (table,) = struct.unpack_from(">Q", path.read_bytes(), 48)
    (block,) = struct.unpack_from(">Q", path.read_bytes(), table)
    patched(path, block, bytes(64 * KIB))  # as if no count had ever been written back
    patched(path, 72, struct.pack(">Q", 1))
    before = path.read_bytes()

    reader = opened(path, read_only=True)
    reader.readv(0, [bytearray(512)])
    reader.close()
    untouched = path.read_bytes() == before
    image = opened(path)
    image.writev(300_000, [b"b" * 200_000])
    image.close()

    assert untouched
    assert qemu_img("check", "-f", "qcow2", path).startswith("No errors")
    assert struct.unpack_from(">Q", path.read_bytes(), 72) == (0,)


def test_an_allocation_never_lands_on_the_tables(path: Path) -> None:
    (table,) = struct.unpack_from(">Q", path.read_bytes(), 48)
    (block,) = struct.unpack_from(">Q", path.read_bytes(), table)
    patched(path, block, bytes(64 * KIB))
    image = opened(path)

    with pytest.raises(ImageError, match="written to, where its tables are"):
        image.writev(0, [b"x"])

    assert path.read_bytes().startswith(b"QFI\xfb")
