"""Promises of images/linux.py; those marked `linux` need Debian's package source, and skip when it is out of reach."""

from __future__ import annotations

import json
import lzma
import shutil
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from emu.errors import ConfigError, EmuError
from images.linux import (
    INIT,
    MODULES,
    OPTIONAL_MODULES,
    Entry,
    LinuxImage,
    ModuleTree,
    cpio,
    fetch,
    initramfs,
    load_order,
    make_ext4,
    recipe,
)

BUSYBOX = b"\x7fELF code [\0[[\0ash\0busybox\0dd\0sh\0\0 more code"
DEPENDS: dict[str, list[str]] = {"ext4": ["jbd2", "crc16"], "jbd2": ["crc16"], "crc16": []}


@dataclass(frozen=True)
class Member:
    inode: int
    mode: int
    mtime: int
    device: tuple[int, int]
    data: bytes


def read_cpio(archive: bytes) -> dict[str, Member]:
    """Parse newc by its own description: 6 bytes of magic, 13 fields of 8 hex digits, name and data padded to 4."""
    members = {}
    at, name = 0, ""
    while name != "TRAILER!!!":
        assert archive[at : at + 6] == b"070701"
        inode, mode, _, _, _, mtime, size, _, _, major, minor, name_size, _ = (
            int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)
        )
        name = archive[at + 110 : at + 109 + name_size].decode()
        start = (at + 110 + name_size + 3) & ~3
        members[name] = Member(inode, mode, mtime, (major, minor), archive[start : start + size])
        at = (start + size + 3) & ~3
    assert at == len(archive)
    return members


def kernel_module(depends: str) -> bytes:
    """An ELF64 relocatable with nothing but a .modinfo section."""
    info = f"license=GPL\0depends={depends}\0name=x\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    info_at, names_at, table_at = 64, 64 + len(info), 64 + len(info) + len(names)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 1, 243, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2)
    sections = (
        bytes(64),
        struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, info_at, len(info), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    )
    return header + info + names + b"".join(sections)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """lib/modules/RELEASE as a kernel package has it: ext4 -> jbd2 -> crc16, virtio-rng alone, virtio built in."""
    root = tmp_path / "6.12-test"
    (root / "kernel/fs").mkdir(parents=True)
    (root / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    (root / "kernel/fs/ext4.ko.xz").write_bytes(lzma.compress(kernel_module("jbd2,crc16")))
    (root / "kernel/fs/jbd2.ko").write_bytes(kernel_module("crc16"))
    (root / "kernel/fs/crc16.ko").write_bytes(kernel_module(""))
    (root / "kernel/fs/virtio-rng.ko.xz").write_bytes(lzma.compress(kernel_module("")))
    return root


@pytest.fixture
def no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing-here"))


@pytest.fixture(scope="session")
def riscv64() -> LinuxImage:
    """Debian's riscv64 kernel and initramfs from the user's cache."""
    try:
        return fetch("riscv64")
    except EmuError as exc:
        pytest.skip(str(exc))


def test_cpio_gives_back_every_entry() -> None:
    members = read_cpio(
        cpio(
            [
                Entry("dev", stat.S_IFDIR | 0o755),
                Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
                Entry("odd", stat.S_IFREG | 0o644, b"12345"),
                Entry("sh", stat.S_IFLNK | 0o777, b"busybox"),
            ]
        )
    )

    assert list(members) == ["dev", "dev/console", "odd", "sh", "TRAILER!!!"]
    assert members["dev/console"] == Member(2, stat.S_IFCHR | 0o600, 0, (5, 1), b"")
    assert members["odd"].data == b"12345"
    assert stat.S_ISLNK(members["sh"].mode)


def test_cpio_of_the_same_entries_is_the_same_bytes() -> None:
    entries = [Entry("a", stat.S_IFREG | 0o644, b"x"), Entry("b", stat.S_IFREG | 0o644, b"y")]

    members = read_cpio(cpio(entries))

    assert cpio(entries) == cpio(entries)
    assert [member.inode for member in members.values()] == [1, 2, 3]
    assert {member.mtime for member in members.values()} == {0}


def test_load_order_puts_dependencies_first_and_each_once() -> None:
    assert load_order(["ext4", "crc16"], DEPENDS.__getitem__) == ["crc16", "jbd2", "ext4"]


def test_load_order_of_a_cycle_names_the_module() -> None:
    cycle = {"a": ["b"], "b": ["a"]}

    with pytest.raises(EmuError, match="module a depends on itself"):
        load_order(["a"], cycle.__getitem__)


def test_module_tree_orders_by_modinfo_and_skips_what_is_built_in(tree: Path) -> None:
    assert ModuleTree(tree).order(["virtio", "ext4", "virtio_rng"]) == ["crc16", "jbd2", "ext4", "virtio_rng"]


def test_module_tree_reads_xz_and_plain_modules_alike(tree: Path) -> None:
    modules = ModuleTree(tree)

    assert modules.read("ext4") == kernel_module("jbd2,crc16")
    assert modules.read("jbd2") == kernel_module("crc16")


def test_module_that_is_nowhere_is_refused_by_name(tree: Path) -> None:
    with pytest.raises(EmuError, match=r"6\.12-test: no kernel module zfs"):
        ModuleTree(tree).order(["zfs"])


def test_optional_module_that_is_nowhere_is_left_out(tree: Path) -> None:
    assert ModuleTree(tree).order(["zfs", "jbd2"], frozenset({"zfs"})) == ["crc16", "jbd2"]


def test_module_that_is_no_elf_is_refused_by_path(tree: Path) -> None:
    (tree / "kernel/fs/crc16.ko").write_bytes(b"not ELF at all")

    with pytest.raises(EmuError, match=r"crc16\.ko: not a kernel module"):
        ModuleTree(tree).order(["ext4"])


def test_module_compressed_with_zstd_is_refused(tree: Path) -> None:
    (tree / "kernel/fs/crc16.ko").rename(tree / "kernel/fs/crc16.ko.zst")

    with pytest.raises(EmuError, match=r"compressed as \.zst, known are \.ko and \.ko\.xz"):
        ModuleTree(tree).order(["ext4"])


def test_initramfs_links_every_applet_and_lists_modules_in_order() -> None:
    members = read_cpio(initramfs(BUSYBOX, [("crc16", b"one"), ("ext4", b"two")]))

    assert {name for name in members if name.startswith("bin/")} == {
        "bin/[",
        "bin/[[",
        "bin/ash",
        "bin/busybox",
        "bin/dd",
        "bin/sh",
    }
    assert members["bin/sh"].data == b"busybox"
    assert members["bin/busybox"].data == BUSYBOX
    assert members["etc/modules"].data == b"crc16\next4\n"
    assert members["lib/modules/ext4.ko"].data == b"two"
    assert members["init"].data == INIT.encode()
    assert members["init"].mode == stat.S_IFREG | 0o755


def test_busybox_without_applets_is_refused() -> None:
    with pytest.raises(EmuError, match="busybox: its table of applets was not found"):
        initramfs(b"\x7fELF", [])


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="e2fsprogs is not installed")
def test_make_ext4_leaves_one_image_of_the_size_asked_for(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"

    make_ext4(image, 16 << 20)

    assert image.stat().st_size == 16 << 20
    assert image.read_bytes()[0x438:0x43A] == b"\x53\xef"  # s_magic of the superblock at 1024
    assert list(tmp_path.iterdir()) == [image]


def test_make_ext4_of_part_of_a_sector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size 1000 is not a positive multiple of 512"):
        make_ext4(tmp_path / "disk.img", 1000)


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="e2fsprogs is not installed")
def test_make_ext4_that_fails_leaves_the_old_image(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"old")

    with pytest.raises(EmuError, match=r"^mkfs\.ext4: "):
        make_ext4(image, 512)

    assert image.read_bytes() == b"old"


