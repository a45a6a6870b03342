"""How a kernel is entered: Linux `Image` or ELF, with the MMU and interrupts off.

64 bits: Documentation/arch/arm64/booting.rst: x0 device tree, x1 to x3 zero, EL1.
32 bits: Documentation/arch/arm/booting.rst: r0 zero, r1 no machine number, r2 device tree, SVC mode; raw `Image` or `zImage`,
which take no notice of each other's place: both go where the raw one has to be.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.config import MachineConfig
from emu.errors import ConfigError
from emu.guestimage import ELF_MAGIC, Loaded, check_fits, load_elf, load_raw, read_file
from emu.memory import GuestMemory
from targets.arm.cpu import VirtCpu
from targets.placement import load_initrd, place_tree

TREE_ALIGN = 2 << 20  # Linux maps the tree by one 2 MiB page
KERNEL_OFFSET = 2 << 20  # a 2 MiB aligned base; what lies below would still be the kernel's to use

IMAGE_MAGIC = b"ARM\x64"
IMAGE_HEADER = struct.Struct("<8x Q Q 32x 4s 4x")  # text_offset, image_size, magic


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the parts of a guest lie: guest-physical addresses."""

    kernel: Loaded
    initrd: Loaded | None
    tree: int


def place(config: MachineConfig, memory: GuestMemory, base: int, tree_size: int, *, machine: str, raw_offset: int) -> Placement:
    """Put kernel and initrd in RAM and choose the device tree's place; raises ConfigError when they do not fit.

    `machine` is the e_machine of ELF files, `raw_offset` how far from a 2 MiB border a kernel without a header goes.
    """
    kernel = _load_kernel(config, memory, base + KERNEL_OFFSET, machine, raw_offset)
    tree = place_tree(config, base, tree_size, kernel, lowest=base, align=TREE_ALIGN)
    return Placement(kernel, load_initrd(config, memory, kernel, tree), tree)


def _load_kernel(config: MachineConfig, memory: GuestMemory, base: int, machine: str, raw_offset: int) -> Loaded:
    if config.kernel is None:
        raise ConfigError("no kernel was given: use --kernel FILE or the name of a bundled guest")
    data = read_file(config.kernel, "kernel")
    if data[:4] == ELF_MAGIC:
        return load_elf(memory, config.kernel, machine=machine)
    text_offset, image_size, magic = IMAGE_HEADER.unpack(bytes(data[: IMAGE_HEADER.size]).ljust(IMAGE_HEADER.size, b"\0"))
    what = f"kernel {config.kernel}"
    if magic != IMAGE_MAGIC:
        return load_raw(memory, data, base + raw_offset, what)
    address = base + text_offset
    check_fits(memory, address, image_size, what)  # it counts the zeroed data behind the file's end
    load_raw(memory, data, address, what)
    return Loaded(address, address + max(image_size, len(data)), address)


def enter(cpu: VirtCpu, placement: Placement) -> None:
    """Set the registers, which are those after a reset, as the kernel expects them."""
    cpu.enter(placement.tree)
    cpu.pc = placement.kernel.entry
