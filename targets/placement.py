"""Where initrd and device tree go: at the end of RAM, the tree above the initrd, both above the kernel."""

from __future__ import annotations

from emu.config import MachineConfig
from emu.errors import ConfigError
from emu.guestimage import Loaded, check_fits, load_raw, read_file
from emu.memory import GuestMemory

TREE_ALIGN = 2 << 20  # Linux maps the tree by one 2 MiB page
PAGE = 4096


def tree_place(memory: GuestMemory, base: int, size: int, tree_size: int, lowest: int) -> int:
    """Where a tree of `tree_size` bytes goes in the RAM of `size` bytes at `base`: as high as its alignment allows.

    That is a page's in RAM too small for 2 MiB above `lowest`. ConfigError when it does not fit at all.
    """
    end = base + size
    tree = (end - tree_size) // TREE_ALIGN * TREE_ALIGN
    check_fits(memory, tree, tree_size, "the device tree")
    return tree if tree >= lowest else (end - tree_size) // PAGE * PAGE


def load_initrd(config: MachineConfig, memory: GuestMemory, kernel: Loaded | None, tree: int) -> Loaded | None:
    """Put the initrd, if there is one, right below the tree; ConfigError when it does not fit above the kernel."""
    if config.initrd is None:
        return None
    data = read_file(config.initrd, "initrd")
    address = (tree - len(data)) // PAGE * PAGE
    if kernel is None or address < kernel.end:
        raise ConfigError(
            f"initrd {config.initrd} has {len(data)} bytes, which do not fit between kernel and device tree in "
            f"{config.memory >> 20} MiB of RAM"
        )
    return load_raw(memory, data, address, "initrd")
