"""Debian's riscv64 kernel mounts a directory of the host and works in it; both sides see the same, and who may move when."""

from __future__ import annotations

import os
import random
import stat
import tarfile
from pathlib import Path

import pytest

from emu.monitor.client import QmpCallError
from images.linux import LinuxImage
from tests.live import test_linux
from tests.live.linux import LinuxGuest
from tests.live.test_journeys import SEED
from tests.live.test_linux import TIMEOUT, StartLinux, md5sum

# i386's older busybox has no getfattr, and armhf's driver is arm64's.
ARCHITECTURES = ("riscv64", "arm64", "amd64")
pytestmark = [pytest.mark.linux, pytest.mark.timeout(TIMEOUT), pytest.mark.parametrize("image", ARCHITECTURES, indirect=True)]
image, start = test_linux.image, test_linux.start

FILES = 60
MANY_FILES = 2000
CACHES = {"riscv64": "none", "arm64": "mmap", "amd64": "loose"}  # each once; test_share_posix.py has all of them on each
PROCESSES = 20
LONG = 300  # seconds for a shell line that handles thousands of files, on a busy host
MOUNT = "mount -t 9p -o trans=virtio,version=9p2000.L"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    return share


def blocked(share: Path, tag: str = "host0") -> str:
    """QEMU's words."""
    return f"Migration is disabled when VirtFS export path '{share}' is mounted in the guest using mount_tag '{tag}'"


def make_tree(folder: Path) -> None:
    """A small tree with files of all sizes, a symbolic link and a hard link."""
    chance = random.Random(SEED)
    for number in range(FILES):
        path = folder / f"d{number % 7}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.choice((0, 1, 511, 4096, 70_000, 600_000))))
    (folder / "d0/link").symlink_to("../d1")
    (folder / "hard").hardlink_to(folder / "d2/file 2")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's content by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mounted(start: StartLinux, share: Path, options: str = "", *, cache: str = "none") -> LinuxGuest:
    guest = start("guest", "--share", f"{share}{options}").boot()
    guest.run(f"{MOUNT},cache={cache} host0 /mnt")
    return guest


