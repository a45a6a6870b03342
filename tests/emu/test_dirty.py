"""Both dirty logs keep one promise: a page that changes is in the next collect."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emu.dirty import CompareDirtyLog, DirtyLog, UffdDirtyLog, open_dirty_log
from emu.engine.core import Engine
from emu.engine.registers import registers
from emu.errors import EmuError
from emu.ram import PAGE, Ram

PAGES = 8192  # 32 MiB: several of the compare log's steps
NOBODY = 65534

Make = Callable[[Ram], DirtyLog]


def kernel_can_watch() -> bool:
    return isinstance(open_dirty_log(Ram("probe", 0, PAGE)), UffdDirtyLog)


needs_uffd = pytest.mark.skipif(not kernel_can_watch(), reason="this kernel has no asynchronous userfaultfd (Linux 6.7)")


@pytest.fixture
def ram() -> Ram:
    return Ram("ram", 0x8000_0000, PAGES * PAGE)


def copy_runs(log: DirtyLog, runs: NDArray[np.int64], copy: NDArray[np.uint64]) -> None:
    for first, count in runs.tolist():
        copy[first : first + count] = log.words[first : first + count]


@pytest.mark.parametrize("make", [pytest.param(UffdDirtyLog, marks=needs_uffd), CompareDirtyLog])
class TestDirtyLog:
    @pytest.fixture
    def log(self, make: Make, ram: Ram) -> Iterator[DirtyLog]:
        ram.words[100:200] = 0xAB  # known before the log starts
        log = make(ram)
        log.start()
        yield log
        log.stop()

    def test_what_was_there_before_the_start_is_not_dirty(self, log: DirtyLog) -> None:
        assert log.collect().shape == (0, 2)

    def test_a_page_is_reported_once_for_all_writes_since_the_last_time(self, log: DirtyLog, ram: Ram) -> None:
        ram.words[5, 0] = 1
        ram.words[5, 511] = 2
        assert log.collect().tolist() == [[5, 1]]
        assert log.collect().tolist() == []
        ram.words[5, 0] = 3
        assert log.collect().tolist() == [[5, 1]]

    def test_neighbours_come_as_one_run_in_order(self, log: DirtyLog, ram: Ram) -> None:
        ram.words[PAGES - 1] = 1
        ram.words[150:153] = 1
        ram.words[0] = 1
        runs = log.collect()
        assert runs.dtype == np.int64
        assert runs.tolist() == [[0, 1], [150, 3], [PAGES - 1, 1]]

    def test_pages_never_touched_before_are_seen(self, log: DirtyLog, ram: Ram) -> None:
        ram.view[4000 * PAGE + 17] = 1
        assert log.collect().tolist() == [[4000, 1]]

    def test_every_page_dirty_is_every_page_reported(self, log: DirtyLog, ram: Ram) -> None:
        ram.words[:] = 1
        assert int(log.collect()[:, 1].sum()) == PAGES

    def test_every_other_page_dirty_is_every_other_page_reported(self, log: DirtyLog, ram: Ram) -> None:
        ram.words[::2] = 1
        runs = log.collect()
        assert (runs[:, 0].tolist(), set(runs[:, 1].tolist())) == (list(range(0, PAGES, 2)), {1})

    def test_host_reads_into_ram_are_seen(self, log: DirtyLog, ram: Ram) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"\x55" * 3 * PAGE)
            file.flush()
            os.preadv(file.fileno(), [ram.view[10 * PAGE : 12 * PAGE], ram.view[150 * PAGE : 151 * PAGE]], 0)
        assert log.collect().tolist() == [[10, 2], [150, 1]]

    def test_stores_of_the_guest_are_seen(self, log: DirtyLog, ram: Ram) -> None:
        engine = Engine("riscv64")
        engine.map_ram(ram.base, ram.address, ram.size)
        engine.write_register(registers("riscv64")["x5"], ram.base + 70 * PAGE - 4)
        engine.write_register(registers("riscv64")["x6"], (1 << 64) - 1)
        ram.view[:8] = bytes.fromhex("23b06200 73005010")  # sd x6, 0(x5), over the end of a page; wfi
        log.collect()
        engine.pc = ram.base
        engine.run()
        engine.close()
        assert log.collect().tolist() == [[69, 2]]

    def test_reading_a_page_does_not_make_it_dirty(self, log: DirtyLog, ram: Ram) -> None:
        assert int(ram.words.sum()) == 100 * 512 * 0xAB
        assert log.collect().tolist() == []

    def test_words_have_what_was_reported(self, log: DirtyLog, ram: Ram) -> None:
        ram.words[7] = 0x77
        log.collect()
        assert (log.words[7] == 0x77).all()

    def test_starting_again_begins_anew(self, log: DirtyLog, ram: Ram) -> None:
        ram.words[5] = 1
        log.start()
        assert log.collect().tolist() == []
        ram.words[6] = 1
        assert log.collect().tolist() == [[6, 1]]

    def test_a_mapped_file_is_watched_after_a_new_start(self, log: DirtyLog, ram: Ram) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"\x99" * ram.size)
            file.flush()
            ram.map_file(file.fileno(), 0)
        log.start()
        assert log.collect().tolist() == []
        ram.words[30, 0] = 1
        ram.view[31 * PAGE] = 1
        assert log.collect().tolist() == [[30, 2]]

    def test_ram_still_tells_absent_pages_while_it_is_watched(self, log: DirtyLog, ram: Ram) -> None:
        assert log.collect().tolist() == []
        assert ram.present().tolist() in ([[100, 100]], [[0, PAGES]])  # the latter where the host has swap space

    def test_stopping_twice_is_harmless(self, log: DirtyLog) -> None:
        log.stop()
        log.stop()
        with pytest.raises(RuntimeError, match="not started"):
            log.collect()

    def test_a_word_set_and_cleared_while_its_page_is_copied_is_right_in_the_end(self, log: DirtyLog, ram: Ram) -> None:
        copy = ram.words.copy()
        ram.words[5, 0] = 1
        runs = log.collect()
        ram.words[5, 1] = 1  # a lock taken
        copy_runs(log, runs, copy)
        ram.words[5, 1] = 0  # and given back: the page is as it was at the collect
        copy_runs(log, log.collect(), copy)
        assert (copy == ram.words).all()

    def test_no_page_is_lost_while_a_writer_runs(self, log: DirtyLog, ram: Ram) -> None:
        copy = ram.words.copy()
        done = threading.Event()

        def write() -> None:
            random = np.random.default_rng(1)
            for _ in range(400):
                pages = random.integers(0, PAGES, 64)
                ram.words[pages, 4] += np.uint64(1)
                ram.words[pages, 3] = 1
                ram.words[pages, 3] = 0
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        rounds = 0
        while not done.is_set() or rounds == 0:
            copy_runs(log, log.collect(), copy)
            rounds += 1
        writer.join()
        copy_runs(log, log.collect(), copy)
        assert (copy == ram.words).all()


@needs_uffd
def test_userfaultfd_is_what_auto_finds(ram: Ram) -> None:
    assert isinstance(open_dirty_log(ram), UffdDirtyLog)
    assert isinstance(open_dirty_log(ram, "userfaultfd"), UffdDirtyLog)


def test_compare_can_be_asked_for(ram: Ram) -> None:
    assert isinstance(open_dirty_log(ram, "compare"), CompareDirtyLog)


@needs_uffd
def test_ram_that_cannot_be_watched_twice_is_compared_or_refused_with_the_reason(ram: Ram) -> None:
    first = open_dirty_log(ram, "userfaultfd")
    first.start()
    assert isinstance(open_dirty_log(ram), CompareDirtyLog)
    with pytest.raises(EmuError, match="RAM ram cannot be watched by userfaultfd: Device or resource busy"):
        open_dirty_log(ram, "userfaultfd")
    first.stop()


@needs_uffd
def test_collect_after_ram_was_mapped_anew_is_refused(ram: Ram) -> None:
    log = UffdDirtyLog(ram)
    log.start()
    ram.discard()
    with pytest.raises(EmuError, match="mapped anew"):
        log.collect()
    log.stop()


AS_NOBODY = f"""
import ctypes, os, sys
from emu.dirty import open_dirty_log
from emu.ram import Ram
file = os.memfd_create("source")
os.write(file, bytes(range(256)) * 16)
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as a program that this user started is, its own /proc files included
ram = Ram("ram", 0, 64 * 4096)
log = open_dirty_log(ram, sys.argv[1])
log.start()
ram.view[5 * 4096] = 1
os.preadv(file, [ram.view[9 * 4096 : 10 * 4096]], 0)
first = log.collect().tolist()
ram.view[6 * 4096] = 1
print(os.getuid(), first, log.collect().tolist(), log.words[5:7, 0].tolist())
"""


@pytest.mark.parametrize("kind", ["auto", "compare", pytest.param("userfaultfd", marks=needs_uffd)])
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user; everybody else's tests show it anyway")
def test_an_ordinary_user_can_watch_with_whichever_log_the_host_allows(kind: str, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", AS_NOBODY, kind]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{NOBODY} [[5, 1], [9, 1]] [[6, 1]] [1, 1]\n", "")