def test_fetch_of_an_unknown_architecture_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Debian kernel for vax, known are riscv64, arm64, amd64, armhf, i386"):
        fetch("vax", cache=tmp_path)


@pytest.mark.usefixtures("no_apt")
def test_fetch_without_apt_says_so_and_leaves_no_cache(tmp_path: Path) -> None:
    with pytest.raises(EmuError, match=r"^apt-get is not installed$"):
        fetch("riscv64", cache=tmp_path)

    assert [path.name for path in (tmp_path / "linux").iterdir()] == ["riscv64.lock"]


@pytest.mark.usefixtures("no_apt")
def test_fetch_uses_the_cache_without_apt(tmp_path: Path) -> None:
    directory = tmp_path / "linux" / "riscv64"
    directory.mkdir(parents=True)
    files = [directory / name for name in ("kernel", "packed", "initrd.cpio")]
    for file in files:
        file.touch()
    (directory / "manifest.json").write_text(json.dumps({"release": "6.12", "recipe": recipe()}))

    image = fetch("riscv64", cache=tmp_path)

    assert image == LinuxImage(*files, "6.12", "riscv64")


@pytest.mark.usefixtures("no_apt")
@pytest.mark.parametrize("manifest", ['{"release": "6.12", "recipe": "another"}', "not JSON", "[]", "\xff"])
def test_fetch_does_not_use_a_cache_of_another_recipe(tmp_path: Path, manifest: str) -> None:
    directory = tmp_path / "linux" / "riscv64"
    directory.mkdir(parents=True)
    (directory / "kernel").touch()
    (directory / "initrd.cpio").touch()
    (directory / "manifest.json").write_text(manifest, encoding="latin-1")

    with pytest.raises(EmuError, match="apt-get is not installed"):
        fetch("riscv64", cache=tmp_path)


@pytest.mark.linux
def test_debian_riscv64_kernel_is_an_uncompressed_image(riscv64: LinuxImage) -> None:
    with riscv64.kernel.open("rb") as file:
        header = file.read(64)

    assert header[0x38:0x3C] == b"RSC\x05"  # Documentation/arch/riscv/boot-image-header.rst, magic2
    assert riscv64.release.endswith("-riscv64")


@pytest.mark.linux
def test_debian_riscv64_initramfs_has_all_drivers_in_an_order_that_loads(riscv64: LinuxImage, tmp_path: Path) -> None:
    members = read_cpio(riscv64.initrd.read_bytes())
    order = members["etc/modules"].data.decode().split()
    (tmp_path / "modules.builtin").touch()
    for name in order:
        (tmp_path / f"{name}.ko").write_bytes(members[f"lib/modules/{name}.ko"].data)
    needs = {name: ModuleTree(tmp_path).depends(name) for name in order}

    assert set(order) >= {"virtio_mmio", "virtio_blk", "ext4", "jbd2", "virtio_rng", "9p", "9pnet_virtio"}
    assert all(set(needs[name]) <= set(order[:at]) for at, name in enumerate(order))
    assert set(order) - set(MODULES) <= set().union(*needs.values())
    assert set(MODULES) >= OPTIONAL_MODULES


@pytest.mark.linux
def test_debian_riscv64_busybox_has_the_applets_the_live_tests_use(riscv64: LinuxImage) -> None:
    members = read_cpio(riscv64.initrd.read_bytes())

    assert {f"bin/{name}" for name in ("sh", "mount", "dd", "md5sum", "setsid", "cttyhack", "poweroff", "seq")} <= set(members)
    assert members["bin/busybox"].data[18:20] == b"\xf3\x00"  # e_machine EM_RISCV
