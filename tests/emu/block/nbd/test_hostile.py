"""A server that says anything: one line of an error, in bounded time and memory, and never a byte where it does not belong."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.block.nbd import wire
from emu.block.nbd.export import NbdExport
from emu.block.nbd.wire import Chunk, Option, OptionReply, ServerLostError, Wire
from emu.errors import EmuError, ImageError
from tests.emu.block.nbd.server import FakeServer, at, chunk, option_reply, simple

Fake = Callable[..., FakeServer]

LENGTH = 512
PATIENCE = 30.0  # seconds; only a hang takes so long
LITTLE_PATIENCE = 0.5  # with a server that is silent; a busy host answers within


def patience(told: str) -> float:
    """Seconds to wait for what is told then."""
    return LITTLE_PATIENCE if told == "does not answer" else PATIENCE


ANSWERS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "no magic": (lambda _: bytes(16), "begins a reply with 0x00000000"),
    "another request's": (lambda cookie: simple(cookie + 1), "which is not under way"),
    "a simple one": (lambda cookie: simple(cookie) + bytes(LENGTH), "answers a read with a simple reply"),
    "data before": (lambda cookie: chunk(cookie, 1, at(0) + bytes(LENGTH)), "with 512 bytes at 0x0"),
    "data behind": (lambda cookie: chunk(cookie, 1, at(4097) + bytes(LENGTH)), "with 512 bytes at 0x1001"),
    "data far off": (lambda cookie: chunk(cookie, 1, at((1 << 64) - 1) + b"x"), "with 1 bytes at 0xffffffffffffffff"),
    "too much": (lambda cookie: chunk(cookie, 1, at(4096) + bytes(LENGTH + 1)), "with 513 bytes at 0x1000"),
    "too much to be sent": (
        lambda cookie: wire.STRUCTURED_HEAD.pack(wire.STRUCTURED_REPLY, 1, 1, cookie, (1 << 32) - 1) + at(4096),
        "with 4294967287 bytes at 0x1000",
    ),
    "twice": (lambda cookie: chunk(cookie, 1, at(4096) + bytes(400), done=False) * 2, "with 400 bytes at 0x1000"),
    "no data": (lambda cookie: chunk(cookie, 1, at(4096), done=False) * 9, "sends a data chunk of 8 bytes"),
    "too little": (lambda cookie: chunk(cookie, 1, at(4096) + bytes(500)), "12 bytes short"),
    "nothing": (lambda cookie: chunk(cookie, 0), "512 bytes short"),
    "nothing, for ever": (lambda cookie: chunk(cookie, 0, done=False) * 99, "an empty chunk that is not the last"),
    "nothing, at length": (lambda cookie: chunk(cookie, 0, b"x"), "sends an empty chunk of 1 bytes"),
    "a large hole": (lambda cookie: chunk(cookie, 2, at(4096) + b"\xff" * 4), "with 4294967295 bytes at 0x1000"),
    "a strange hole": (lambda cookie: chunk(cookie, 2, at(4096)), "sends a hole chunk of 8 bytes"),
    "an unknown chunk": (lambda cookie: chunk(cookie, 77), "sends a chunk of type 0x4d"),
    "errors for ever": (
        lambda cookie: chunk(cookie, Chunk.ERROR, struct.pack(">IH", 5, 0), done=False) * 99,
        "sends error chunk 17 of a request",
    ),
    "a short error": (lambda cookie: chunk(cookie, Chunk.ERROR, b"xxx"), "sends error chunk 1 of a request, of 3 bytes"),
    "a long error": (
        lambda cookie: wire.STRUCTURED_HEAD.pack(wire.STRUCTURED_REPLY, 1, Chunk.ERROR, cookie, 1 << 31),
        "of 2147483648 bytes",
    ),
    "an error with words": (
        lambda cookie: chunk(cookie, Chunk.ERROR, struct.pack(">IH", 28, 9) + b"it\n\x1b[31m!behind"),
        r"failed: No space left on device \(it\[31m!\)",
    ),
    "an error from the future": (lambda cookie: chunk(cookie, 0x8077, struct.pack(">IH", 12345, 0)), "Invalid argument"),
    "silence": (lambda _: b"", "does not answer"),
    "half an answer": (lambda cookie: chunk(cookie, 1, at(4096) + bytes(LENGTH))[:100], "does not answer"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_does_not_fit_is_told_and_writes_nowhere_else(name: str, fake: Fake) -> None:
    answer, told = ANSWERS[name]
    server = fake(says=lambda _command, cookie, _offset, _length: answer(cookie))
    storage = NbdExport(server.uri, read_only=True, patience=patience(told))
    memory = bytearray(b"\xee" * 3 * LENGTH)

    with pytest.raises(ImageError, match=told) as caught:
        storage.readv(4096, [memoryview(memory)[LENGTH : 2 * LENGTH]])

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert memory[:LENGTH] == memory[2 * LENGTH :] == b"\xee" * LENGTH


def greeting(style: int = wire.NEW_STYLE, flags: int = 1) -> bytes:
    return struct.pack(">QQH", wire.GREETING, style, flags)


def offer(size: int, minimum: int = 1, largest: int = 1 << 20) -> bytes:
    about = option_reply(Option.GO, OptionReply.INFO, struct.pack(">HQH", 0, size, 1))
    return about + option_reply(Option.GO, OptionReply.INFO, struct.pack(">HIII", 3, minimum, 4096, largest))


ACCEPTED = greeting() + option_reply(Option.STRUCTURED_REPLY, OptionReply.ACK)
GO = option_reply(Option.GO, OptionReply.ACK)

GREETINGS: dict[str, tuple[bytes, str]] = {
    "a web server": (b"HTTP/1.0 400 Bad Request\r\n\r\n", "is none: it greets with"),
    "old style": (greeting(wire.OLD_STYLE), "is too old"),
    "not fixed": (greeting(flags=0), "is too old: it does not know fixed newstyle"),
    "another option": (greeting() + option_reply(99, OptionReply.ACK), "for option 99"),
    "a long answer": (
        greeting() + wire.OPTION_REPLY_HEAD.pack(wire.OPTION_REPLY, 8, 3, 1 << 31),
        "2147483648 bytes, at most 8192",
    ),
    "answers for ever": (greeting() + option_reply(8, OptionReply.INFO) * 99, "more than 32 times"),
    "an unknown answer": (greeting() + option_reply(8, 77), "reply type 77"),
    "no export": (ACCEPTED + GO, "tells of its export in 0 bytes, must be 10"),
    "too large": (ACCEPTED + offer(1 << 63) + GO, "has an export of 9223372036854775808 bytes"),
    "half a block": (ACCEPTED + offer(513, 512) + GO, "has an export of 513 bytes, must be blocks of 512"),
    "blocks of nothing": (ACCEPTED + offer(512, 0) + GO, "smallest block of 0 bytes"),
    "odd blocks": (ACCEPTED + offer(512, 513) + GO, "smallest block of 513 bytes"),
    "huge blocks": (ACCEPTED + offer(512, 1 << 31) + GO, "smallest block of 2147483648 bytes"),
    "no room for a block": (ACCEPTED + offer(512, 512, 511) + GO, "largest block of 511 bytes, the smallest has 512"),
    "wants TLS": (
        ACCEPTED + option_reply(Option.GO, OptionReply.ERROR + 5, b"\x1b!"),
        r"wants TLS, which is not supported \(!\)",
    ),
    "refuses": (ACCEPTED + option_reply(Option.GO, OptionReply.ERROR + 99), "refuses with error 99"),
    "no answer": (b"", "does not answer"),
}


def talk(text: bytes) -> Callable[[socket.socket], bool]:
    """Say this, whatever the client says, until it goes."""

    def greets(peer: socket.socket) -> bool:
        peer.sendall(text)
        while peer.recv(1 << 16):
            pass
        return True

    return greets


@pytest.mark.parametrize("name", GREETINGS)
def test_a_greeting_that_does_not_fit_is_told(name: str, fake: Fake) -> None:
    text, told = GREETINGS[name]
    with pytest.raises(ImageError, match=told) as caught:
        NbdExport(fake(greets=talk(text)).uri, read_only=True, patience=patience(told))
    assert "\n" not in str(caught.value)


PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        chunk, st.integers(0, 3), st.sampled_from([0, 1, 2, 5, 0x8001, 0x8002]), st.binary(max_size=30), done=st.booleans()
    ),
    st.builds(simple, st.integers(0, 3), st.integers(0, 200)),
    st.builds(option_reply, st.sampled_from([7, 8]), st.sampled_from([1, 3, 1 << 31]), st.binary(max_size=20)),
)


@given(negotiated=st.booleans(), said=st.lists(PIECES, max_size=8).map(b"".join))
def test_whatever_a_server_says_ends_in_one_line(
    negotiated: bool, said: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def greets(peer: socket.socket) -> bool:
        peer.sendall((ACCEPTED + offer(1 << 16) + GO if negotiated else greeting()) + said)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(1 << 16):
            pass
        return True

    server = FakeServer(tmp_path_factory.mktemp("nbd") / "fake", greets=greets)
    try:
        storage = NbdExport(server.uri, read_only=True, patience=PATIENCE)
        storage.readv(0, [bytearray(64)])
    except EmuError as exc:
        assert "\n" not in str(exc)
    finally:
        server.close()


def test_an_answer_that_trickles_in_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x")
        with pytest.raises(ServerLostError, match="takes too long to answer"):
            Wire(ours, 5).receive(2, time.monotonic() - 1)


def test_a_server_that_takes_nothing_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ServerLostError, match="takes nothing more"):
        Wire(ours, LITTLE_PATIENCE).send([bytes(8 << 20)])