def test_a_tree_is_unpacked_and_is_the_same_on_both_sides(start: StartLinux, share: Path, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    with tarfile.open(share / "tree.tar", "w") as tar:
        tar.add(tmp_path / "tree", "tree")
    guest = mounted(start, share)

    guest.run("cd /mnt && tar xf tree.tar && cd /")
    sums = guest.run("cd /mnt/tree && find . -type f | sort | while read -r f; do md5sum <$f; done; cd /".replace("$f", '"$f"'))

    found = contents(share / "tree")
    assert found == contents(tmp_path / "tree")
    assert sorted(sums.splitlines()) == sorted(
        md5sum(path.read_bytes()) for path in (share / "tree").rglob("*") if is_file(path)
    )
    assert (share / "tree/d0/link").readlink() == Path("../d1")
    assert (share / "tree/hard").samefile(share / "tree/d2/file 2")
    guest.run("rm -r /mnt/tree && umount /mnt")
    assert [path.name for path in share.iterdir()] == ["tree.tar"]
    assert guest.power_off() == 0


def test_two_thousand_files_are_unpacked_as_they_were_packed(
    start: StartLinux, image: LinuxImage, share: Path, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    expected = {f"{number % 40}/{number}": chance.randbytes(chance.randrange(3000)) for number in range(MANY_FILES)}
    with tarfile.open(share / "tree.tar", "w") as tar:
        for name, content in expected.items():
            (tmp_path / "file").write_bytes(content)
            tar.add(tmp_path / "file", f"tree/{name}")
    guest = mounted(start, share, cache=CACHES[image.arch])

    guest.run("cd /mnt && tar xf tree.tar", LONG)
    sums = guest.run("cd tree && find . -type f -exec md5sum {} + | sort | md5sum; cd /", LONG)

    guest.run("umount /mnt", LONG)
    assert contents(share / "tree") == expected
    lines = sorted(f"{md5sum(content).removesuffix('-')}./{name}\n" for name, content in expected.items())
    assert sums == md5sum("".join(lines).encode())
    assert guest.power_off() == 0


def test_many_processes_work_at_once(start: StartLinux, image: LinuxImage, share: Path) -> None:
    guest = mounted(start, share, cache=CACHES[image.arch])
    work = "seq $i 999 >own$i && sort -n own$i | cmp - own$i && mkdir dir$i && mv own$i dir$i && echo $i >>log"

    guest.run(f"cd /mnt; for i in $(seq {PROCESSES}); do {{ {work}; }} & done; wait; cd /; umount /mnt", LONG)

    names = range(1, PROCESSES + 1)
    written = {f"dir{name}/own{name}": "".join(f"{line}\n" for line in range(name, 1000)).encode() for name in names}
    found = contents(share)
    assert sorted(found.pop("log").split(), key=int) == [str(name).encode() for name in names]
    assert found == written
    assert guest.power_off() == 0


def is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def test_names_modes_and_sizes_change_on_the_host(start: StartLinux, share: Path) -> None:
    guest = mounted(start, share)

    guest.run("cd /mnt && mkdir a && echo hello >a/file && mv a b && ln b/file hard && ln -s b/file soft && cat soft")
    guest.run("chmod 4751 b/file && truncate -s 3 hard && touch -d '2001-02-03 04:05:06' b && mkfifo pipe")
    refusal = guest.run("mknod null c 1 3 2>&1 || cd /")

    assert refusal == "mknod: null: Operation not permitted"
    host = (share / "b/file").stat()
    assert (stat.S_IMODE(host.st_mode), host.st_size, host.st_nlink) == (0o4751, 3, 2)
    assert (share / "soft").readlink() == Path("b/file")
    assert (share / "b").stat().st_mtime == 981173106  # 2001-02-03 04:05:06 UTC
    assert (share / "pipe").is_fifo()
    os.setxattr(share / "hard", "user.note", b"from the host")
    (share / "from-host").write_text("host\n")
    assert guest.run("cat /mnt/from-host; ls -1 /mnt") == "host\nb\nfrom-host\nhard\npipe\nsoft"
    assert 'user.note="from the host"' in guest.run("getfattr -n user.note /mnt/hard")  # busybox cannot set one
    guest.run("umount /mnt")
    assert guest.power_off() == 0


def test_mapped_gives_a_guest_its_own_devices_and_owners(start: StartLinux, share: Path) -> None:
    guest = mounted(start, share, ",security=mapped")

    guest.run(
        "cd /mnt && mknod null c 1 3 && echo lost >null && ln -s null link && touch file && chown 5:6 file && chmod 4755 file"
    )
    shown = guest.run("stat -c '%n %F %a %u:%g' null link file; cd /")

    assert shown.splitlines() == [
        "null character special file 644 0:0",
        "link symbolic link 777 0:0",
        "file regular empty file 4755 5:6",
    ]
    assert {stat.filemode(path.lstat().st_mode) for path in share.iterdir()} == {"-rw-------"}
    guest.run("umount /mnt")
    assert guest.power_off() == 0


def test_a_read_only_share_stays_as_it_is(start: StartLinux, share: Path) -> None:
    (share / "file").write_text("host\n")
    guest = mounted(start, share, ",readonly")

    assert guest.run("cat /mnt/file") == "host"
    assert "Read-only file system" in guest.run("(echo x >/mnt/file; touch /mnt/new; rm -f /mnt/file) 2>&1; true")

    assert contents(share) == {"file": b"host\n"}
    guest.run("umount /mnt")
    assert guest.power_off() == 0


def test_a_mounted_share_forbids_saving_and_moving_until_it_is_unmounted(start: StartLinux, share: Path) -> None:
    guest = mounted(start, share)
    there = start("there", "--share", str(share), "--incoming", "defer")
    guest.run("echo here >/mnt/file")

    with pytest.raises(QmpCallError) as refusal:
        guest.qmp("migrate", uri="tcp:127.0.0.1:1")
    assert str(refusal.value) == f"the guest cannot be migrated: {blocked(share)}"
    assert blocked(share) in guest.monitor("savevm one")
    assert guest.migration == {"blocked-reasons": [blocked(share)]}

    guest.run("umount /mnt")
    assert guest.migration == {}
    assert guest.monitor("savevm one") == ""
    guest.move(there, "unix")
    assert there.run(f"{MOUNT} host0 /mnt && cat /mnt/file") == "here"
    assert there.migration["blocked-reasons"] == [blocked(share)]
    there.run("umount /mnt")
    assert there.power_off() == 0


def test_a_reset_unmounts(start: StartLinux, share: Path) -> None:
    guest = mounted(start, share)

    guest.qmp("system_reset")
    guest.console.expect("BOOT-OK", TIMEOUT)

    assert guest.migration == {}


def test_only_migratable_starts_without_shares_only(start: StartLinux, share: Path) -> None:
    guest = start("guest", "--share", str(share), "--only-migratable")

    assert guest.wait_exit() == 1
    assert guest.errors == "emu: error: --only-migratable: share 'host0' would forbid moving once the guest mounts it\n"


def test_another_share_is_another_machine(start: StartLinux, share: Path) -> None:
    here = start("here", "--share", str(share)).boot()
    there = start("there", "--share", f"{share},readonly", "--incoming", "defer")
    there.qmp("migrate-incoming", uri=f"unix:{there.folder / 'in'}")

    answer = here.migrate(f"unix:{there.folder / 'in'}")

    assert answer["status"] == "failed"
    assert "shares.host0.readonly" in str(answer["error-desc"])
    assert here.power_off() == 0
