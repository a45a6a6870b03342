"""Debian's kernels keep working on a migratable share while they are moved, saved and restored; what is not there is noticed.

`pytest -m linux -rP tests/live/test_share_moves.py` prints what was measured.
"""

from __future__ import annotations

import random
import tarfile
from itertools import cycle
from pathlib import Path

import pytest

from emu.monitor.client import QmpCallError
from images.linux import LinuxImage
from migration.protocols import Step
from tests.emu.elf import EM_AARCH64, EM_RISCV, EM_X86_64, elf_with_symbols
from tests.live import test_linux, test_share
from tests.live.linux import SHELL, LinuxGuest
from tests.live.machines import WAIT, Teller, wait_for
from tests.live.test_journeys import SEED
from tests.live.test_linux import TIMEOUT, StartLinux
from tests.live.test_share import MOUNT, contents, make_tree

image, start, share = test_linux.image, test_linux.start, test_share.share

OPEN = 200  # files
NAMES = 300  # in the directory that is read all the while
LONG = 120  # seconds for a shell line that starts or ends hundreds of processes

# flock(0, LOCK_EX | LOCK_NB) and exit(whether that failed), as Debian's busybox has no applet for it.
LOCKERS = {
    "riscv64": (EM_RISCV, "13050000 93056000 93080002 73000000 3335a000 9308d005 73000000"),
    "arm64": (EM_AARCH64, "000080d2 c10080d2 080480d2 010000d4 1f0000f1 e0079f9a a80b80d2 010000d4"),
    "amd64": (EM_X86_64, "31ff be06000000 b849000000 0f05 31ff 85c0 400f95c7 b83c000000 0f05"),
}
pytestmark = [pytest.mark.linux, pytest.mark.timeout(TIMEOUT), pytest.mark.parametrize("image", LOCKERS, indirect=True)]

CODE = 0x10078  # address; congruent to its place in the file, as Linux wants it

# Each reader has read a line, and goes on with the rest when it is told to.
READERS = (
    f"mkfifo /tmp/go; for i in $(seq {OPEN}); do "
    "{ read -r line; echo $line; read -r _ </tmp/go; cat; } <files/$i >/tmp/read$i & done"
)
LOCK = "cp locker /tmp && exec 9<>lock && /tmp/locker <&9"
UNLOCK = "exec 9<&-"
LOCKED = "/tmp/locker <lock || echo locked"
LIST, ARCHIVE = "ls many | md5sum", "tar cf - -C tree . | md5sum"
LISTS = f"while [ ! -e /tmp/stop ]; do {LIST} >>/tmp/lists; done &"
TARS = (
    "while [ ! -e /tmp/stop ]; do rm -rf out; mkdir out; tar xf tree.tar -C out || echo failed >>/tmp/sums; "
    f"{ARCHIVE} >>/tmp/sums; done &"
)
SUM = "sort -u {} | wc -l; grep -c . {}"


def fill(share: Path, arch: str) -> None:
    """A tree and its archive, files for the readers, a directory of many names, a program that takes a lock."""
    make_tree(share / "tree")
    with tarfile.open(share / "tree.tar", "w") as tar:
        tar.add(share / "tree", "tree")
    (share / "files").mkdir()
    for number in range(1, OPEN + 1):
        (share / "files" / str(number)).write_text(f"first {number}\n" + f"rest of {number}\n" * 1000)
    (share / "many").mkdir()
    for number in range(NAMES):
        (share / "many" / f"name {number}").touch()
    (share / "lock").touch()
    machine, code = LOCKERS[arch]
    (share / "locker").write_bytes(elf_with_symbols(CODE, bytes.fromhex(code), {}, machine))
    (share / "locker").chmod(0o755)


def start_work(guest: LinuxGuest, mount: str) -> None:
    """Everything at once, all of it on the share."""
    guest.run(f"{mount} host0 /mnt && cd /mnt")
    guest.run(READERS, LONG)
    guest.run(f"{LIST} >/tmp/lists; {ARCHIVE} >/tmp/sums")  # what the others are to be like
    guest.run(LISTS)
    guest.run(TARS)
    guest.run(LOCK)
    guest.run(f"while [ $(cat /tmp/read* | wc -l) -lt {OPEN} ]; do sleep 1; done", LONG)


