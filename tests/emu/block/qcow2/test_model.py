"""Random requests against a model, whatever the image's options; QEMU judges what is left."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.emu.block.qcow2.tools import (
    CLEAN,
    KIB,
    MIB,
    SEED,
    Model,
    assert_qemu_reads,
    check,
    create,
    needs_qemu_img,
    opened,
    qemu_img,
)

pytestmark = [needs_qemu_img, pytest.mark.usefixtures("no_sync")]

OPTIONS = [
    "cluster_size=512,refcount_bits=1",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=1k,refcount_bits=2",
    "cluster_size=4k,refcount_bits=4",
    "cluster_size=4k,compat=0.10",
    "cluster_size=16k,refcount_bits=8,lazy_refcounts=on",
    "cluster_size=64k",
    "cluster_size=64k,preallocation=metadata",
    "cluster_size=256k,refcount_bits=32",
    "cluster_size=2M,refcount_bits=1",
]
STEPS = 1000  # of each: 10,000 in all


def run_model(path: Path, seed: int, steps: int, expected: bytes | None = None) -> None:
    print(f"seed {seed}")
    model = Model(path, random.Random(seed), expected)
    for _ in range(steps):
        model.step()
    model.judge()


@pytest.mark.parametrize("options", OPTIONS)
def test_random_requests_leave_what_a_bytearray_has(options: str, tmp_path: Path) -> None:
    run_model(create(tmp_path / "disk.qcow2", 3 * MIB + 512, options), SEED, STEPS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", OPTIONS)
def test_many_random_requests_leave_what_a_bytearray_has(options: str, tmp_path: Path) -> None:
    run_model(create(tmp_path / "disk.qcow2", 20 * MIB + 512, options), SEED, 30 * STEPS)


@pytest.mark.parametrize("options", ["cluster_size=4k", "cluster_size=4k,compat=0.10", "cluster_size=64k"])
@pytest.mark.parametrize("behind", ["raw", "qcow2", "compressed", "short"])
def test_random_requests_over_a_backing_chain(options: str, behind: str, tmp_path: Path) -> None:
    size = 2 * MIB
    data = bytearray(random.Random(SEED).randbytes(MIB) + bytes(MIB))
    base, middle = tmp_path / "base", tmp_path / "middle"
    base.write_bytes(data[: MIB // 2 + 512] if behind == "short" else data)
    if behind == "short":
        data[MIB // 2 + 512 :] = bytes(size - MIB // 2 - 512)
    before = base.read_bytes()
    format = "raw" if behind in ("raw", "short") else "qcow2"  # noqa: A001
    if format == "qcow2":
        packed = ("-c",) if behind == "compressed" else ()
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *packed, base, tmp_path / "packed")
        base = tmp_path / "packed"
        before = base.read_bytes()
    create(middle, size, backing=base, backing_format=format)
    top = create(tmp_path / "top.qcow2", size, options, backing=middle)

    run_model(top, SEED, 400, bytes(data))

    unchanged = base.read_bytes() == before
    assert unchanged


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", ["512", "64k", "2M"])
def test_random_requests_over_compressed_clusters(compression: str, cluster: str, tmp_path: Path) -> None:
    data = b"".join(bytes([number & 0xFF]) * 700 for number in range(1500))
    data += bytes(-len(data) % 512)
    (tmp_path / "raw").write_bytes(data)
    options = f"cluster_size={cluster},compression_type={compression}"
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, tmp_path / "raw", path)

    run_model(path, SEED, 300, data)


def test_random_requests_over_snapshots_leave_the_snapshots_as_they_were(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", 2 * MIB, "cluster_size=4k")
    model = Model(path, random.Random(SEED))
    kept: dict[str, bytes] = {}
    for tag in ("one", "two", "three"):
        for _ in range(300):
            model.step()
        model.judge()
        qemu_img("snapshot", "-c", tag, path)
        kept[tag] = bytes(model.expected)
        model = Model(path, model.chance, kept[tag])
    for _ in range(300):
        model.step()
    model.judge()

    for tag, expected in kept.items():
        qemu_img("snapshot", "-a", tag, path)
        assert_qemu_reads(path, expected)


operations = st.tuples(
    st.sampled_from(["write", "read", "zero", "discard", "flush", "reopen"]), st.integers(0, 65535), st.integers(1, 20000)
)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(operations, max_size=30),
    bits=st.integers(9, 14),
    order=st.integers(0, 6),
    version=st.sampled_from(["0.10", "1.1"]),
    backed=st.booleans(),
)
def test_any_requests_on_any_small_image(
    steps: list[tuple[str, int, int]], bits: int, order: int, version: str, backed: bool
) -> None:
    with TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.write_bytes(random.Random(SEED).randbytes(64 * KIB))
        refcounts = f"refcount_bits={1 << order}" if version == "1.1" else "refcount_bits=16"
        options = f"compat={version},cluster_size={1 << bits},{refcounts}"
        path = create(Path(folder) / "disk.qcow2", 64 * KIB, options, backing=base if backed else None, backing_format="raw")
        model = Model(path, random.Random(SEED), base.read_bytes() if backed else None)

        for kind, offset, length in steps:
            getattr(model, kind)(offset, min(length, 64 * KIB - offset))

        model.judge()


def test_threads_at_work_side_by_side_lose_nothing(tmp_path: Path) -> None:
    """Four threads, each with every fourth sector to itself, so that they share every cluster."""
    sectors, threads = 2048, 4
    path = create(tmp_path / "disk.qcow2", sectors * 512, "cluster_size=4k")
    image = opened(path)

    def work(mine: int) -> dict[int, bytes]:
        chance = random.Random(SEED + mine)
        expected = {}
        for _ in range(1000):
            sector = chance.randrange(mine, sectors, threads)
            if sector in expected and chance.random() < 0.4:
                data = bytearray(512)
                if not image.readv_cached(sector * 512, [data]):
                    image.readv(sector * 512, [data])
                assert data == expected[sector]
            elif chance.random() < 0.3:
                image.write_zeroes(sector * 512, 512, unmap=True)
                expected[sector] = bytes(512)
            else:
                expected[sector] = chance.randbytes(512)
                image.writev(sector * 512, [expected[sector]])
            if chance.random() < 0.005:
                image.flush()
        return expected

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(work, range(threads)))
    image.close()

    disk = bytearray(sectors * 512)
    for part in parts:
        for sector, data in part.items():
            disk[sector * 512 : sector * 512 + 512] = data
    assert check(path) == CLEAN
    assert_qemu_reads(path, disk)
