"""Kernels and firmware as files: what format they have, and putting them in RAM."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path

from emu.errors import ConfigError, GuestError
from emu.memory import GuestMemory

ELF_MAGIC = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where something was put: guest-physical addresses."""

    start: int
    end: int
    entry: int


def read_file(path: Path, what: str) -> memoryview:
    """The whole file; ConfigError names `what` it was to be.

    In memory of its own: what is as large would teach malloc to keep megabytes for the next one, and there is none.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return memoryview(file.read())  # a pipe, or nothing
            data = memoryview(mmap.mmap(-1, size))
            return data[: read_into(file, data)]
    except OSError as exc:
        raise ConfigError(f"{what} {path}: {exc.strerror}") from exc


def read_into(file: BufferedReader | FileIO, view: memoryview) -> int:
    """Fill `view` from where the file is; how much of it there was."""
    done = 0
    while count := file.readinto(view[done:]):
        done += count
    return done


def load_raw(memory: GuestMemory, data: memoryview, address: int, what: str) -> Loaded:
    """Put `data` at `address`."""
    check_fits(memory, address, len(data), what)
    memory.write(address, data)
    return Loaded(address, address + len(data), address)


@dataclass(frozen=True, slots=True)
class ElfKind:
    """Which ELF files a machine runs."""

    machine: str  # e_machine, such as EM_RISCV
    bits: int | None = None  # 32 or 64, None: either
    big_endian: bool | None = None


def load_elf(memory: GuestMemory, path: Path, *, machine: str | ElfKind, address_bits: int = -1) -> Loaded:
    """Put the PT_LOAD segments of an ELF file at their physical addresses; `machine` is its e_machine, or says more.

    `address_bits` are those of an address that count, where a kernel's file has others (MIPS: kseg0); `entry` is as it has it.
    """
    kind = machine if isinstance(machine, ElfKind) else ElfKind(machine)
    # Imported here: 20 ms that a start from a raw kernel or a snapshot does not have to wait for.
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != kind.machine:
                raise ConfigError(f"kernel {path} is for {elf['e_machine']}, this machine needs {kind.machine}")
            if kind.bits not in (None, elf.elfclass) or kind.big_endian is elf.little_endian:
                order = "little-endian" if elf.little_endian else "big-endian"
                raise ConfigError(f"kernel {path} has {elf.elfclass} bits, {order}, this machine needs another")
            start, end = 1 << 64, 0
            for segment in elf.iter_segments("PT_LOAD"):
                address, size = segment["p_paddr"] & address_bits, segment["p_memsz"]
                check_fits(memory, address, size, f"kernel {path}")
                view = memory.view(address, size)
                held = min(segment["p_filesz"], size)
                file.seek(segment["p_offset"])
                if (short := held - read_into(file, view[:held])) > 0:
                    raise ConfigError(f"kernel {path} ends {short} bytes short of its segment at {address:#x}")
                view[held:] = bytes(size - held)
                memory.written(address, size)
                start, end = min(start, address), max(end, address + size)
            if end == 0:
                raise ConfigError(f"kernel {path} has nothing to load")
            return Loaded(start, end, elf["e_entry"])
    except (ELFError, OSError) as exc:
        raise ConfigError(f"kernel {path}: {exc}") from exc


def check_fits(memory: GuestMemory, address: int, size: int, what: str) -> None:
    """Raise ConfigError unless `size` bytes at `address` are RAM."""
    try:
        memory.view(address, size)
    except GuestError:
        raise ConfigError(f"{what} needs {size} bytes at {address:#x}, which is not within RAM") from None
