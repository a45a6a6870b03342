"""How a kernel is entered: Linux `Image`, ELF or raw in S-mode with our SBI, or firmware in M-mode.

Linux's contract is Documentation/arch/riscv/boot.rst and boot-image-header.rst: a0 hart id, a1 device tree, satp 0; Image and
tree lie at multiples of a megapage (2 MiB, or 4 MiB on RV32), which Linux maps them by, the Image at the first above the start
of RAM. Firmware gets what OpenSBI's FW_DYNAMIC and FW_JUMP take: a2 points to fw_dynamic_info, the kernel lies there too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.config import MachineConfig
from emu.errors import ConfigError
from emu.guestimage import ELF_MAGIC, Loaded, check_fits, load_elf, load_raw, read_file
from emu.memory import GuestMemory
from targets.placement import PAGE, load_initrd, place_tree
from targets.riscv.cpu import RiscvCpu
from targets.riscv.state import Irq, Priv, Width

ELF_CLASS = slice(4, 5)  # e_ident[EI_CLASS]
ELF_WIDTHS = {b"\1": 32, b"\2": 64}

IMAGE_MAGIC = b"RSC\x05"
IMAGE_HEADER = struct.Struct("<16x Q 32x 4s 4x")  # image_size, magic2

FW_DYNAMIC_MAGIC = 0x4942534F  # "OSBI"
FW_DYNAMIC = {32: struct.Struct("<6I"), 64: struct.Struct("<6Q")}  # magic, version, next_addr, next_mode, options, boot_hart
FW_DYNAMIC_VERSION = 2

# Delegated to S-mode, as OpenSBI does: misaligned fetch, breakpoint, ecall from U, page faults; all supervisor interrupts.
MEDELEG = 1 << 0 | 1 << 3 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 15
MIDELEG = 1 << Irq.SSIP | 1 << Irq.STIP | 1 << Irq.SEIP
FIRMWARE_SETUP = {
    "medeleg": MEDELEG,
    "mideleg": MIDELEG,
    "mcounteren": 7,  # cycle, time, instret
    "pmpaddr0": (1 << 54) - 1,  # all of memory,
    "pmpcfg0": 0x1F,  # NAPOT, read, write, execute
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the parts of a guest lie: guest-physical addresses."""

    kernel: Loaded | None
    initrd: Loaded | None
    tree: int
    start: int
    dynamic_info: int = 0  # 0 without firmware


def place(config: MachineConfig, memory: GuestMemory, base: int, tree_size: int, width: Width) -> Placement:
    """Put kernel, initrd and firmware in RAM and choose the device tree's place; raises ConfigError when they do not fit."""
    preferred = base + width.megapage
    kernel = None if config.kernel is None else _load_kernel(config, memory, preferred, width)
    # fw_dynamic_info lies behind the tree.
    tree = place_tree(config, base, tree_size + PAGE, kernel, lowest=preferred, align=width.megapage)
    initrd = load_initrd(config, memory, kernel, tree)
    if config.bios is None:
        if kernel is None:
            raise ConfigError("no kernel was given: use --kernel FILE, --bios FILE or the name of a bundled guest")
        return Placement(kernel, initrd, tree, kernel.entry)
    firmware = read_file(config.bios, "firmware")
    loaded = (
        load_elf(memory, config.bios, machine="EM_RISCV")
        if firmware[:4] == ELF_MAGIC
        else load_raw(memory, firmware, base, "firmware")
    )
    dynamic_info = tree + (tree_size + 7 & ~7)
    target = preferred if kernel is None else kernel.entry
    memory.write(dynamic_info, FW_DYNAMIC[width.xlen].pack(FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, target, Priv.S, 0, 0))
    return Placement(kernel, initrd, tree, loaded.entry, dynamic_info)


def _load_kernel(config: MachineConfig, memory: GuestMemory, address: int, width: Width) -> Loaded:
    assert config.kernel is not None
    data = read_file(config.kernel, "kernel")
    if data[:4] == ELF_MAGIC:
        bits = ELF_WIDTHS.get(bytes(data[ELF_CLASS]), width.xlen)
        if bits != width.xlen:
            raise ConfigError(f"kernel {config.kernel} is for {bits} bits, target {config.target} has {width.xlen}")
        return load_elf(memory, config.kernel, machine="EM_RISCV")
    loaded = load_raw(memory, data, address, f"kernel {config.kernel}")
    image_size, magic = IMAGE_HEADER.unpack(bytes(data[: IMAGE_HEADER.size]).ljust(IMAGE_HEADER.size, b"\0"))
    if magic == IMAGE_MAGIC:  # image_size counts the zeroed data behind the file's end
        check_fits(memory, address, image_size, f"kernel {config.kernel}")
        return Loaded(address, address + max(image_size, len(data)), address)
    return loaded


def enter(cpu: RiscvCpu, placement: Placement) -> None:
    """Set the registers as the kernel or firmware expects them."""
    cpu.write(10, 0)
    cpu.write(11, placement.tree)
    cpu.write(12, placement.dynamic_info)
    if not placement.dynamic_info:
        for name, value in FIRMWARE_SETUP.items():
            cpu.write_csr(cpu.width.csrs[name], value & cpu.width.all_bits)
        cpu.priv = Priv.S
    cpu.pc = placement.start
