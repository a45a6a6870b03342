"""The tiny guest's commands, judged on QEMU's virt machine: what is right there is what our boards have to do."""

from __future__ import annotations

import re
import select
import shutil
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import bundled
from images.journal import SECTOR, read_journal

QEMU = "qemu-system-riscv64"
BOARD = ["-M", "virt", "-display", "none", "-monitor", "none", "-serial", "stdio", "-global", "virtio-mmio.force-legacy=false"]
PATIENCE = 30.0  # seconds a command may take on a loaded machine
PROMPT = "tiny> "

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


class Guest:
    """A tiny guest on QEMU and its serial console."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [QEMU, *BOARD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.seen = ""

    def send(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def until(self, text: str) -> str:
        """What the guest printed up to and without `text`."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self.process.stdout.read(4096) if ready else b""
            assert chunk, f"no {text!r} in what the guest printed: {self.seen!r}"
            self.seen += chunk.decode("ascii", "replace").replace("\r", "")
        before, self.seen = self.seen.split(text, 1)
        return before

    def run(self, command: str) -> list[str]:
        """The lines a command prints."""
        self.send(command + "\r")
        self.until(command + "\n")
        return self.until(PROMPT).splitlines()

    def info(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.run("info"))


def boot(memory: str, *arguments: str) -> Iterator[Guest]:
    with bundled("riscv64-tiny").kernel() as kernel:
        guest = Guest(["-m", memory, "-kernel", str(kernel), *arguments])
        try:
            guest.until("emu tiny guest riscv64\n" + PROMPT)
            yield guest
        finally:
            guest.process.kill()
            guest.process.communicate()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("share")


@pytest.fixture(scope="module")
def guest(disk: Path, share: Path) -> Iterator[Guest]:
    drive = ["-drive", f"file={disk},format=raw,if=none,id=d", "-device", "virtio-blk-device,drive=d,serial=emu0"]
    shared = ["-fsdev", f"local,id=s,path={share},security_model=none", "-device", "virtio-9p-device,fsdev=s,mount_tag=host0"]
    yield from boot("64", *drive, "-device", "virtio-rng-device", *shared, "-append", "two words")


@pytest.fixture
def bare_guest() -> Iterator[Guest]:
    yield from boot("16")


def test_info_tells_the_machine(guest: Guest) -> None:
    info = guest.info()

    assert (info["isa"], info["boots"], info["timer_hz"], info["ram_bytes"]) == ("riscv64", "1", "10000000", str(64 << 20))
    assert (info["uart"], info["uart_irq"], info["bootargs"]) == ("0x10000000", "10", "two words")
    assert (info["blk_sectors"], info["blk_flush"], info["blk_serial"]) == ("2048", "1", "emu0")
    assert (info["virtio5"], info["virtio6"], info["virtio7"]) == (
        "0x10006000 id 9 irq 6",
        "0x10007000 id 4 irq 7",
        "0x10008000 id 2 irq 8",
    )


def test_tick_prints_one_line_for_each_timer_interrupt(guest: Guest) -> None:
    before = guest.run("irq")[0]

    assert guest.run("tick 12") == [f"tick {number}" for number in range(1, 13)]
    # One more may come between the last line and the end of the ticking.
    assert int(guest.run("irq")[0].removeprefix("timer=")) - int(before.removeprefix("timer=")) in (12, 13)


def test_mem_check_accepts_the_seed_that_filled_and_no_other(guest: Guest) -> None:
    assert guest.run("mem fill 7 2") == ["mem filled 2097152 seed 7"]
    assert guest.run("mem check 7 2") == ["mem ok 2097152"]
    (line,) = guest.run("mem check 8 2")
    assert re.fullmatch(r"mem BAD at 0x[0-9a-f]+ want 0x[0-9a-f]{16} got 0x65b7a8eda2fb02b4", line)


def test_mem_fill_takes_all_free_ram_unless_told(guest: Guest) -> None:
    free = guest.info()["mem_bytes"]

    assert guest.run("mem fill 0") == [f"mem filled {free} seed 0"]
    assert guest.run("mem check 0x0") == [f"mem ok {free}"]
    assert guest.run("mem fill 0 64") == ["error: mem: not that much free memory"]


def test_mem_churn_ends_with_the_contents_of_its_last_pass(guest: Guest) -> None:
    *_, done, verdict = guest.run("mem churn 40 1 1")
    passes = int(done.removeprefix("mem churn done "))

    assert (passes > 0, verdict) == (True, "mem ok 1048576")
    assert guest.run(f"mem check {40 + passes} 1") == ["mem ok 1048576"]


def test_blk_write_reaches_the_disk_and_reads_back(guest: Guest, disk: Path) -> None:
    written = guest.run("blk write 2047 9")
    stored = disk.read_bytes()[-SECTOR:]

    assert written == [f"blk sector 2047 crc32 {zlib.crc32(stored):08x} head {stored[:16].hex()}"]
    assert guest.run("blk read 2047") == written
    assert any(stored)


def test_blk_sector_past_the_end_is_an_error_and_the_disk_goes_on(guest: Guest) -> None:
    assert guest.run("blk read 2048") == ["error: blk: input/output error"]
    assert guest.run("blk read 1")[0].startswith("blk sector 1 crc32 b2aa7578 ")


