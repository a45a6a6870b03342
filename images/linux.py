"""Debian's kernel and busybox as a guest: fetched through the machine's apt, packed into an initramfs.

    image = fetch("riscv64")        # image.kernel, image.initrd; the first call takes the network, later ones the cache

The initramfs loads the virtio, ext4 and 9p drivers, prints `BOOT-OK` and `uname -a`, and gives a root shell on the console;
leaving the shell powers the guest off. What is cached stays until its directory is removed or this file changes.
Missing: zstd-compressed modules (Debian ships xz).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from emu.errors import ConfigError, EmuError
from images.apt import LOCAL_SECONDS, open_suite, run
from images.packed import unpack_kernel


@dataclass(frozen=True, slots=True)
class Source:
    """Where an architecture's newest kernel is: the suite and its metapackage, which depends on the kernel's own package."""

    suite: str
    package: str


SOURCES: dict[str, Source] = {
    "riscv64": Source("trixie", "linux-image-riscv64"),  # bookworm has no riscv64
    "arm64": Source("trixie", "linux-image-arm64"),
    "amd64": Source("trixie", "linux-image-amd64"),
    "armhf": Source("trixie", "linux-image-armmp"),
    "i386": Source("bookworm", "linux-image-686-pae"),  # trixie has no i386 kernel; without PAE there is no no-execute
}

MODULES = (
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",  # before ext4, which asks for it by its crypto alias only
    "ext4",
    "rng_core",
    "virtio_rng",
    "netfs",
    "9pnet",
    "9pnet_virtio",
    "9p",
)
OPTIONAL_MODULES = frozenset(
    {"crc32c_generic", "netfs"}
)  # the one is library code in new kernels, the other not yet in old ones

INIT = """\
#!/bin/sh
export PATH=/bin HOME=/ PS1='~ # '
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
hostname emu
while read -r module; do
    insmod "/lib/modules/$module.ko" || echo "insmod $module failed"
