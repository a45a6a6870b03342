"""RAM is a mapping that costs what was touched, can become a file's content, and never dangles."""

import os
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest

from emu.errors import ConfigError, EmuError
from emu.ram import PAGE, Ram

BASE = 0x8000_0000
PAGES = 64
SIZE = PAGES * PAGE


@pytest.fixture
def ram() -> Ram:
    return Ram("ram", BASE, SIZE)


@pytest.fixture
def file() -> Iterator[int]:
    """A file of one page of 0x11 and then as many pages of 0x22 as RAM has."""
    with tempfile.TemporaryFile() as opened:
        opened.write(b"\x11" * PAGE + b"\x22" * SIZE)
        opened.flush()
        yield opened.fileno()


@pytest.mark.parametrize("size", [0, -PAGE, PAGE - 1, PAGE + 1, 1 << 60])
def test_size_not_a_positive_multiple_of_the_page_in_bounds_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"RAM ram of {size} bytes"):
        Ram("ram", BASE, size)


def test_fresh_ram_is_zero_and_holds_nothing(ram: Ram) -> None:
    assert not ram.words.any()
    assert ram.view == bytes(SIZE)
    assert Ram("other", BASE, SIZE).present().tolist() == []


def test_view_and_words_are_the_same_memory(ram: Ram) -> None:
    ram.view[PAGE : PAGE + 8] = (0x1122334455667788).to_bytes(8, "little")
    assert ram.words[1, 0] == 0x1122334455667788
    ram.words[PAGES - 1, 511] = 1
    assert ram.view[SIZE - 8] == 1
    assert (ram.view.format, ram.view.nbytes, ram.view.readonly, ram.words.shape) == ("B", SIZE, False, (PAGES, 512))


def test_present_names_the_written_pages_and_not_those_only_read(ram: Ram) -> None:
    ram.view[3 * PAGE] = 1
    ram.view[4 * PAGE] = 1
    ram.view[9 * PAGE + 5] = 1
    assert ram.view[20 * PAGE] == 0
    assert ram.present().tolist() == [[3, 2], [9, 1]]


def test_ram_costs_what_was_touched() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:  # noqa: PTH123 - a proc file, read twice in a row
            return int(statm.read().split()[1]) * PAGE

    before = resident()
    big = Ram("big", BASE, 1 << 30)
    big.view[: 1 << 20] = bytes(1 << 20)
    assert resident() - before < 8 << 20


def test_mapped_file_is_the_content_and_is_never_written(ram: Ram, file: int) -> None:
    ram.view[0] = 0x33
    ram.map_file(file, PAGE)
    assert ram.view == b"\x22" * SIZE
    ram.view[0] = 0x44
    assert os.pread(file, 1, PAGE) == b"\x22"
    assert ram.view[0] == 0x44


def test_mapped_file_is_all_present(ram: Ram, file: int) -> None:
    ram.map_file(file, 0)
    assert ram.present().tolist() == [[0, PAGES]]


@pytest.mark.parametrize("offset", [1, PAGE - 1, -PAGE])
def test_file_offset_off_the_page_is_refused(ram: Ram, file: int, offset: int) -> None:
    with pytest.raises(EmuError, match=f"offset {offset}"):
        ram.map_file(file, offset)


def test_file_that_ends_too_early_is_refused_and_ram_stays(ram: Ram, file: int) -> None:
    ram.view[0] = 0x33
    with pytest.raises(EmuError, match=f"needs {SIZE} bytes at file offset {2 * PAGE}, the file ends at {SIZE + PAGE}"):
        ram.map_file(file, 2 * PAGE)
    assert ram.view[0] == 0x33


def test_discard_makes_all_pages_zero_and_absent(ram: Ram, file: int) -> None:
    ram.map_file(file, 0)
    ram.view[0] = 1
    ram.discard()
    assert ram.present().tolist() == []
    assert not ram.words.any()


def test_a_view_outlives_close(ram: Ram) -> None:
    ram.view[0] = 7
    view = ram.view[0:PAGE]
    words: np.ndarray[tuple[int, int], np.dtype[np.uint64]] = ram.words
    ram.close()
    assert (view[0], words[0, 0]) == (7, 7)
