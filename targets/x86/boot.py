"""How a kernel is entered: the 64-bit and the 32-bit boot protocol (Linux Documentation/arch/x86/boot.rst).

    0x10000 zero page   0x20000 command line   0x30000 page tables (64 bits: the first 4 GiB, identity)   0x40000 GDT

A bzImage lies at its preferred address, an ELF file where it says; both get the zero page's address in RSI or ESI, flat
segments 0x10 and 0x18, and interrupts off. The initrd lies at the end of RAM.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.config import MachineConfig
from emu.errors import ConfigError
from emu.guestimage import ELF_MAGIC, Loaded, check_fits, load_elf, load_raw, read_file
from emu.memory import GuestMemory
from targets.x86.cpu import X86Cpu
from targets.x86.map import COMMAND_LINE, COMMAND_LINE_MAX, GDT, GIB, HIGH_START, LOW_END, PAGE_TABLES, STACK, ZERO_PAGE
from targets.x86.state import CONTROL, DESCRIPTORS, DescriptorState

PAGE = 4096
SECTOR = 512
ENTRY_64 = 0x200  # from the start of the protected-mode kernel

# The setup header (1.1 ff.), offsets in the file and in the zero page alike
SETUP_SECTS, HEADER, MAGIC, VERSION = 0x1F1, 0x1F1, 0x202, 0x206
HEADER_MAGIC = b"HdrS"
TYPE_OF_LOADER, RAMDISK, CMD_LINE_PTR, VID_MODE = 0x210, 0x218, 0x228, 0x1FA
PREF_ADDRESS, INIT_SIZE = 0x258, 0x260
MIN_VERSION = 0x20C  # 2.12: xloadflags
E820_ENTRIES, E820_TABLE = 0x1E8, 0x2D0
E820 = struct.Struct("<QQI")
E820_RAM, E820_RESERVED = 1, 2
UNKNOWN_LOADER, NORMAL_VIDEO = 0xFF, 0xFFFF

CODE_SELECTOR, DATA_SELECTOR = 0x10, 0x18
CODE64, CODE32, DATA = 0x00AF_9B00, 0x00CF_9B00, 0x00CF_9300  # second words of flat descriptors
PRESENT, WRITABLE, LARGE = 0x01, 0x02, 0x80
CR0_PE_ET, CR0_PG, CR4_PAE, EFER_LME_LMA = 0x11, 1 << 31, 1 << 5, 0x500
HFLAGS_32, HFLAGS_64 = 0x80 | 0x30, 0x80 | 0x30 | 0xC000  # PE, CS32, SS32; LMA, CS64


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in RAM, and the setup header it came with."""

    loaded: Loaded
    header: bytes


def load(config: MachineConfig, memory: GuestMemory, cpu: X86Cpu) -> None:
    """Put everything in RAM and the CPU at the entry; raises ConfigError when it does not fit."""
    if config.kernel is None:
        raise ConfigError("no kernel was given: use --kernel FILE or the name of a bundled guest")
    command_line = config.append.encode() + b"\0"
    if len(command_line) > COMMAND_LINE_MAX:
        raise ConfigError(f"the command line has {len(command_line) - 1} bytes, at most {COMMAND_LINE_MAX - 1} are possible")
    kernel = _load_kernel(config, memory, long_mode=cpu.long_mode)
    page = bytearray(PAGE)
    page[HEADER : HEADER + len(kernel.header)] = kernel.header
    page[TYPE_OF_LOADER] = UNKNOWN_LOADER
    struct.pack_into("<H", page, VID_MODE, NORMAL_VIDEO)
    struct.pack_into("<I", page, CMD_LINE_PTR, COMMAND_LINE)
    if config.initrd is not None:
        data = read_file(config.initrd, "initrd")
        address = (config.memory - len(data)) // PAGE * PAGE
        if address < kernel.loaded.end:
            raise ConfigError(
                f"initrd {config.initrd} has {len(data)} bytes, which do not fit behind the kernel in "
                f"{config.memory >> 20} MiB of RAM"
            )
        load_raw(memory, data, address, "initrd")
        struct.pack_into("<II", page, RAMDISK, address, len(data))
    ranges = (
        (0, LOW_END, E820_RAM),
        (LOW_END, HIGH_START - LOW_END, E820_RESERVED),
        (HIGH_START, config.memory - HIGH_START, E820_RAM),
    )
    page[E820_ENTRIES] = len(ranges)
    for number, entry in enumerate(ranges):
        E820.pack_into(page, E820_TABLE + number * E820.size, *entry)
    memory.write(ZERO_PAGE, page)
    memory.write(COMMAND_LINE, command_line)
    code = CODE64 if cpu.long_mode else CODE32
    memory.write(GDT, struct.pack("<4Q", 0, 0, code << 32 | 0xFFFF, DATA << 32 | 0xFFFF))
    if cpu.long_mode:
        memory.write(PAGE_TABLES, _identity_map())
    _enter(cpu, kernel.loaded.entry, code)


