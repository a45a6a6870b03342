"""Guests that come with emu: kilobytes each, built from images/tiny by images/build.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from emu.errors import ConfigError

_MIB = 1 << 20
TINY = (  # the targets that have a tiny guest
    "arm",
    "arm64",
    "i386",
    "m68k",
    "mips",
    "mips64",
    "mips64el",
    "mipsel",
    "ppc",
    "ppc64",
    "riscv32",
    "riscv64",
    "s390x",
    "sparc",
    "sparc64",
    "tricore",
    "x86_64",
)
_TINY = "shell on the serial console, virtio-blk, virtio-9p and virtio-rng drivers, memory and journal tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledImage:
    """A guest that `emu run NAME` starts without any other file."""

    target: str  # the name of its folder in targets/
    resource: str  # the kernel's file name in this package
    memory_mib: int  # unless the user says otherwise
    description: str

    @property
    def memory(self) -> int:
        """The default RAM size in bytes."""
        return self.memory_mib * _MIB

    @contextmanager
    def kernel(self) -> Iterator[Path]:
        """The kernel as a file, for as long as the context lasts (the package may be in an archive)."""
        with as_file(files(__name__) / self.resource) as path:
            yield path

    def read(self) -> bytes:
        """The kernel's bytes, an ELF file."""
        return (files(__name__) / self.resource).read_bytes()


BUNDLED: dict[str, BundledImage] = {
    f"{target}-tiny": BundledImage(target=target, resource=f"{target}-tiny.elf", memory_mib=64, description=_TINY)
    for target in TINY
}


def bundled(name: str) -> BundledImage:
    """The image called `name`; ConfigError that lists the known ones if there is none."""
    image = BUNDLED.get(name)
    if image is None:
        raise ConfigError(f"no bundled image {name}; known are {', '.join(sorted(BUNDLED))}")
    return image