def finish_work(guest: LinuxGuest, share: Path) -> None:
    """Let all come to their end, and see that nothing was lost on the way."""
    assert guest.run(LOCKED) == "locked"
    guest.run(UNLOCK)
    assert guest.run(LOCKED) == ""
    guest.run("touch /tmp/stop; echo >/tmp/go; wait", LONG)
    for i in (1, OPEN // 2, OPEN):
        assert guest.run(f"md5sum </tmp/read{i}") == guest.run(f"md5sum <files/{i}")
    assert guest.run(f"for i in $(seq {OPEN}); do cmp /tmp/read$i files/$i; done", LONG) == ""
    kinds, lists = guest.run(SUM.format(*["/tmp/lists"] * 2)).split()
    assert (kinds, int(lists) > 1) == ("1", True)
    kinds, tars = guest.run(SUM.format(*["/tmp/sums"] * 2)).split()
    assert (kinds, int(tars) > 1) == ("1", True)
    print(f"{lists} lists, {tars} archives")
    guest.run("cd / && umount /mnt")
    assert contents(share / "out/tree") == contents(share / "tree")
    assert guest.power_off() == 0


def travel(start: StartLinux, share: Path, arch: str, mount: str, *, moves: int) -> None:
    """Move a guest at work `moves` times, over unix and tcp in turn."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    fill(share, arch)
    options = ("--share", f"{share},migratable")
    here = start("m0", *options, "--only-migratable").boot()
    start_work(here, mount)
    for move, scheme in zip(range(1, moves + 1), cycle(("unix", "tcp"))):
        there = start(f"m{move}", *options, "--incoming", "defer")
        assert here.run(f"sleep 0.{chance.randrange(10)}; {LOCKED}") == "locked"
        answer = here.move(there, scheme)
        print(f"move {move:3} {scheme:4}: total {answer['total-time']} ms, downtime {answer['downtime']} ms")
        here.close()
        here = there
    finish_work(here, share)


@pytest.mark.parametrize("cache", ["none", "loose"])
def test_open_files_directories_locks_and_archives_move(start: StartLinux, image: LinuxImage, share: Path, cache: str) -> None:
    travel(start, share, image.arch, f"{MOUNT},cache={cache}", moves=4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_guest_at_work_on_a_share_moves_fifty_times(start: StartLinux, image: LinuxImage, share: Path) -> None:
    travel(start, share, image.arch, f"{MOUNT},cache=none", moves=50)


# What is not there, or not the same. Descriptors 7 and 8 of the shell are `file` and `other`, a line of each read.
TWO_FILES = "exec 7<file 8<other && read -r a <&7 && read -r b <&8"
READ = "read -r line <&{}; echo $line"


def with_two_files(start: StartLinux, share: Path, *options: str) -> LinuxGuest:
    for name in ("file", "other"):
        (share / name).write_text("".join(f"{name} {number}\n" for number in range(1, 1000)))
    guest = start("here", *options).boot()
    guest.run(f"{MOUNT} host0 /mnt && cd /mnt && {TWO_FILES}")
    return guest


def replace(path: Path) -> None:
    """As an editor does."""
    new = path.with_name("new")
    new.write_text("another file\n")
    new.rename(path)


def move_while_the_file_is_replaced(here: LinuxGuest, start: StartLinux, share: Path, *options: str) -> dict[str, object]:
    """The destination stands still when it has the state, and has opened nothing yet; the outcome."""
    teller = Teller(share.parent / "teller")
    fault = (Step.STATE_HEARD, f"tell:{teller.path}")
    there = start("there", *options, "--incoming", f"unix:{share.parent / 'in'}", fault=fault)
    wait_for((share.parent / "in").exists, "the destination listens")
    here.qmp("migrate", uri=f"unix:{share.parent / 'in'}")
    teller.wait()
    replace(share / "file")
    teller.go_on()
    return {**here.wait_migration(), "there": there}


def test_a_file_replaced_under_a_move_is_refused_and_the_guest_runs_on(start: StartLinux, share: Path) -> None:
    options = ("--share", f"{share},migratable")
    here = with_two_files(start, share, *options)

    outcome = move_while_the_file_is_replaced(here, start, share, *options)

    assert outcome["status"] == "failed"
    assert "share 'host0' has other files than the guest knows: 'file' (another file)" in str(outcome["error-desc"])
    assert here.status == "running"
    assert here.run(READ.format(7)) == "file 2"  # the one that it has open still
    told = "Share 'host0' has files open that were deleted or replaced: 'file'; close them in the guest."
    assert here.migration["blocked-reasons"] == [told]
    here.run("exec 7<&-")
    there = start("again", *options, "--incoming", "defer")
    here.move(there, "unix")
    assert there.run(READ.format(8)) == "other 2"
    assert there.power_off() == 0


def test_a_file_replaced_under_a_move_alone_is_stale_where_that_is_allowed(start: StartLinux, share: Path) -> None:
    options = ("--share", f"{share},migratable,on-mismatch=stale")
    here = with_two_files(start, share, *options)

    outcome = move_while_the_file_is_replaced(here, start, share, *options)

    there = outcome["there"]
    assert isinstance(there, LinuxGuest)
    assert outcome["status"] == "completed"
    assert "Stale" in there.run("cat <&7 2>&1; true")
    assert there.run(READ.format(8)) == "other 2"
    there.run("exec 7<&- && echo 3 >/proc/sys/vm/drop_caches")
    assert there.run("cat file") == "another file"
    assert there.power_off() == 0


@pytest.mark.parametrize("step", [Step.STATE_COMMITTED, Step.DISKS_TAKEN], ids=lambda step: step.value)
def test_a_destination_that_dies_leaves_the_guest_with_its_files(start: StartLinux, share: Path, step: Step) -> None:
    options = ("--share", f"{share},migratable")
    here = with_two_files(start, share, *options)
    start("there", *options, "--incoming", f"unix:{share.parent / 'in'}", fault=(step, "kill"))
    wait_for((share.parent / "in").exists, "the destination listens")

    outcome = here.migrate(f"unix:{share.parent / 'in'}")

    assert outcome["status"] == "failed"
    assert here.run(READ.format(7)) == "file 2"
    here.run("echo more >>other")
    assert (share / "other").read_text().endswith("more\n")
    again = start("again", *options, "--incoming", "defer")
    here.move(again, "tcp")
    assert again.run(READ.format(7)) == "file 3"
    assert again.power_off() == 0


def test_a_deleted_file_that_is_open_is_refused_by_name_while_the_guest_runs(start: StartLinux, share: Path) -> None:
    here = with_two_files(start, share, "--share", f"{share},migratable")
    told = "Share 'host0' has files open that were deleted or replaced: 'file'; close them in the guest."
    here.run("rm file")

    with pytest.raises(QmpCallError) as refusal:
        here.qmp("migrate", uri="tcp:127.0.0.1:1")
    assert str(refusal.value) == f"the guest cannot be migrated: {told}"
    assert told in here.monitor("savevm one")
    assert told in here.monitor("info migrate")

    assert here.run(READ.format(7)) == "file 2"
    here.run("exec 7<&-")
    assert here.migration == {}
    assert here.power_off() == 0


def test_a_snapshot_has_what_was_open_and_refuses_what_is_not_the_same(start: StartLinux, share: Path) -> None:
    options = ("--share", f"{share},migratable")
    here = with_two_files(start, share, *options)
    assert here.monitor("savevm one") == ""
    assert here.run(READ.format(7)) == "file 2"

    assert here.monitor("loadvm one") == ""
    assert here.run(READ.format(7)) == "file 2"
    here.close()
    replace(share / "file")
    refused = start("refused", *options, "--loadvm", "one")
    assert refused.wait_exit() == 1
    assert refused.errors == "emu: error: share 'host0' has other files than the guest knows: 'file' (another file)\n"

    stale = start("stale", "--share", f"{share},migratable,on-mismatch=stale", "--loadvm", "one")
    stale.console.send_line("")
    stale.console.expect(SHELL, WAIT)
    assert "Stale" in stale.run("cat <&7 2>&1; true")
    assert stale.run(READ.format(8)) == "other 2"
    assert stale.power_off() == 0
