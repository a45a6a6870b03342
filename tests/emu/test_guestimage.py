"""Kernels and firmware get from their files into RAM, or one line says why not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from emu.errors import ConfigError
from emu.guestimage import Loaded, load_elf, load_raw, read_file
from emu.memory import GuestMemory
from emu.ram import Ram
from tests.emu.elf import EM_RISCV, elf_with_symbols

BASE, SIZE = 0x8000_0000, 1 << 20
CODE = bytes(range(256)) * 20


@pytest.fixture
def memory() -> GuestMemory:
    ram = Ram("ram", BASE, SIZE)
    ram.view[:] = b"\xa5" * SIZE
    return GuestMemory([ram], lambda _address, _size: None)


def test_an_elf_file_goes_where_it_says(memory: GuestMemory, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(elf_with_symbols(BASE + 0x1000, CODE, {}, EM_RISCV))

    loaded = load_elf(memory, tmp_path / "kernel", machine="EM_RISCV")

    assert loaded == Loaded(BASE + 0x1000, BASE + 0x1000 + len(CODE), BASE + 0x1000)
    assert memory.read(BASE + 0xFFF, len(CODE) + 2) == b"\xa5" + CODE + b"\xa5"


def test_what_an_elf_file_leaves_out_is_zero(memory: GuestMemory, tmp_path: Path) -> None:
    elf = bytearray(elf_with_symbols(BASE, CODE, {}, EM_RISCV))
    elf[64 + 40 : 64 + 48] = (len(CODE) + 8).to_bytes(8, "little")  # p_memsz
    (tmp_path / "kernel").write_bytes(elf)

    load_elf(memory, tmp_path / "kernel", machine="EM_RISCV")

    assert memory.read(BASE, len(CODE) + 9) == CODE + bytes(8) + b"\xa5"


def test_an_elf_file_that_was_cut_off_is_refused(memory: GuestMemory, tmp_path: Path) -> None:
    elf = bytearray(elf_with_symbols(BASE, CODE, {}, EM_RISCV))
    elf[40:48] = bytes(8)  # e_shoff: no sections, which a cut file has not
    elf[58:64] = bytes(6)
    (tmp_path / "kernel").write_bytes(elf[: 64 + 56 + 100])

    with pytest.raises(ConfigError, match=f"kernel ends {len(CODE) - 100} bytes short of its segment at 0x80000000"):
        load_elf(memory, tmp_path / "kernel", machine="EM_RISCV")


def test_a_raw_file_is_the_same_in_ram(memory: GuestMemory, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(CODE)

    load_raw(memory, read_file(tmp_path / "kernel", "kernel"), BASE + 3, "kernel")

    assert memory.read(BASE + 2, len(CODE) + 2) == b"\xa5" + CODE + b"\xa5"


def test_a_kernel_may_come_through_a_pipe_and_may_be_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(CODE))
    writer.start()
    assert read_file(tmp_path / "pipe", "kernel") == CODE
    writer.join()

    (tmp_path / "empty").touch()
    assert read_file(tmp_path / "empty", "kernel") == b""


def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^initrd .*/none: No such file or directory$"):
        read_file(tmp_path / "none", "initrd")
