"""Images on NBD exports: against Debian's servers, which know nothing of us, and one that shows what we ask it."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from emu.block.image import Image, open_image
from emu.block.nbd.export import NbdExport
from emu.block.nbd.wire import Command, Export
from emu.errors import ImageError, ImageErrorKind
from tests.emu.block.nbd.server import (
    ALL,
    FakeServer,
    chunk,
    is_listening,
    needs_nbdkit,
    needs_qemu_nbd,
    qemu_nbd,
    running,
    simple,
)
from tests.emu.block.qcow2.tools import CLEAN, SEED, Model, check, create, needs_qemu_img, qemu_img
from tests.live.machines import wait_for

Fake = Callable[..., FakeServer]

SIZE = 1 << 20


def opened(uri: str, format: str = "raw", *, active: bool = True, read_only: bool = False) -> Image:  # noqa: A002
    return open_image(uri, format, read_only=read_only, active=active)


@contextmanager
def refused(kind: ImageErrorKind, match: str) -> Iterator[None]:
    with pytest.raises(ImageError, match=match) as caught:
        yield
    assert caught.value.kind is kind
    assert "\n" not in str(caught.value)


def read(image: Image, offset: int, length: int) -> bytes:
    data = bytearray(length)
    image.readv(offset, [data])
    return bytes(data)


class NbdModel(Model):
    """A raw disk behind a server."""

    def __init__(self, uri: str, chance: random.Random) -> None:
        self.path = Path()
        self.chance = chance
        self.image = opened(uri)
        self.expected = bytearray(self.image.size)
        self.largest = 64 << 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens_at(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(kind: str, folder: Path, disk: Path) -> Iterator[str]:
    """`disk` at a server of this kind; yields the drive's path."""
    with ExitStack() as stack:
        if kind == "qemu-nbd, unix":
            yield stack.enter_context(qemu_nbd(disk, folder / "nbd"))
        elif kind == "qemu-nbd, tcp":
            port = free_port()
            command = ("qemu-nbd", "-b", "127.0.0.1", "-p", port, "-f", "raw", "-e", 4, "-t", "-x", "a/b", disk)
            stack.enter_context(running(command, lambda: listens_at(port)))
            yield f"nbd:127.0.0.1:{port}/a/b"
        else:
            policy = (
                "--filter=blocksize-policy",
                "blocksize-minimum=4096",
                "blocksize-maximum=16K",
                "blocksize-error-policy=error",
            )
            command = ("nbdkit", "-f", "-U", folder / "nbd", policy[0], "file", disk, *policy[1:])
            stack.enter_context(running(command, lambda: is_listening(folder / "nbd")))
            yield f"nbd+unix:///?socket={folder / 'nbd'}"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("qemu-nbd, unix", marks=needs_qemu_nbd),
        pytest.param("qemu-nbd, tcp", marks=needs_qemu_nbd),
        pytest.param("nbdkit, blocks of 4 to 16 KiB", marks=needs_nbdkit),
    ],
)
def test_a_disk_at_another_programs_server_holds_what_was_written(kind: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(SIZE))
    with served(kind, tmp_path, disk) as uri:
        model = NbdModel(uri, random.Random(SEED))
        for _ in range(150):
            model.step()
        model.image.close()
    assert disk.read_bytes() == model.expected


@pytest.mark.parametrize(
    "options",
    [{}, {"structured": False}, {"minimum": 512, "payload": 1024}, {"flags": Export.HAS_FLAGS}],
    ids=["all", "simple replies", "small blocks", "reads and writes alone"],
)
def test_a_disk_at_a_server_that_can_less_holds_what_was_written(options: dict[str, object], fake: Fake) -> None:
    server = fake(**options)
    model = NbdModel(server.uri, random.Random(SEED))
    for _ in range(150):
        model.step()
    model.image.close()
    assert server.disk == model.expected


