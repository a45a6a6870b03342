"""Where initrd and device tree go: at the end of RAM, the tree above the initrd, both above the kernel."""

from __future__ import annotations

from emu.config import MachineConfig
from emu.errors import ConfigError
from emu.guestimage import Loaded, load_raw, read_file
from emu.memory import GuestMemory

PAGE = 4096


def place_tree(config: MachineConfig, base: int, size: int, kernel: Loaded | None, *, lowest: int, align: int) -> int:
    """Where a device tree of `size` bytes goes in the RAM at `base`: as high as it can, at a multiple of `align` if it can.

    It stays above the kernel, or above `lowest` without one. ConfigError when that leaves no room.
    """
    if kernel is not None:
        lowest = kernel.end
    highest = base + config.memory - size
    for unit in (align, PAGE):
        if (tree := highest // unit * unit) >= lowest:
            return tree
    taken = "the firmware" if kernel is None else f"kernel {config.kernel}"
    raise ConfigError(f"{taken} leaves no room for the device tree in {config.memory >> 10} KiB of RAM")


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