def test_journal_appends_after_what_is_on_the_disk(guest: Guest, disk: Path) -> None:
    guest.run("blk journal 0 1")

    first = guest.run("blk journal 70")
    second = guest.run("blk journal 2")

    assert first == ["journal found 0", *(f"journal {number}" for number in range(1, 71)), "journal done 70"]
    assert second == ["journal found 70", "journal 71", "journal 72", "journal done 72"]
    report = read_journal(disk)
    assert (report.records, report.intact) == (72, True)
    assert list(report.time_ns) == sorted(report.time_ns)


def test_journal_with_start_is_cut_back_first(guest: Guest, disk: Path) -> None:
    guest.run("blk journal 6 1")

    lines = guest.run("blk journal 1 3")

    assert lines == ["journal found 6", "journal 3", "journal done 3"]
    assert str(read_journal(disk)) == "3 records, intact"
    assert guest.run("blk journal 1 5") == ["journal found 3", "error: blk: journal ends before START"]


def test_rand_gives_sixteen_bytes_that_change(guest: Guest) -> None:
    (first,), (second,) = guest.run("rand"), guest.run("rand")

    assert re.fullmatch("rand [0-9a-f]{32}", first)
    assert first != second


def test_9p_works_on_the_hosts_directory(guest: Guest, share: Path) -> None:
    (share / "dir").mkdir()

    assert guest.run("9p put dir/file hello") == ["9p put 5 bytes"]
    assert (share / "dir/file").read_text() == "hello"
    assert guest.run("9p cat dir/file") == ["hello", f"9p cat 5 bytes crc32 {zlib.crc32(b'hello'):08x}"]
    assert guest.run("9p ls dir") == ["- file"]
    assert guest.run("9p stat dir/file")[0].startswith("9p - mode 0644 uid ")
    assert guest.run("9p rm dir") == ["error: 9p: directory not empty"]
    assert guest.run("9p rm dir/file") == guest.run("9p rm dir") == ["9p removed"]
    assert guest.run("9p cat dir/file") == ["error: 9p: no such file or directory"]
    assert guest.run("9p umount") == []
    assert list(share.iterdir()) == []


def test_sleep_takes_the_time_asked_for(guest: Guest) -> None:
    (line,) = guest.run("sleep 50")

    assert 50 <= int(line.split()[1]) < 5000


def test_irq_counts_every_source(guest: Guest) -> None:
    guest.run("blk read 0")
    guest.run("rand")

    counts = {source: int(count) for source, count in (line.split("=") for line in guest.run("irq"))}

    assert list(counts) == ["timer", "uart", "virtio-blk", "virtio-rng", "virtio-9p", "spurious"]
    assert min(counts["uart"], counts["virtio-blk"], counts["virtio-rng"]) > 0


def test_help_names_every_command(guest: Guest) -> None:
    names = {line.split()[0] for line in guest.run("help")}

    assert names == {"help", "info", "tick", "mem", "blk", "9p", "rand", "sleep", "irq", "off", "reboot"}


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "tick",
        "tick x",
        "tick 18446744073709551616",
        "mem fill",
        "mem eat 1",
        "blk read",
        "blk read 1 2",
        "sleep 0x",
        "irq 1",
        "9p",
        "9p cat",
        "9p put name",
        "9p umount now",
    ],
)
def test_bad_command_is_answered_by_the_way_to_help(guest: Guest, line: str) -> None:
    assert guest.run(line) == ["? help"]


def test_line_is_edited_by_backspace_and_control_u(guest: Guest) -> None:
    guest.send("nonsense\x15sleeq\x7fp 0\r")

    assert guest.until(PROMPT).endswith("p 0\nslept 0 ms\n")


def test_control_c_stops_a_command(guest: Guest) -> None:
    guest.send("tick 1000000\r")
    guest.until("tick 3\n")

    guest.send("\x03")

    assert len(guest.until(PROMPT)) < 100_000


def test_input_longer_than_the_guest_can_hold_is_not_lost(guest: Guest) -> None:
    guest.send("sleep 300\r" + "sleep 0\r" * 100)

    lines = "".join(guest.until(PROMPT) for _ in range(101))

    assert len(re.findall(r"^slept \d+ ms$", lines, re.MULTILINE)) == 101  # on a busy host sleeping 0 ms takes 1 at times


def test_reboot_is_counted_in_ram(bare_guest: Guest) -> None:
    bare_guest.send("reboot\r")
    bare_guest.until("emu tiny guest riscv64\n" + PROMPT)

    assert bare_guest.info()["boots"] == "2"


def test_least_ram_and_no_devices_is_enough(bare_guest: Guest) -> None:
    info = bare_guest.info()

    assert (info["ram_bytes"], info["blk"], info["rng"], info["p9"]) == (str(16 << 20), "none", "none", "none")
    assert bare_guest.run("blk journal 1") == ["error: blk: no virtio-blk device"]
    assert bare_guest.run("rand") == ["error: rand: no virtio-rng device"]
    assert bare_guest.run("9p ls") == bare_guest.run("9p umount") == ["error: 9p: no virtio-9p device"]


def test_off_ends_the_machine_with_code_zero(bare_guest: Guest) -> None:
    bare_guest.send("off\r")

    assert bare_guest.process.wait(PATIENCE) == 0