@needs_qemu_img
@needs_qemu_nbd
def test_a_qcow2_image_at_a_server_is_sound_in_qemus_eyes(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk.qcow2", SIZE, "cluster_size=4k")
    with disk.open("r+b") as file:
        file.truncate(3 * SIZE)  # an export does not grow
    with qemu_nbd(disk, tmp_path / "nbd") as uri:
        model = NbdModel.__new__(NbdModel)
        model.chance, model.image, model.expected, model.largest = (
            random.Random(SEED),
            opened(uri, ""),
            bytearray(SIZE),
            16 << 10,
        )
        assert model.image.format == "qcow2"
        for _ in range(150):
            model.step()
        model.image.close()
    assert check(disk).corruptions == 0
    (tmp_path / "model").write_bytes(model.expected)
    qemu_img("compare", "-q", "-f", "raw", "-F", "qcow2", tmp_path / "model", disk)
    assert check(disk) == CLEAN


@needs_qemu_img
@needs_qemu_nbd
def test_a_qcow2_image_on_a_full_export_says_so(tmp_path: Path) -> None:
    disk = create(tmp_path / "disk.qcow2", SIZE)
    with qemu_nbd(disk, tmp_path / "nbd") as uri:
        image = opened(uri, "qcow2")
        with refused(ImageErrorKind.IO, "exports do not grow") as _:
            image.writev(0, [bytes(range(256)) * 256])
            image.writev(SIZE // 2, [bytes(range(256)) * 256])
            image.flush()


# Life cycle


def test_an_export_has_one_place_for_all_who_use_it(fake: Fake) -> None:
    server, other = fake(), fake()
    places = []
    for uri in (server.uri, server.uri, other.uri):
        image = opened(uri, active=False)
        places.append(image.place)
        image.close()

    assert places[0] == places[1] != places[2]


def test_an_inactive_export_is_read_and_never_written(fake: Fake) -> None:
    server = fake()
    server.disk[:4] = b"data"
    image = opened(server.uri, active=False)

    assert read(image, 0, 4) == b"data"
    with refused(ImageErrorKind.INACTIVE, "is inactive, refused to write 1 bytes at 0x0"):
        image.writev(0, [b"x"])
    with refused(ImageErrorKind.INACTIVE, "is inactive"):
        image.write_zeroes(0, 1, unmap=True)
    image.flush()
    image.close()

    wait_for(lambda: server.commands[-1] is Command.DISC, "the goodbye is heard")
    assert set(server.commands) == {Command.READ, Command.DISC}


def test_letting_go_flushes_then_disconnects_and_writes_no_more(fake: Fake) -> None:
    server = fake()
    image = opened(server.uri)
    image.writev(0, [b"x"])
    server.commands.clear()

    image.inactivate()
    image.inactivate()
    image.close()

    wait_for(lambda: Command.DISC in server.commands, "the goodbye is heard")
    assert server.commands == [Command.FLUSH, Command.DISC]


def test_activation_sees_the_size_as_it_is_then(fake: Fake) -> None:
    server = fake()
    image = opened(server.uri, active=False)
    server.disk += bytes(4096)

    image.activate()

    assert image.size == len(server.disk)


def test_a_closed_export_refuses_everything(fake: Fake) -> None:
    image = opened(fake().uri)
    image.close()
    image.close()
    with refused(ImageErrorKind.INACTIVE, "is closed"):
        read(image, 0, 1)


def test_a_failed_flush_leaves_the_export_active(fake: Fake) -> None:
    server = fake(says=lambda command, cookie, *_: simple(cookie, errno.ENOSPC) if command is Command.FLUSH else None)
    image = opened(server.uri)

    with refused(ImageErrorKind.IO, "flushing failed: No space left on device") as _:
        image.inactivate()
    assert image.active
    server.says = lambda *_: None
    image.inactivate()


def test_what_is_exported_read_only_is_not_opened_to_write(fake: Fake) -> None:
    server = fake(flags=ALL | Export.READ_ONLY)
    with refused(ImageErrorKind.READ_ONLY, "is exported read-only, give the drive readonly"):
        opened(server.uri)
    image = opened(server.uri, read_only=True)
    with refused(ImageErrorKind.READ_ONLY, "is read-only, refused to write"):
        image.writev(0, [b"x"])


def test_an_export_that_can_be_written_warns_that_nothing_locks_it(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    server = fake()
    opened(server.uri, read_only=True).close()
    assert not caplog.messages
    opened(server.uri).close()
    assert "NBD has no locks" in caplog.text


# A server that goes away


def test_a_lost_server_fails_what_is_under_way_and_the_next_request_connects_again(fake: Fake) -> None:
    server = fake(says=lambda command, *_: server.hang_up() or b"" if command is Command.READ else None)
    image = opened(server.uri)

    with refused(ImageErrorKind.IO, "reading 4 bytes at 0x0 failed: the NBD server hung up"):
        read(image, 0, 4)
    server.says = lambda *_: None

    assert read(image, 0, 4) == bytes(4)
    image.writev(0, [b"x"])
    image.flush()


def test_a_server_that_went_away_between_requests_is_not_noticed(fake: Fake) -> None:
    server = fake()
    image = opened(server.uri)
    image.writev(0, [b"data"])
    image.flush()

    server.hang_up()

    assert read(image, 0, 4) == b"data"
    image.inactivate()


def test_a_server_that_took_unflushed_writes_with_it_fails_every_flush_from_then_on(fake: Fake) -> None:
    server = fake()
    image = opened(server.uri)
    image.writev(0, [b"data"])
    server.hang_up()
    assert read(image, 0, 4) == b"data"

    for _ in range(2):
        with refused(ImageErrorKind.IO, "lost its server, and with it maybe writes that had not been flushed"):
            image.flush()
    with refused(ImageErrorKind.IO, "lost its server"):
        image.inactivate()


def test_a_server_that_comes_back_with_another_size_is_refused(fake: Fake) -> None:
    server = fake()
    image = opened(server.uri)
    server.disk += bytes(512)
    server.hang_up()
    with refused(ImageErrorKind.IO, "has 66048 bytes since its server came back, had 65536"):
        read(image, 0, 4)


def test_no_server_is_told_with_its_reason(tmp_path: Path) -> None:
    with refused(ImageErrorKind.IO, r"cannot be opened: the NBD server cannot be reached: No such file"):
        opened(f"nbd:unix:{tmp_path / 'none'}")


@needs_qemu_nbd
def test_an_unknown_export_is_told_in_the_servers_words(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(512))
    with (
        qemu_nbd(tmp_path / "disk", tmp_path / "nbd"),
        refused(ImageErrorKind.MISSING, r"no such export \(export 'x' not present"),
    ):
        opened(f"nbd:unix:{tmp_path / 'nbd'}:exportname=x")


# Several at once


def test_requests_of_several_threads_are_under_way_at_once_and_answered_in_any_order(fake: Fake) -> None:
    waiting: list[tuple[int, int, int]] = []
    server = fake()

    def answer_four_backwards(command: Command, cookie: int, offset: int, length: int) -> bytes | None:
        if command is not Command.READ:
            return None
        waiting.append((cookie, offset, length))
        if len(waiting) < 4:
            return b""
        halves = []
        for its_cookie, its_offset, its_length in reversed(waiting):  # the second half of each first
            middle = its_offset + its_length // 2
            for start, end, done in ((middle, its_offset + its_length, False), (its_offset, middle, True)):
                data = start.to_bytes(8, "big") + server.disk[start:end]
                halves.append(chunk(its_cookie, 1, data, done=done))
        return b"".join(halves[0::2] + halves[1::2])

    server.disk[:] = random.Random(SEED).randbytes(len(server.disk))
    server.says = answer_four_backwards
    image = opened(server.uri)
    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda at=at: found.__setitem__(at, read(image, at, 1024)))  # type: ignore[misc]  # bound now
        for at in range(0, 4096, 1024)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert found == {at: bytes(server.disk[at : at + 1024]) for at in range(0, 4096, 1024)}


def test_a_silent_server_fails_every_thread_that_waits(fake: Fake) -> None:
    server = fake(says=lambda *_: b"")
    storage = NbdExport(server.uri, read_only=True, patience=0.5)
    errors: list[str] = []

    def try_read() -> None:
        try:
            storage.readv(0, [bytearray(4)])
        except ImageError as exc:
            errors.append(str(exc))

    threads = [threading.Thread(target=try_read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(errors) == 4
    assert all("answer" in error or "hung up" in error for error in errors), errors


def test_requests_that_come_together_wait_for_a_server_that_does_not_come_back_once(fake: Fake) -> None:
    calls, asked, go = [0], threading.Semaphore(0), threading.Event()

    def greets(_peer: socket.socket) -> bool:
        calls[0] += 1
        if calls[0] > 1:
            go.wait(30)  # then it hangs up, without a word
        return calls[0] > 1

    def now() -> float:
        asked.release()
        return time.monotonic()

    server = fake(greets=greets)
    storage = NbdExport(server.uri, read_only=True, now=now)
    server.hang_up()
    while asked.acquire(blocking=False):
        pass
    errors: list[str] = []

    def try_read() -> None:
        try:
            storage.readv(0, [bytearray(4)])
        except ImageError as exc:
            errors.append(str(exc))

    threads = [threading.Thread(target=try_read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert asked.acquire(timeout=30)
    go.set()
    for thread in threads:
        thread.join(30)

    assert len(errors) == 3
    assert sum("another request just tried" in error for error in errors) == 2
    assert calls[0] == 2