done < /etc/modules
dmesg -n 4
echo BOOT-OK
uname -a
setsid cttyhack sh
poweroff -f
"""

SECTOR = 512
APPLET_TABLE = re.compile(rb"\[\0\[\[\0(?:[\w.-]+\0)+")  # busybox's applet_names: sorted, each ended by a NUL

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LinuxImage:
    """A kernel and an initramfs that boot together."""

    kernel: Path  # without what unpacks it
    packed: Path  # as Debian ships it
    initrd: Path
    release: str
    arch: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a cpio archive; `mode` holds type and permissions, `data` a file's bytes or a symlink's target."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def cpio(entries: Iterable[Entry]) -> bytes:
    """Return a newc archive (Linux, early-userspace/buffer-format.rst): the same bytes for the same entries."""
    out = bytearray()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        owner = mtime = checksum = 0
        fields = (inode, entry.mode, owner, owner, links, mtime, len(entry.data), 0, 0, *entry.device, len(name), checksum)
        out += b"070701" + b"".join(b"%08x" % value for value in fields) + name
        out += bytes(-len(out) % 4)
        out += entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


def load_order(wanted: Iterable[str], depends: Callable[[str], Sequence[str]]) -> list[str]:
    """Return `wanted` and all they depend on, each once, what is depended on first; EmuError names a module in a cycle."""
    order: list[str] = []
    open_modules: set[str] = set()

    def visit(name: str) -> None:
        if name in order:
            return
        if name in open_modules:
            raise EmuError(f"kernel module {name} depends on itself")
        open_modules.add(name)
        for dependency in depends(name):
            visit(dependency)
        order.append(name)

    for name in wanted:
        visit(name)
    return order


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


@dataclass(slots=True)
class ModuleTree:
    """The modules of one unpacked kernel package, `root` being its lib/modules/RELEASE.

    A package holds no modules.dep (depmod writes it when the package is installed): the modules themselves tell what they need.
    """

    root: Path
    _paths: dict[str, Path] = field(init=False)
    _builtin: set[str] = field(init=False)
    _contents: dict[str, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._paths = {_module_name(path.name): path for path in sorted(self.root.rglob("*.ko*"))}
        self._builtin = {_module_name(line) for line in (self.root / "modules.builtin").read_text().splitlines()}

    def order(self, wanted: Iterable[str], optional: frozenset[str] = frozenset()) -> list[str]:
        """Names to load, in load order, without what is built in; EmuError when one not `optional` is nowhere."""
        present = [name for name in wanted if name in self._paths or name not in self._builtin | optional]
        return load_order(present, self.depends)

    def depends(self, name: str) -> list[str]:
        """Names of the modules that `name` needs loaded before it (its .modinfo's `depends`)."""
        try:
            section = ELFFile(io.BytesIO(self.read(name))).get_section_by_name(".modinfo")
        except ELFError as exc:
            raise EmuError(f"{self._paths[name]}: not a kernel module: {exc}") from exc
        info = bytes(section.data()) if section else b""
        tags = dict(item.split(b"=", 1) for item in info.split(b"\0") if item.startswith(b"depends="))
        return [_module_name(dependency) for dependency in tags.get(b"depends", b"").decode().split(",") if dependency]

    def read(self, name: str) -> bytes:
        """Contents of a module, decompressed."""
        if name not in self._contents:
            if name not in self._paths:
                raise EmuError(f"{self.root.name}: no kernel module {name}, and it is not built in")
            self._contents[name] = _read_module(self._paths[name])
        return self._contents[name]


def _read_module(path: Path) -> bytes:
    match path.suffix:
        case ".ko":
            return path.read_bytes()
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case suffix:
            raise EmuError(f"{path}: compressed as {suffix}, known are .ko and .ko.xz")


def initramfs(busybox: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the archive: busybox with all its applets, `modules` (name, contents) in load order, and /init."""
    table = APPLET_TABLE.search(busybox)
    if table is None:
        raise EmuError("busybox: its table of applets was not found")
    applets = [name.decode() for name in table[0].split(b"\0")[:-1] if name != b"busybox"]
    directory, program, file = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    return cpio(
        [
            *(Entry(path, directory) for path in ("bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "sys", "tmp")),
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            Entry("bin/busybox", program, busybox),
            *(Entry(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox") for applet in applets),
            *(Entry(f"lib/modules/{name}.ko", file, contents) for name, contents in modules),
            Entry("etc/modules", file, "".join(f"{name}\n" for name, _ in modules).encode()),
            Entry("init", program, INIT.encode()),
        ]
    )


def make_ext4(path: Path, size: int) -> None:
    """Make `path` a raw image of `size` bytes with an empty ext4 file system; an existing file is replaced once that worked."""
    if size <= 0 or size % SECTOR:
        raise ConfigError(f"{path}: size {size} is not a positive multiple of {SECTOR}")
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if mkfs is None:
        raise EmuError("mkfs.ext4 is not installed (Debian: e2fsprogs)")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ext4-") as work:
            image = Path(work, "image")
            image.touch()
            os.truncate(image, size)
            # No lazy initialisation: a kernel thread would write to the disk long after the mount.
            run([mkfs, "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], LOCAL_SECONDS)
            image.rename(path)
    except OSError as exc:
        raise EmuError(f"{path}: {exc.strerror}") from exc


def _build(product: Path, arch: str, progress: Progress) -> None:
    """Fetch what `arch` needs and put the files of its cached directory into `product`."""
    source = SOURCES[arch]
    with tempfile.TemporaryDirectory(prefix="emu-apt-") as work:
        Path(work).chmod(0o755)  # apt, run by root, reads keys and lists as its own unprivileged user
        progress(f"reading Debian {source.suite}'s index for {arch}")
        apt = open_suite(Path(work), arch, source.suite)
        package = apt.kernel_package(source.package)
        progress(f"fetching {package} and busybox-static")
        root = apt.unpack(package, "busybox-static")
        progress("packing the initramfs")
        release = package.removeprefix("linux-image-")
        modules = ModuleTree(_only(root, f"**/lib/modules/{release}"))
        contents = [(name, modules.read(name)) for name in modules.order(MODULES, OPTIONAL_MODULES)]
        product.mkdir()
        packed = _only(root, f"boot/vmlinu?-{release}").read_bytes()
        (product / "packed").write_bytes(packed)
        (product / "kernel").write_bytes(unpack_kernel(packed))
        (product / "initrd.cpio").write_bytes(initramfs(_only(root, "**/bin/busybox").read_bytes(), contents))
        (product / "manifest.json").write_text(json.dumps({"release": release, "recipe": recipe()}))


def _only(root: Path, pattern: str) -> Path:
    found = list(root.glob(pattern))
    if len(found) != 1:
        raise EmuError(f"Debian's packages hold {len(found)} files {pattern}, expected one")
    return found[0]


def recipe() -> str:
    """A digest of the files that say what is fetched, unpacked and built: what others made is not used."""
    return hashlib.sha256(
        b"".join(Path(__file__).with_name(name).read_bytes() for name in ("linux.py", "packed.py"))
    ).hexdigest()


def _cached(directory: Path, arch: str) -> LinuxImage | None:
    files = directory / "kernel", directory / "packed", directory / "initrd.cpio"
    try:
        match json.loads((directory / "manifest.json").read_text()):
            case {"release": str(release), "recipe": made_by} if made_by == recipe() and all(file.exists() for file in files):
                return LinuxImage(*files, release, arch)
            case _:
                return None
    except (OSError, ValueError):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time build what is beside `path`."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def default_cache() -> Path:
    """EMU_CACHE, or `emu` in the user's cache directory (XDG base directory specification)."""
    if own := os.environ.get("EMU_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "emu")


def fetch(arch: str, *, cache: Path | None = None, progress: Progress | None = None) -> LinuxImage:
    """Return Debian's newest kernel for `arch` (Debian's name) with its initramfs, from `cache`/linux or through apt.

    Raises EmuError with the reason in one line when apt is missing, the package source cannot be reached or does not verify.
    """
    if arch not in SOURCES:
        raise ConfigError(f"no Debian kernel for {arch}, known are {', '.join(SOURCES)}")
    parent = (cache or default_cache()) / "linux"
    target = parent / arch
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent / f"{arch}.lock"):
            image = _cached(target, arch)
            if image is None:
                with tempfile.TemporaryDirectory(dir=parent, prefix=f".{arch}-") as work:
                    product = Path(work, "product")
                    _build(product, arch, progress or (lambda _: None))
                    if target.exists():
                        target.rename(Path(work, "replaced"))
                    product.rename(target)
                image = _cached(target, arch)
    except OSError as exc:
        raise EmuError(f"{exc.filename or parent}: {exc.strerror}") from exc
    if image is None:
        raise EmuError(f"{target}: was changed by another program while it was made")
    return image


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what ARCH needs and print the paths of kernel and initramfs; progress goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m images.linux", description="Fetch Debian's kernel and busybox as a guest.")
    parser.add_argument("arch", choices=SOURCES)
    arch = parser.parse_args(argv).arch
    try:
        image = fetch(arch, progress=lambda text: print(text, file=sys.stderr))
    except EmuError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(image.kernel, image.initrd, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