def _load_kernel(config: MachineConfig, memory: GuestMemory, *, long_mode: bool) -> Kernel:
    path = config.kernel
    assert path is not None
    data = read_file(path, "kernel")
    if data[:4] == ELF_MAGIC:
        return Kernel(load_elf(memory, path, machine="EM_X86_64" if long_mode else "EM_386"), b"")
    if data[MAGIC : MAGIC + 4] != HEADER_MAGIC:
        raise ConfigError(f"kernel {path} is neither an ELF file nor a bzImage")
    version = int.from_bytes(data[VERSION : VERSION + 2], "little")
    if version < MIN_VERSION:
        raise ConfigError(f"kernel {path} has boot protocol {version >> 8}.{version & 0xFF}, needed is 2.12 or newer")
    start = ((data[SETUP_SECTS] or 4) + 1) * SECTOR
    preferred, size = struct.unpack_from("<QI", data, PREF_ADDRESS)
    check_fits(memory, preferred, size, f"kernel {path}")
    loaded = load_raw(memory, data[start:], preferred, f"kernel {path}")
    entry = preferred + (ENTRY_64 if long_mode else 0)
    return Kernel(Loaded(preferred, max(loaded.end, preferred + size), entry), bytes(data[HEADER : MAGIC + data[MAGIC - 1]]))


def _identity_map() -> bytes:
    """Four levels for 4 GiB in pages of 2 MiB."""
    flags = PRESENT | WRITABLE
    gigabytes = 4
    directories = [PAGE_TABLES + (2 + number) * PAGE for number in range(gigabytes)]
    top = struct.pack("<Q", PAGE_TABLES + PAGE | flags).ljust(PAGE, b"\0")
    pointers = struct.pack(f"<{gigabytes}Q", *(directory | flags for directory in directories)).ljust(PAGE, b"\0")
    pages = range(0, gigabytes * GIB, 2 << 20)
    return top + pointers + b"".join(struct.pack("<Q", address | flags | LARGE) for address in pages)


def _enter(cpu: X86Cpu, entry: int, code: int) -> None:
    """Set the registers as the boot protocol says (1.12, 1.15)."""
    state = cpu.save()
    flat = DescriptorState(selector=DATA_SELECTOR, limit=0xFFFF_FFFF, flags=DATA)
    state.descriptors = [flat] * 6 + [DescriptorState() for _ in DESCRIPTORS[6:]]
    state.descriptors[DESCRIPTORS.index("cs")] = DescriptorState(selector=CODE_SELECTOR, limit=0xFFFF_FFFF, flags=code)
    state.descriptors[DESCRIPTORS.index("tr")].flags = 0x8900  # a TSS, present
    state.descriptors[DESCRIPTORS.index("gdtr")] = DescriptorState(base=GDT, limit=4 * 8 - 1)
    control = dict(zip(CONTROL, state.control, strict=True))
    control |= {"cr0": CR0_PE_ET, "cr3": 0, "cr4": 0, "efer": 0, "xcr0": 1}
    state.hflags = HFLAGS_32
    if cpu.long_mode:
        control |= {"cr0": CR0_PE_ET | CR0_PG, "cr3": PAGE_TABLES, "cr4": CR4_PAE, "efer": EFER_LME_LMA}
        state.hflags = HFLAGS_64
    state.control = list(control.values())
    state.eflags = 2
    state.pc = entry
    cpu.load(state)
    cpu.write("rsi", ZERO_PAGE)
    cpu.write("rsp", STACK)
